//! A real image registry, for the workers to pull from.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{image::Image, netns::Netns, process::Process};

/// Debian's package `docker-registry`.
const PROGRAM: &str = "/usr/bin/docker-registry";

/// A registry without passwords or TLS; its images are gone when it is dropped with its folder.
#[derive(Debug)]
pub struct Registry {
    process: Process,
    address: SocketAddr,
}

impl Registry {
    /// Starts it in `netns`, with everything it keeps below `folder`.
    ///
    /// # Errors
    /// If it is not installed, or does not listen within a few seconds.
    pub fn start(netns: &Netns, address: (Ipv4Addr, u16), folder: &Path) -> Result<Self> {
        let address = SocketAddr::from(address);
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let config = folder.join("config.yml");
        let storage = folder.join("images");
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: '{address}'}}\n\
             storage: {{filesystem: {{rootdirectory: '{}'}}}}\n",
            storage.display()
        );
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;

        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(&config);
        let log = folder.join("registry.log");
        let mut process = Process::start("registry", command, Some(netns), &log)
            .context("`cargo xtask setup` installs it")?;
        let limit = Duration::from_secs(10);
        process.wait_ready(limit, || {
            netns.run(|| TcpStream::connect(address)).context("it does not listen").map(drop)
        })?;
        Ok(Self { process, address })
    }

    /// Pushes `image` and returns the reference by which a worker pulls it.
    ///
    /// # Errors
    /// If the registry refuses.
    pub fn add(&self, netns: &Netns, name: &str, tag: &str, image: &Image) -> Result<String> {
        let registry = self.address.to_string();
        netns.run(|| image.push(&registry, name, tag))?;
        Ok(format!("{registry}/{name}:{tag}"))
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Registry {
    /// It has no orderly way to end.
    fn drop(&mut self) {
        if let Err(error) = self.process.kill() {
            eprintln!("{error:#}");
        }
    }
}

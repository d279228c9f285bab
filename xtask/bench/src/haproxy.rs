//! HAProxy in TCP mode on the client's host: two connections for each, and the bytes copied
//! between them. It has no UDP.

use std::{fmt::Write, fs, net::Ipv4Addr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;
use xylem_tests::{link, load::connect_once, netns::Netns, process::Process};

use crate::{
    contender::Contender,
    hosts::Hosts,
    kube::{self, Protocol},
    measure,
    metric::Place,
    tool::{LEAVE_OUT, Tool},
};

const HAPROXY: Tool = Tool { program: "haproxy", package: "haproxy", otherwise: LEAVE_OUT };
const START_LIMIT: Duration = Duration::from_secs(10);

/// Listeners of services beside the measured ones are at ports from here on, at the address of a
/// measured one.
const FILLERS_PORT: u16 = 20_000;

/// Fields are dropped in order: the process before what it runs in.
#[derive(Debug)]
pub(crate) struct Haproxy {
    process: Process,
    folder: TempDir,
    hosts: Hosts,
}

impl Haproxy {
    pub(crate) fn start(prefix: &str) -> Result<Self> {
        HAPROXY.find()?;
        let hosts = Hosts::routed(prefix)?;
        let host = hosts.first();
        for place in Place::ALL {
            let address: Ipv4Addr = kube::service_ip(place);
            host.netlink(async |n| link::bring_up(&n, "lo", address, 32).await)?;
        }
        let folder = tempfile::Builder::new()
            .prefix(&format!("{prefix}-"))
            .tempdir()
            .context("no temporary folder")?;
        let process = start(host, folder.path(), 0)?;
        Ok(Self { process, folder, hosts })
    }
}

/// The program, with so many services beside the measured ones.
fn start(host: &Netns, folder: &Path, fillers: u32) -> Result<Process> {
    let file = folder.join("haproxy.cfg");
    fs::write(&file, config(fillers))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Command::new(HAPROXY.find()?);
    // In the foreground.
    command.arg("-db").arg("-f").arg(&file);
    let mut process = Process::start("haproxy", command, Some(host), &folder.join("haproxy.log"))?;
    process.wait_ready(START_LIMIT, || {
        Ok(host.run(|| connect_once(kube::service_ip(Place::Same)))?)
    })?;
    Ok(process)
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        // In the foreground it dies of SIGTERM as well, which is no orderly end either.
        if let Err(error) = self.process.kill() {
            eprintln!("{error:#}");
        }
    }
}

impl Contender for Haproxy {
    fn path(&self, place: Place) -> measure::Path<'_> {
        self.hosts.path_to(kube::service_ip(place))
    }

    fn fill(&mut self, count: u32) -> Result<()> {
        self.process.kill()?;
        self.process = start(self.hosts.first(), self.folder.path(), count)?;
        Ok(())
    }
}

fn config(fillers: u32) -> String {
    let mut text = String::from(
        "global
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
",
    );
    for service in kube::measured().iter().filter(|service| service.protocol == Protocol::Tcp) {
        let _ = writeln!(
            text,
            "listen {id}\n    bind {}:{port}\n    server one {}:{port}",
            service.service_ip,
            service.endpoint,
            id = service.id,
            port = service.port,
        );
    }
    let address = kube::service_ip(Place::Same);
    for (index, port) in (0..fillers).zip(FILLERS_PORT..) {
        let filler = kube::filler(index);
        let _ = writeln!(
            text,
            "listen {}\n    bind {address}:{port}\n    server one {}:{}",
            filler.id, filler.endpoint, filler.port
        );
    }
    text
}

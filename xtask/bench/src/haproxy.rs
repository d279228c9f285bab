//! HAProxy in TCP mode on the client's host: two connections for each, and the bytes copied
//! between them. It has no UDP.

use std::{fmt::Write, fs, net::Ipv4Addr, process::Command, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;
use xylem_tests::{link, load::connect_once, process::Process};

use crate::{
    contender::Contender,
    hosts::Hosts,
    kube::{self, Protocol},
    measure::Path,
    metric::Place,
    tool::Tool,
};

const HAPROXY: Tool = Tool { program: "haproxy", package: "haproxy" };
const START_LIMIT: Duration = Duration::from_secs(10);

/// Fields are dropped in order: the process before what it runs in.
#[derive(Debug)]
pub(crate) struct Haproxy {
    process: Process,
    _folder: TempDir,
    hosts: Hosts,
}

impl Haproxy {
    pub(crate) fn start(prefix: &str) -> Result<Self> {
        let program = HAPROXY.find()?;
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
        let file = folder.path().join("haproxy.cfg");
        fs::write(&file, config()).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = Command::new(program);
        // In the foreground.
        command.arg("-db").arg("-f").arg(&file);
        let log = folder.path().join("haproxy.log");
        let mut process = Process::start("haproxy", command, Some(host), &log)?;
        process.wait_ready(START_LIMIT, || {
            Ok(host.run(|| connect_once(kube::service_ip(Place::Same)))?)
        })?;
        Ok(Self { process, _folder: folder, hosts })
    }
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
    fn path(&self, place: Place) -> Path<'_> {
        self.hosts.path_to(kube::service_ip(place))
    }
}

fn config() -> String {
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
    text
}

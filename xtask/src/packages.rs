//! Debian packages that the developer commands need.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};

use crate::command::{output, run};

/// A package and the reason that is told when it is installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
    /// A service that the package would start at every boot, and that nobody here asked for.
    pub(crate) service: Option<&'static str>,
}

const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why, service: None }
}

/// The compiler for the kernel programs; only where no other fits.
pub(crate) const BPF_COMPILER: [Package; 3] = [
    package("rustc-web", "compiles the kernel programs"),
    package("cargo-web", "drives that compiler"),
    package("rust-web-src", "sources of `core`, built for the BPF target"),
];

/// For `ci` only, and only with that compiler.
pub(crate) const BPF_CLIPPY: Package = package("rust-web-clippy", "lints the kernel programs");

/// What demo and tests run or link with.
pub(crate) const TOOLS: [Package; 3] = [
    Package {
        name: "docker-registry",
        why: "the registry that workers of tests and demo pull from",
        service: Some("docker-registry.service"),
    },
    package("libc6-dev", "static libc, for the image of the demo application"),
    package("iproute2", "`ip`, with which tests look at what was made by netlink"),
];

/// For `bench` only: what it measures Xylem beside.
pub(crate) const CONTENDERS: [Package; 3] = [
    package("iptables", "measured by bench: translation as kube-proxy does it"),
    package("nftables", "measured by bench: translation as kube-proxy does it now"),
    Package {
        name: "haproxy",
        why: "measured by bench: a proxy in user space",
        service: Some("haproxy.service"),
    },
];

/// Installs those of `wanted` that are missing.
pub(crate) fn ensure(wanted: &[Package]) -> Result<()> {
    let missing = missing(wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    for package in &missing {
        eprintln!("setup: installing {}: {}", package.name, package.why);
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    let by_hand =
        format!("apt-get update && apt-get install --no-install-recommends {}", names.join(" "));
    if !nix::unistd::geteuid().is_root() {
        bail!("installing packages needs root; run this command as root, or first: {by_hand}");
    }
    run(&mut apt_get(&["update", "-qq"]))
        .context("the package lists could not be fetched; check the network and the sources")?;
    // Never at the price of removing what someone else installed.
    let mut install = apt_get(&["install", "-y", "-qq", "--no-install-recommends", "--no-remove"]);
    run(install.args(&names)).with_context(|| {
        format!("the packages could not be installed; see what apt says to: {by_hand}")
    })?;
    missing.iter().filter_map(|package| package.service).try_for_each(disable)
}

/// Where there is no systemd, `RUNLEVEL=1` has done all there is to do.
fn disable(service: &str) -> Result<()> {
    let systemctl = Path::new("/usr/bin/systemctl");
    if !systemctl.exists() {
        return Ok(());
    }
    run(Command::new(systemctl).args(["--quiet", "disable", service]))
}

fn missing(wanted: &[Package]) -> Result<Vec<Package>> {
    if !Path::new("/usr/bin/dpkg-query").exists() || !Path::new("/usr/bin/apt-get").exists() {
        let names: Vec<_> = wanted.iter().map(|p| format!("{} ({})", p.name, p.why)).collect();
        bail!(
            "this is not a Debian system; Debian 12 is what setup knows. Needed are the \
             equivalents of: {}",
            names.join(", ")
        );
    }
    let mut query = Command::new("/usr/bin/dpkg-query");
    query.args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"]);
    let installed = output(&mut query)?;
    let is_there = |package: &Package| {
        installed.lines().any(|line| line.split_once(' ') == Some((package.name, "installed")))
    };
    Ok(wanted.iter().copied().filter(|package| !is_there(package)).collect())
}

/// `RUNLEVEL=1` keeps packages from starting services at installation.
fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/apt-get");
    command.arg("-oDpkg::Use-Pty=0");
    command.env("RUNLEVEL", "1").env("DEBIAN_FRONTEND", "noninteractive").args(arguments);
    command
}

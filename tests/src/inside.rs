//! Inside of a running instance's network namespace.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    panic, thread,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// The network namespace of an instance, kept by its descriptor: it can be entered while the
/// descriptor is open, also when the instance has ended.
#[derive(Debug)]
pub struct Inside {
    file: File,
    pid: u32,
}

impl Inside {
    /// The namespace in which a process of this worker has `address`, an instance's namespace IP.
    /// The worker is known by its control group: another platform on this machine may have the
    /// address as well.
    ///
    /// # Errors
    /// If no process of the worker has it.
    pub fn of_worker(cgroup_parent: &str, address: Ipv4Addr) -> Result<Self> {
        for entry in fs::read_dir("/proc").context("cannot read /proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // Processes end while we look; those are not the ones.
            if is_below(pid, cgroup_parent) && owns(pid, address) {
                let path = format!("/proc/{pid}/ns/net");
                let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
                return Ok(Self { file, pid });
            }
        }
        anyhow::bail!("no process in the control group {cgroup_parent} has the address {address}")
    }

    /// A process of the instance.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. Threads that `work` starts
    /// are inside as well.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("the suites run as root");
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    }

    /// A number of `/proc/net/snmp` as the instance sees it, e.g. `Tcp` `RetransSegs`.
    ///
    /// # Errors
    /// If the kernel counts no such thing.
    pub fn snmp(&self, group: &str, name: &str) -> Result<u64> {
        let text = self.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
        let (names, values) = lines.next().zip(lines.next()).context("no such group")?;
        names
            .split_whitespace()
            .zip(values.split_whitespace())
            .find(|(known, _)| *known == name)
            .with_context(|| format!("no {name} in {names}"))?
            .1
            .parse()
            .with_context(|| format!("{name} is no number"))
    }
}

/// Whether a process is in a control group below one called `parent`, in any hierarchy.
fn is_below(pid: u32, parent: &str) -> bool {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    groups.lines().any(|group| group.split('/').any(|name| name == parent))
}

/// Whether `address` is one of the addresses in the network namespace of `pid`.
fn owns(pid: u32, address: Ipv4Addr) -> bool {
    let Ok(routes) = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")) else { return false };
    let leaf = format!("|-- {address}");
    let mut lines = routes.lines().map(str::trim);
    lines.any(|line| line == leaf) && lines.next().is_some_and(|line| line == "/32 host LOCAL")
}

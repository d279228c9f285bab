//! What there is, as far as it can be found; what it means is for [`super::checks`].

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use net_common::{Config, LAYOUT_VERSION};
use net_maps::{
    MapUsage, OpenError, PinnedMaps, PinnedProgram, layout_dir, other_layouts, pinned_programs,
};
use net_probe::{Kernel, Link};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::{
        resource::{Resource, getrlimit},
        statfs::{BPF_FS_MAGIC, statfs},
    },
};

/// Bits of a capability set, from `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// Name of the pin by which the net manager keeps the socket path on, in the layout's folder.
const SOCKET_LINK: &str = "socket_state";

#[derive(Debug)]
pub(super) struct Facts {
    pub(super) kernel: Kernel,
    pub(super) may_bpf: bool,
    pub(super) may_net_admin: bool,
    /// Whether the root of the pins, or where it will be, lies on a BPF file system.
    pub(super) is_bpffs: bool,
    pub(super) root: PathBuf,
    /// Where the unified hierarchy of control groups is.
    pub(super) cgroup2: Option<PathBuf>,
    /// Most bytes that may be locked; absent without a limit.
    pub(super) memlock: Option<u64>,
    pub(super) data_path: DataPath,
    /// Whether a net manager holds the root; absent if that cannot be told.
    pub(super) is_managed: Option<bool>,
    pub(super) programs: Vec<PinnedProgram>,
    /// Whether programs run as machine code (`net.core.bpf_jit_enable`); absent if that cannot be
    /// read.
    pub(super) compiles: Option<bool>,
    /// Whether the kernel counts the run time of programs (`kernel.bpf_stats_enabled`); absent if
    /// that cannot be read.
    pub(super) counts_run_time: Option<bool>,
    /// Whether sockets of instances of this node are joined.
    pub(super) is_socket_path_on: bool,
}

/// What is pinned.
#[derive(Debug)]
pub(super) enum DataPath {
    Absent,
    /// Of other layouts only.
    OtherLayout(u32),
    /// It cannot be read: why.
    Unreadable(String),
    Here(Box<Pinned>),
}

#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) config: Config,
    /// The interface that is configured, or why it cannot be looked at.
    pub(super) uplink: Result<Link, String>,
    pub(super) usage: Vec<MapUsage>,
    /// Interfaces of instances; the index of one that is not in this network namespace.
    pub(super) instances: Vec<Result<Port, u32>>,
    /// Other layouts that are pinned beside this one.
    pub(super) others: Vec<u32>,
}

/// The host end of an instance's veth pair.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) name: String,
    /// It is a port of the bridge that gives it headroom.
    pub(super) has_room: bool,
}

impl Facts {
    pub(super) fn gather(root: &Path) -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let has = |capability| has_capability(&status, capability);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Self {
            kernel: Kernel::probe(),
            may_bpf: has(CAP_BPF) || has(CAP_SYS_ADMIN),
            may_net_admin: has(CAP_NET_ADMIN),
            is_bpffs: is_bpffs(root),
            root: root.into(),
            cgroup2: cgroup2(&mounts),
            memlock: memlock(),
            data_path: data_path(root),
            is_managed: is_managed(root),
            programs: pinned_programs(root).unwrap_or_default(),
            compiles: is_on("/proc/sys/net/core/bpf_jit_enable"),
            counts_run_time: is_on("/proc/sys/kernel/bpf_stats_enabled"),
            is_socket_path_on: layout_dir(root).join(SOCKET_LINK).exists(),
        }
    }
}

fn data_path(root: &Path) -> DataPath {
    let maps = match PinnedMaps::open(root) {
        Ok(maps) => maps,
        Err(OpenError::NothingThere { .. }) => return DataPath::Absent,
        Err(OpenError::OtherLayout { found, .. }) => return DataPath::OtherLayout(found),
        Err(error) => return DataPath::Unreadable(chain(&error)),
    };
    let read = || {
        let config = maps.config()?;
        let uplink = Link::probe(config.uplink_ifindex).map_err(|error| chain(&error));
        let mut indices: Vec<_> =
            maps.endpoints()?.iter().map(|(_, endpoint)| endpoint.ifindex).collect();
        indices.sort_unstable();
        indices.dedup();
        let instances = indices.into_iter().map(|index| {
            let link = Link::probe(index).map_err(|_| index)?;
            Ok(Port { has_room: link.controller.is_some(), name: link.name })
        });
        Ok::<_, net_maps::MapsError>(Pinned {
            config,
            uplink,
            usage: maps.usage()?,
            instances: instances.collect(),
            others: other_layouts(root).unwrap_or_default(),
        })
    };
    match read() {
        Ok(pinned) => DataPath::Here(Box::new(pinned)),
        Err(error) => DataPath::Unreadable(chain(&error)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// The net manager holds a lock on the root as long as it lives. One that starts just now waits
/// for the moment in which this asks.
fn is_managed(root: &Path) -> Option<bool> {
    let folder = File::open(root).ok()?;
    match Flock::lock(folder, FlockArg::LockSharedNonblock) {
        Ok(_) => Some(false),
        Err((_, Errno::EWOULDBLOCK)) => Some(true),
        Err(_) => None,
    }
}

fn is_bpffs(root: &Path) -> bool {
    let nearest = root.ancestors().find(|path| path.exists());
    nearest
        .and_then(|path| statfs(path).ok())
        .is_some_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Whether a setting is another than 0.
fn is_on(sysctl: &str) -> Option<bool> {
    Some(fs::read_to_string(sysctl).ok()?.trim() != "0")
}

fn memlock() -> Option<u64> {
    // RLIM_INFINITY is all ones.
    getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft).filter(|soft| *soft != u64::MAX)
}

/// From `/proc/self/status`.
fn has_capability(status: &str, capability: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set & 1 << capability != 0)
}

/// From `/proc/self/mounts`.
fn cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (path, kind) = (fields.nth(1)?, fields.next()?);
        (kind == "cgroup2").then(|| path.into())
    })
}

/// The layout that this program reads.
pub(super) const LAYOUT: u32 = LAYOUT_VERSION;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "Name:\txylem\nCapPrm:\t000001ffffffffff\nCapEff:\t0000008000001000\n";
        assert!(has_capability(status, CAP_BPF) && has_capability(status, CAP_NET_ADMIN));
        assert!(!has_capability(status, CAP_SYS_ADMIN) && !has_capability("", CAP_BPF));
    }

    #[test]
    fn the_unified_hierarchy_is_found_beside_the_old_ones() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2("proc /proc proc rw 0 0\n"), None);
    }
}

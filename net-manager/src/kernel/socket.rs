//! The same-node socket path: its programs are loaded and attached only where it is asked for.
//!
//! Like the rest of the data path it goes on while no net manager runs: its maps and the link to
//! the cgroup are pinned, and the program of a map of sockets stays with the map.

use std::{
    collections::HashSet,
    fs::{self, File},
    io, mem,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, MapError, SockHash},
    programs::{
        CgroupAttachMode, ProgramError, SkMsg, SockOps,
        links::{FdLink, PinnedLink},
    },
};
use net_common::{Joined, SocketKey, SocketLayout};

use tracing::warn;

use super::{bpf::DataPath, netns::InstanceNamespace};
use crate::{
    chain::Chain,
    config::SocketPath,
    core::btf::{Btf, BtfError},
};

/// Name of the pinned link, below the layout's folder and not with those of interfaces.
const LINK: &str = "socket_state";

const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Why sockets are not joined.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("the kernel does not tell where the fields of its sockets are ({KERNEL_TYPES})")]
    NoTypes(#[source] io::Error),
    #[error(transparent)]
    Types(#[from] BtfError),
    #[error("cannot read the mounts of this process")]
    Mounts(#[source] io::Error),
    #[error("no cgroup v2 hierarchy is mounted: mount one, for instance at /sys/fs/cgroup/unified")]
    NoCgroup,
    #[error("cannot open the cgroup {}", path.display())]
    Cgroup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no file descriptor is left")]
    Handle(#[source] io::Error),
    #[error("the object has no {0}")]
    Missing(&'static str),
    #[error("the kernel refused the program {program}, or to attach it")]
    Refused {
        program: &'static str,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("cannot write the map `{map}`")]
    Map {
        map: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error("cannot pin the link {}", path.display())]
    Pin {
        path: PathBuf,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Turns the path on or off, as the settings say. A node that cannot do it goes on without.
pub fn start(data_path: &mut DataPath, wanted: SocketPath, attached: &HashSet<u32>) {
    let kept = data_path.keep_namespaces(|ifindex| attached.contains(&ifindex));
    let done = kept.and_then(|()| match wanted {
        SocketPath::On => data_path.join_sockets(),
        SocketPath::Off => data_path.part_sockets(),
    });
    if let Err(error) = done {
        warn!(error = %Chain(&error), "sockets of this node's instances are not joined");
    }
}

/// Cookie of the network namespace of a process: unlike its inode number, no other namespace ever
/// has it again. None where the kernel does not tell it, or the process is gone.
pub async fn namespace_of(pid: i32) -> Option<u64> {
    match InstanceNamespace::of(pid) {
        Ok(namespace) => namespace.cookie().await.ok(),
        Err(_) => None,
    }
}

impl DataPath {
    /// Joins the sockets of connections that are opened from now on.
    ///
    /// # Errors
    /// The kernel lacks something, or refuses; nothing is joined then.
    pub fn join_sockets(&mut self) -> Result<(), SocketError> {
        let layout = read_layout()?;
        let (path, cgroup) = cgroup_root()?;
        let link_path = self.dir().join(LINK);
        let ebpf = self.ebpf();

        let message: &mut SkMsg = program(ebpf, "socket_message")?;
        message.load().map_err(refused("socket_message"))?;
        let state: &mut SockOps = program(ebpf, "socket_state")?;
        state.load().map_err(refused("socket_state"))?;

        let sockets: SockHash<&MapData, SocketKey> = ebpf
            .map("sockets")
            .ok_or(SocketError::Missing("map `sockets`"))?
            .try_into()
            .map_err(map_error("sockets"))?;
        let sockets = sockets.fd().try_clone().map_err(SocketError::Handle)?;
        let message: &mut SkMsg = program(ebpf, "socket_message")?;
        let id = message.attach(&sockets).map_err(refused("socket_message"))?;
        // To drop the link would take the program off the map, which outlives this process.
        mem::forget(message.take_link(id).map_err(refused("socket_message"))?);

        let map = ebpf.map_mut("socket_layout").ok_or(SocketError::Missing("map of the layout"))?;
        let mut map: Array<_, SocketLayout> = map.try_into().map_err(map_error("socket_layout"))?;
        map.set(0, layout, 0).map_err(map_error("socket_layout"))?;

        let state: &mut SockOps = program(ebpf, "socket_state")?;
        // A link of a cgroup is one of several in any case, and takes no flag that says so.
        let id =
            state.attach(&cgroup, CgroupAttachMode::Single).map_err(refused("socket_state"))?;
        let link = state.take_link(id).map_err(refused("socket_state"))?;
        let link: FdLink = link.try_into().map_err(pin_error(&link_path))?;
        // The programs of an earlier net manager and of this one may both enter a socket.
        unpin(&link_path)?;
        link.pin(&link_path).map_err(pin_error(&link_path))?;
        tracing::info!(cgroup = %path.display(), "sockets of instances of this node are joined");
        Ok(())
    }

    /// Joins no sockets any more; what those that are joined send goes by TCP from now on.
    ///
    /// # Errors
    /// A pin or an entry cannot be removed.
    pub fn part_sockets(&mut self) -> Result<(), SocketError> {
        unpin(&self.dir().join(LINK))?;
        self.keep_joined(|_| false)
    }

    fn keep_joined(&mut self, keep: impl Fn(u32) -> bool) -> Result<(), SocketError> {
        let map = self.ebpf().map_mut("joined").ok_or(SocketError::Missing("map `joined`"))?;
        let mut joined: HashMap<_, SocketKey, Joined> =
            map.try_into().map_err(map_error("joined"))?;
        let known: Vec<(SocketKey, Joined)> = joined.iter().filter_map(Result::ok).collect();
        for (key, socket) in known {
            if !keep(socket.flow.origin) {
                removed(joined.remove(&key)).map_err(map_error("joined"))?;
            }
        }
        Ok(())
    }

    /// Tells which network namespace is behind a veth pair.
    ///
    /// # Errors
    /// The map is full.
    pub fn set_namespace(&mut self, cookie: u64, ifindex: u32) -> Result<(), SocketError> {
        self.namespaces()?.insert(cookie, ifindex, 0).map_err(map_error("namespaces"))
    }

    /// Forgets the namespaces behind all veth pairs but these, and the sockets in them: what they
    /// send goes by TCP, where nothing follows their flows any more.
    ///
    /// # Errors
    /// An entry cannot be removed.
    pub fn keep_namespaces(&mut self, keep: impl Fn(u32) -> bool) -> Result<(), SocketError> {
        let mut namespaces = self.namespaces()?;
        let known: Vec<(u64, u32)> = namespaces.iter().filter_map(Result::ok).collect();
        for (cookie, ifindex) in known {
            if !keep(ifindex) {
                removed(namespaces.remove(&cookie)).map_err(map_error("namespaces"))?;
            }
        }
        self.keep_joined(keep)
    }

    fn namespaces(&mut self) -> Result<HashMap<&mut MapData, u64, u32>, SocketError> {
        let map = self.ebpf().map_mut("namespaces");
        let map = map.ok_or(SocketError::Missing("map `namespaces`"))?;
        map.try_into().map_err(map_error("namespaces"))
    }
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, SocketError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let program = ebpf.program_mut(name).ok_or(SocketError::Missing(name))?;
    program.try_into().map_err(|_| SocketError::Missing(name))
}

fn refused(program: &'static str) -> impl FnOnce(ProgramError) -> SocketError {
    move |source| SocketError::Refused { program, source: Box::new(source) }
}

fn map_error(map: &'static str) -> impl FnOnce(MapError) -> SocketError {
    move |source| SocketError::Map { map, source: Box::new(source) }
}

fn pin_error<E: std::error::Error + Send + Sync + 'static>(
    path: &Path,
) -> impl FnOnce(E) -> SocketError {
    move |source| SocketError::Pin { path: path.to_owned(), source: Box::new(source) }
}

/// A removal of what is not there is done already.
fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

fn unpin(path: &Path) -> Result<(), SocketError> {
    match PinnedLink::from_pin(path) {
        Ok(link) => link.unpin().map(drop).map_err(pin_error(path)),
        Err(_) if !path.exists() => Ok(()),
        Err(source) => Err(pin_error(path)(source)),
    }
}

/// Where this kernel has the fields that the programs look at.
fn read_layout() -> Result<SocketLayout, SocketError> {
    let bytes = fs::read(KERNEL_TYPES).map_err(SocketError::NoTypes)?;
    let btf = Btf::parse(&bytes)?;
    Ok(SocketLayout {
        rcvbuf: btf.offset("sock", &["sk_rcvbuf"])?,
        cookie: btf.offset("sock_common", &["skc_cookie"])?,
        rmem_alloc: btf.offset("sock", &["sk_backlog", "rmem_alloc"])?,
        ulp_ops: btf.offset("inet_connection_sock", &["icsk_ulp_ops"])?,
        write_seq: btf.offset("tcp_sock", &["write_seq"])?,
        copied_seq: btf.offset("tcp_sock", &["copied_seq"])?,
    })
}

/// The topmost cgroup that this process sees: instances may be anywhere below it, and what is no
/// instance's the program leaves alone.
fn cgroup_root() -> Result<(PathBuf, File), SocketError> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(SocketError::Mounts)?;
    let path = cgroup_mount(&mounts).ok_or(SocketError::NoCgroup)?;
    match File::open(&path) {
        Ok(file) => Ok((path, file)),
        Err(source) => Err(SocketError::Cgroup { path, source }),
    }
}

/// Where the root of the cgroup v2 hierarchy is mounted, by `/proc/self/mountinfo` (proc(5)).
fn cgroup_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| at.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_hierarchy_is_found_wherever_it_is_mounted() {
        let hybrid = "\
            30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            31 30 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            40 30 0:28 /a/b /elsewhere rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
            41 30 0:28 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup_mount(hybrid.lines().next().unwrap()), None);
    }

    #[test]
    fn the_running_kernel_tells_where_its_fields_are() {
        let layout = read_layout().unwrap();
        for offset in [layout.cookie, layout.rmem_alloc, layout.ulp_ops, layout.write_seq] {
            assert!((1..8192).contains(&offset), "{layout:?}");
        }
        assert_ne!(layout.write_seq, layout.copied_seq);
    }
}

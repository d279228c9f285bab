//! The inside of an instance's network namespace.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    net::{Ipv4Addr, Ipv6Addr, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};
use tokio::{runtime, sync::oneshot};

use super::netlink::{Link, Mac, Netlink, NetlinkError};
use crate::core::ipam::Lease;

const IPV6_SETTINGS: &str = "/proc/sys/net/ipv6/conf";

/// The smallest MTU of an interface that speaks IPv6 (RFC 8200, 5).
pub const IPV6_LEAST_MTU: u32 = 1280;

/// The instance's end of its veth pair.
pub const IFNAME: &str = "eth0";

/// Next hop of everything an instance sends: on the link only by decree, so that it takes no
/// address from any range and every instance can have the same.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same for IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Why an instance's namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("there is no process {pid}")]
    NoProcess { pid: i32 },
    #[error(
        "process {pid} has no network namespace of its own: an instance needs one to be attached"
    )]
    HostNamespace { pid: i32 },
    #[error("cannot look at the network namespace {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot enter the network namespace of process {pid}")]
    Enter {
        pid: i32,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("the thread inside the network namespace of process {pid} ended early")]
    Thread { pid: i32 },
}

/// A handle on the network namespace of a process.
#[derive(Debug)]
pub struct InstanceNamespace {
    pid: i32,
    file: File,
}

/// What an instance's end of the veth pair is given.
#[derive(Clone, Copy, Debug)]
pub struct Inside {
    pub lease: Lease,
    /// Of the host's end.
    pub gateway_mac: Mac,
}

impl InstanceNamespace {
    /// The namespace of process `pid`, which must not be the one that we are in.
    ///
    /// # Errors
    /// There is no such process, or it shares our namespace.
    pub fn of(pid: i32) -> Result<Self, NetnsError> {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let file = File::open(&path).map_err(|source| {
            if pid <= 0 || source.kind() == io::ErrorKind::NotFound {
                NetnsError::NoProcess { pid }
            } else {
                NetnsError::Unreadable { path: path.clone(), source }
            }
        })?;
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let theirs = file.metadata().map_err(|source| NetnsError::Unreadable { path, source })?;
        let path = PathBuf::from("/proc/thread-self/ns/net");
        let ours = fs::metadata(&path).map_err(|source| NetnsError::Unreadable { path, source })?;
        if id(theirs) == id(ours) {
            return Err(NetnsError::HostNamespace { pid });
        }
        Ok(Self { pid, file })
    }

    /// Gives the instance its address, its route and its gateway. The other end of the pair is
    /// up already, so that packets flow when this returns.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel refuses a change.
    pub async fn set_up(&self, inside: Inside) -> Result<(), NetnsError> {
        self.enter(move || async move {
            let netlink = Netlink::open()?;
            let loopback = netlink.get("lo").await?;
            netlink.set_up(loopback.index).await?;
            let link = netlink.get(IFNAME).await?;
            let Inside { lease, gateway_mac } = inside;
            // A kernel without IPv6 gives the instance none.
            let v6 = lease.v6.filter(|_| has_ipv6());
            match v6 {
                Some(_) => quiet_ipv6(IFNAME),
                None => disable_ipv6(IFNAME),
            }
            netlink.add_address(link.index, lease.v4.into(), 32).await?;
            netlink.set_up(link.index).await?;
            netlink.add_neighbour(link.index, GATEWAY.into(), gateway_mac).await?;
            netlink.add_default_route(link.index, GATEWAY.into()).await?;
            if let Some(v6) = v6 {
                netlink.add_address(link.index, v6.into(), 128).await?;
                netlink.add_neighbour(link.index, GATEWAY_V6.into(), gateway_mac).await?;
                netlink.add_default_route(link.index, GATEWAY_V6.into()).await?;
            }
            netlink.wait_operational(IFNAME).await?;
            Ok(())
        })
        .await
    }

    /// The interface `eth0` inside, if there is one.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub async fn interface(&self) -> Result<Option<Link>, NetnsError> {
        self.enter(|| async move { Ok(Netlink::open()?.find(IFNAME).await?) }).await
    }

    /// Sets the largest packet that `eth0` inside sends; the one that it sends then. With IPv6 that
    /// is never less than IPv6 needs: the kernel would take it away (RFC 8200, 5).
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel refuses.
    pub async fn set_mtu(&self, mtu: u32) -> Result<u32, NetnsError> {
        self.enter(move || async move {
            let netlink = Netlink::open()?;
            let link = netlink.get(IFNAME).await?;
            let mtu = if speaks_ipv6(IFNAME) { mtu.max(IPV6_LEAST_MTU) } else { mtu };
            if link.mtu != mtu {
                netlink.set_mtu(link.index, mtu).await?;
            }
            Ok(mtu)
        })
        .await
    }

    /// The number by which the kernel's programs know the namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the kernel (before 5.14) does not tell.
    pub async fn cookie(&self) -> Result<u64, NetnsError> {
        let pid = self.pid;
        self.enter(move || async move {
            cookie_of_thread().map_err(|source| NetnsError::Enter { pid, source })
        })
        .await
    }

    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs `work` on a thread of its own inside the namespace. The thread ends with it, so that
    /// no other task ever finds itself in there.
    async fn enter<T, W, F>(&self, work: W) -> Result<T, NetnsError>
    where
        T: Send + 'static,
        W: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<T, NetnsError>>,
    {
        let pid = self.pid;
        let failed = move |source| NetnsError::Enter { pid, source };
        let file = self.file.try_clone().map_err(failed)?;
        let (sender, receiver) = oneshot::channel();
        let inside = move || -> Result<T, NetnsError> {
            setns(file, CloneFlags::CLONE_NEWNET)
                .map_err(|error| NetnsError::Enter { pid, source: error.into() })?;
            let runtime =
                runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
            runtime.block_on(work())
        };
        thread::Builder::new()
            .name("netns".into())
            .spawn(move || {
                // Nobody waits for the result if the request was given up.
                let _: Result<(), Result<T, NetnsError>> = sender.send(inside());
            })
            .map_err(failed)?;
        receiver.await.map_err(|_| NetnsError::Thread { pid })?
    }
}

/// Of the namespace that the calling thread is in.
fn cookie_of_thread() -> io::Result<u64> {
    /// `SO_NETNS_COOKIE` of asm-generic/socket.h, which libc does not have.
    const NETNS_COOKIE: libc::c_int = 71;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open, and the buffer as long as is said.
    let result = unsafe {
        let buffer = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, NETNS_COOKIE, buffer, &raw mut len)
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// One process of each network namespace, in no order.
///
/// # Errors
/// The processes cannot be listed.
pub fn distinct() -> io::Result<Vec<i32>> {
    let mut seen = HashSet::new();
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may end at any time.
        if let Ok(namespace) = fs::metadata(format!("/proc/{pid}/ns/net"))
            && seen.insert((namespace.dev(), namespace.ino()))
        {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Whether this kernel speaks IPv6 at all.
pub fn has_ipv6() -> bool {
    Path::new(IPV6_SETTINGS).exists()
}

/// Whether an interface of the namespace of this thread speaks IPv6.
fn speaks_ipv6(ifname: &str) -> bool {
    let path = Path::new(IPV6_SETTINGS).join(ifname).join("disable_ipv6");
    fs::read_to_string(path).is_ok_and(|disabled| disabled.trim() == "0")
}

/// No IPv6 on an interface that carries none: it would only send router solicitations.
pub fn disable_ipv6(ifname: &str) {
    set_ipv6(ifname, "disable_ipv6", "1");
}

/// IPv6 with the one address that is given, and nothing by itself: no link-local address, no
/// router is asked for or believed, and nobody else can have the address, so that it is usable at
/// once (RFC 4429 has the wait that is left out).
fn quiet_ipv6(ifname: &str) {
    for (setting, value) in [
        ("disable_ipv6", "0"),
        ("addr_gen_mode", "1"),
        ("accept_ra", "0"),
        ("router_solicitations", "0"),
        ("accept_dad", "0"),
        ("dad_transmits", "0"),
    ] {
        set_ipv6(ifname, setting, value);
    }
}

fn set_ipv6(ifname: &str, setting: &str, value: &str) {
    let path = Path::new(IPV6_SETTINGS).join(ifname).join(setting);
    if let Err(error) = fs::write(&path, value) {
        tracing::debug!(path = %path.display(), %error, "an IPv6 setting stays as it is");
    }
}

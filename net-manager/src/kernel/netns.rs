//! The inside of an instance's network namespace.

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::PathBuf,
    thread,
};

use nix::sched::{CloneFlags, setns};
use tokio::{runtime, sync::oneshot};

use super::netlink::{Link, Mac, Netlink, NetlinkError};

/// The instance's end of its veth pair.
pub const IFNAME: &str = "eth0";

/// Next hop of everything an instance sends: on the link only by decree, so that it takes no
/// address from any range and every instance can have the same.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

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
    pub address: Ipv4Addr,
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
            disable_ipv6(IFNAME);
            netlink.add_address(link.index, inside.address.into(), 32).await?;
            netlink.set_up(link.index).await?;
            netlink.add_neighbour(link.index, GATEWAY, inside.gateway_mac).await?;
            netlink.add_default_route(link.index, GATEWAY).await?;
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

/// The overlay carries no IPv6 yet: an instance's interface has none, and sends no router
/// solicitations that would only count as drops. A kernel without IPv6 has nothing to switch off.
pub fn disable_ipv6(ifname: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6");
    if let Err(error) = fs::write(&path, "1") {
        tracing::debug!(path, %error, "IPv6 stays on");
    }
}

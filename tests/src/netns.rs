//! Network namespaces: made, entered and removed.

use std::{
    fs::{self, File},
    future::Future,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    panic,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use rtnetlink::{Handle, LinkUnspec};

/// Where `ip netns` and everyone else looks for namespaces by name.
pub const NETNS_FOLDER: &str = "/run/netns";

/// A network namespace with a name; it ends when this is dropped and no process is left in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    file: File,
}

impl Netns {
    /// A new namespace in which only the loopback interface is there, and up.
    ///
    /// # Errors
    /// If the name is taken, or without `CAP_SYS_ADMIN`.
    pub fn create(name: &str) -> Result<Self> {
        let path = path_of(name);
        fs::create_dir_all(NETNS_FOLDER).with_context(|| format!("cannot make {NETNS_FOLDER}"))?;
        File::create_new(&path).with_context(|| {
            format!("cannot make the network namespace {name}; is there one of this name?")
        })?;
        let file = on_own_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let none = None::<&str>;
            mount(Some("/proc/thread-self/ns/net"), &path, none, MsFlags::MS_BIND, none)?;
            File::open(&path)
        });
        let namespace = match file {
            Ok(file) => Self { name: name.to_owned(), file },
            Err(error) => {
                fs::remove_file(&path).ok();
                return Err(error).with_context(|| {
                    format!("cannot make the network namespace {name}; as root?")
                });
            }
        };
        namespace.netlink(async |netlink| {
            let up = LinkUnspec::new_with_index(1).up().build();
            netlink.link().change(up).execute().await.context("cannot set lo up")
        })?;
        Ok(namespace)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` inside the namespace, on a thread of its own, and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_own_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).expect("we made the namespace, as root");
            work()
        })
    }

    /// Runs `work` inside the namespace, on a thread of its own, without waiting for it.
    ///
    /// # Errors
    /// If there is no thread or descriptor to be had.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let file = self.file.try_clone().context("no descriptor is left")?;
        let inside = move || {
            setns(file, CloneFlags::CLONE_NEWNET).expect("we made the namespace, as root");
            work()
        };
        thread::Builder::new().spawn(inside).context("no thread is left")
    }

    /// Runs `work` inside the namespace with a netlink socket of the namespace.
    ///
    /// # Errors
    /// As `work`, or if there is no netlink socket to be had.
    pub fn netlink<T: Send>(
        &self,
        work: impl AsyncFnOnce(Handle) -> Result<T> + Send,
    ) -> Result<T> {
        self.run(|| netlink_here(work)).with_context(|| format!("in namespace {}", self.name))
    }

    /// Makes `command` start inside the namespace. Mounts stay the caller's, so that the BPF
    /// file system is the host's (`ip netns exec` would hide it).
    pub fn enter(&self, command: &mut Command) {
        let file = self.file.try_clone().expect("a descriptor is left to clone into");
        // SAFETY: setns is a bare system call and touches no memory, so it is allowed between
        // fork and exec.
        unsafe {
            command.pre_exec(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?));
        }
    }

    /// Writes a setting below `/proc/sys/net`, as seen from inside, e.g. `ipv4/ip_forward`.
    ///
    /// # Errors
    /// If the kernel has no such setting or refuses the value.
    pub fn set_sysctl(&self, setting: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys/net").join(setting);
        self.run(|| fs::write(&path, value))
            .with_context(|| format!("cannot set {setting} in namespace {}", self.name))
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("network namespace {} is left behind: {error}", self.name);
        }
    }
}

/// Removes a namespace's name, also one left by a process that was killed.
///
/// # Errors
/// If it cannot be unmounted; a name that is not there is no error.
pub fn remove(name: &str) -> io::Result<()> {
    let path = path_of(name);
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a file on which nothing is mounted.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Runs `work` with a netlink socket of the namespace that the calling thread is in.
///
/// # Errors
/// As `work`, or if there is no netlink socket to be had.
pub fn netlink_here<T>(work: impl AsyncFnOnce(Handle) -> Result<T>) -> Result<T> {
    run_async(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("no netlink socket")?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await;
        connection.abort();
        result
    })
}

/// Runs a future to its end on the calling thread, so in its network namespace.
pub(crate) fn run_async<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("an epoll descriptor can be made")
        .block_on(work)
}

fn path_of(name: &str) -> PathBuf {
    Path::new(NETNS_FOLDER).join(name)
}

/// A namespace belongs to a thread: what enters one must not return to others' work.
fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}

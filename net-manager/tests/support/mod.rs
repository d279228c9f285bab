//! A host of its own for each test: namespaces for network and mounts, a BPF file system, an
//! uplink, a broker with a stand-in for the cluster behind it, and processes to attach.
//!
//! Everything ends with the test's thread and its processes.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod cluster;
pub mod crowd;
pub mod daemon;
pub mod http;
pub mod peer;
pub mod process;
pub mod proxy;

use std::{
    fs,
    net::Ipv4Addr,
    panic,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use net_manager::{
    config::{Config, Settings},
    daemon::start::{self, DaemonError},
    kernel::netlink::{Netlink, VethEnd},
};
use net_maps::PinnedMaps;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::geteuid,
};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const UPLINK: &str = "uplink";
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Unlike the default, so that a test sees that it is used.
pub const UPLINK_MTU: u32 = 1450;

/// Runs a test on a new host.
pub fn on_a_new_host<F, Fut>(test: F)
where
    F: FnOnce(Host) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    assert!(geteuid().is_root(), "this test makes namespaces and loads BPF programs: run as root");
    let host = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { test(Host::make().await).await });
    });
    if let Err(panic) = host.join() {
        panic::resume_unwind(panic);
    }
}

/// A machine with an uplink and nothing else.
pub struct Host {
    folder: TempDir,
    pub netlink: Netlink,
}

impl Host {
    async fn make() -> Self {
        let netlink = Netlink::open().unwrap();
        let loopback = netlink.get("lo").await.unwrap();
        netlink.set_up(loopback.index).await.unwrap();
        let end = |name, last| VethEnd { name, mac: [2, 0, 0, 0, 0, last], namespace: None };
        netlink.add_veth(&end(UPLINK, 1), &end("far", 2), UPLINK_MTU, 0).await.unwrap();
        for name in [UPLINK, "far"] {
            let link = netlink.get(name).await.unwrap();
            netlink.set_up(link.index).await.unwrap();
            if name == UPLINK {
                netlink.add_address(link.index, NODE_ADDRESS.into(), 24).await.unwrap();
            }
        }
        Self { folder: tempfile::tempdir().unwrap(), netlink }
    }

    /// For what a test keeps beside the net manager's.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn bpffs(&self) -> PathBuf {
        self.folder.path().join("bpf")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("net.sock")
    }

    pub fn config(&self) -> Config {
        let settings = Settings {
            bpffs_root: Some(self.bpffs()),
            state_dir: Some(self.folder.path().join("state")),
            socket: Some(self.socket()),
            uplink: Some(UPLINK.into()),
            max_flows: Some(4096),
            ..Settings::default()
        };
        settings.resolve(Settings::default()).unwrap()
    }

    /// Starts a net manager and waits until it answers.
    pub async fn start(&self) -> NetManager {
        self.start_with(self.config()).await
    }

    pub async fn start_with(&self, config: Config) -> NetManager {
        let stop = CancellationToken::new();
        let task = tokio::spawn(start::run(config, stop.clone()));
        let mut manager = NetManager { stop, task: Some(task), socket: self.socket() };
        let started = Instant::now();
        while manager.status().await.is_err() {
            let task = manager.task.as_mut().unwrap();
            if task.is_finished() {
                panic!("the net manager ended: {:?}", task.await);
            }
            assert!(started.elapsed() < Duration::from_secs(10), "the net manager does not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        manager
    }

    pub fn maps(&self) -> PinnedMaps {
        PinnedMaps::open(&self.bpffs()).unwrap()
    }

    /// Names of the pinned links.
    pub fn links(&self) -> Vec<String> {
        let dir = net_maps::layout_dir(&self.bpffs()).join(net_maps::LINKS_DIR);
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Names of the host's interfaces.
    pub async fn interfaces(&self) -> Vec<String> {
        let links = self.netlink.links().await.unwrap();
        let mut names: Vec<String> = links.into_iter().map(|link| link.name).collect();
        names.sort();
        names
    }

    /// The host side of the only instance.
    pub async fn instance_interface(&self) -> String {
        let names = self.interfaces().await;
        let mut ours =
            names.iter().filter(|n| n.starts_with("xy") && !["xyp", "xyh"].contains(&&n[..3]));
        let name = ours.next().expect("there is one").clone();
        assert_eq!(ours.next(), None, "there is only one");
        name
    }
}

impl Drop for Host {
    /// What is mounted in the folder would keep it from being removed.
    fn drop(&mut self) {
        for mounted in mounts_below(self.folder.path()) {
            umount2(&mounted, MntFlags::MNT_DETACH).unwrap();
        }
    }
}

/// Where something is mounted below a folder.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    places.map(PathBuf::from).filter(|place| place.starts_with(folder)).collect()
}

/// A net manager under test.
pub struct NetManager {
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), DaemonError>>>,
    pub socket: PathBuf,
}

impl NetManager {
    /// One that runs elsewhere, to be spoken to.
    pub fn at(socket: PathBuf) -> Self {
        Self { stop: CancellationToken::new(), task: None, socket }
    }

    /// As SIGTERM does it.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.task.take().unwrap().await.unwrap().unwrap();
    }

    /// As SIGKILL does it, but that tasks give back what the kernel would take.
    pub async fn kill(mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }
}

/// Waits until `condition` gives something, and says what it gave last if it does not.
pub async fn wait_for<T, Fut>(what: &str, mut condition: impl FnMut() -> Fut) -> T
where
    Fut: Future<Output = Result<T, String>>,
{
    let started = Instant::now();
    loop {
        match condition().await {
            Ok(value) => return value,
            Err(status) => {
                assert!(started.elapsed() < Duration::from_secs(20), "no {what}: {status}");
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

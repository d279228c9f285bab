//! The command lines of Xylem's daemons; the only place in the tests that knows their flags.

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
};

use crate::topology::UPLINK;

/// Ports of the control plane, all in the hub.
pub const ROOT_PORT: u16 = 10000;
pub const CLUSTER_PORT: u16 = 10100;
pub const BROKER_PORT: u16 = 10003;

/// A program of the workspace, as built by `cargo xtask`.
///
/// # Panics
/// If the running program has no path.
pub fn program(name: &str) -> PathBuf {
    target_folder().join(name)
}

/// The demo's application, linked statically for its image.
///
/// # Panics
/// If the running program is not in a target folder.
pub fn demo_app() -> PathBuf {
    let profile = target_folder();
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let (target, profile) = (profile.parent(), profile.file_name());
    let (Some(target), Some(profile)) = (target, profile) else {
        panic!("{} is no target folder", target_folder().display());
    };
    target.join(triple).join(profile).join("demo-app")
}

/// `target/<profile>`: where the running program is, or one above for a test.
fn target_folder() -> PathBuf {
    let mut folder = env::current_exe().expect("a program has a path");
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    folder
}

/// Where a worker's daemons keep what they keep.
#[derive(Clone, Debug)]
pub struct WorkerPaths {
    pub state: PathBuf,
    /// The Net API.
    pub socket: PathBuf,
    pub bpffs_root: PathBuf,
    /// A name below each hierarchy of control groups.
    pub cgroup_parent: String,
}

pub fn root(address: Ipv4Addr, state: &Path) -> Command {
    let mut command = Command::new(program("xylem-root"));
    command.arg("--listen").arg(format!("{address}:{ROOT_PORT}"));
    command.arg("--data-dir").arg(state);
    command
}

pub fn cluster(name: &str, address: Ipv4Addr, state: &Path) -> Command {
    let mut command = Command::new(program("xylem-cluster"));
    command.args(["--name", name]);
    command.arg("--root-url").arg(format!("http://{address}:{ROOT_PORT}"));
    command.arg("--listen").arg(format!("{address}:{CLUSTER_PORT}"));
    command.arg("--mqtt-listen").arg(format!("{address}:{BROKER_PORT}"));
    // Enough to be there, and little enough not to be waited for.
    command.args(["--drain-grace-secs", "1"]);
    command.arg("--data-dir").arg(state);
    command
}

pub fn net_manager(address: impl Into<IpAddr>, paths: &WorkerPaths) -> Command {
    let mut command = Command::new(program("xylem-net-manager"));
    command.args(["--uplink", UPLINK]);
    command.arg("--node-address").arg(address.into().to_string());
    command.arg("--socket").arg(&paths.socket);
    command.arg("--bpffs-root").arg(&paths.bpffs_root);
    command.arg("--state-dir").arg(paths.state.join("net"));
    command
}

pub fn node_engine(name: &str, hub: Ipv4Addr, paths: &WorkerPaths) -> Command {
    let mut command = Command::new(program("xylem-node-engine"));
    command.args(["--node-name", name]);
    command.arg("--cluster-url").arg(format!("http://{hub}:{CLUSTER_PORT}"));
    command.arg("--net-socket").arg(&paths.socket);
    command.arg("--cgroup-parent").arg(Path::new("/").join(&paths.cgroup_parent));
    command.arg("--state-dir").arg(paths.state.join("engine"));
    command
}

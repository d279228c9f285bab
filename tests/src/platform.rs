//! The whole platform on one machine: a root, a cluster, a registry, and workers on hosts of
//! their own, all of them the real programs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use xylem_types::job::JobInstance;

use crate::{
    daemon::{self, ROOT_PORT, WorkerPaths},
    inside::Inside,
    leftovers,
    process::Process,
    registry::Registry,
    rest::Rest,
    topology::{Host, Topology},
    wait::wait_for,
};

/// How long a daemon may take from start to being of use.
pub const READY_LIMIT: Duration = Duration::from_secs(30);

/// Where instances' BPF objects are pinned, one folder a platform.
const BPFFS: &str = "/sys/fs/bpf/xylem";

const REGISTRY_PORT: u16 = 5000;

/// What tells the parts of one platform from those of another on the same machine.
#[derive(Clone, Debug)]
pub struct Name(String);

impl Name {
    /// `demo`, or something that only one test uses.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// Of network namespaces.
    pub fn prefix(&self) -> String {
        format!("xy{}", self.0)
    }

    pub fn bpffs(&self) -> PathBuf {
        Path::new(BPFFS).join(&self.0)
    }

    /// Of control groups and of the folder with all state.
    pub fn label(&self) -> String {
        format!("xylem-{}", self.0)
    }
}

/// A worker's two daemons.
#[derive(Debug)]
pub struct Worker {
    pub name: String,
    pub paths: WorkerPaths,
    pub net_manager: Process,
    pub node_engine: Process,
}

impl Worker {
    /// How many instances have processes here.
    pub fn instances(&self) -> usize {
        leftovers::processes_below(&self.paths.cgroup_parent)
    }
}

/// Everything there is to a platform; all of it is removed when this is dropped.
#[derive(Debug)]
pub struct Platform {
    name: Name,
    pub workers: Vec<Worker>,
    pub cluster: Process,
    pub root: Process,
    pub registry: Registry,
    /// Hosts outlive the processes in them.
    pub topology: Topology,
    state: TempDir,
}

impl Platform {
    /// Starts everything but workers.
    ///
    /// # Errors
    /// If a daemon does not start; with its last words.
    pub fn start(name: Name, topology: Topology) -> Result<Self> {
        let state = tempfile::Builder::new()
            .prefix(&format!("{}-", name.label()))
            .tempdir()
            .context("no temporary folder")?;
        let folder = |daemon: &str| -> Result<PathBuf> {
            let folder = state.path().join(daemon);
            fs::create_dir_all(&folder).with_context(|| format!("no {}", folder.display()))?;
            Ok(folder)
        };
        let hub = &topology.hub;
        let registry =
            Registry::start(&hub.netns, (hub.address, REGISTRY_PORT), &folder("registry")?)?;

        let start = |name: &str, command: Command| {
            let log = state.path().join(format!("{name}.log"));
            Process::start(name, command, Some(&hub.netns), &log)
        };
        let mut root = start("xylem-root", daemon::root(hub.address, &folder("root")?))?;
        let url = format!("http://{}:{ROOT_PORT}", hub.address);
        root.wait_ready(READY_LIMIT, || Rest::log_in(&url, Some(&hub.netns)).map(drop))?;
        let rest = Rest::log_in(&url, Some(&hub.netns))?;

        let command = daemon::cluster("site", hub.address, &folder("cluster")?);
        let mut cluster = start("xylem-cluster", command)?;
        cluster.wait_ready(READY_LIMIT, || {
            let connected = rest.clusters()?.iter().any(|cluster| cluster.connected);
            if connected { Ok(()) } else { bail!("it has no session with the root") }
        })?;
        Ok(Self { name, workers: Vec::new(), cluster, root, registry, topology, state })
    }

    /// A client of the root that has logged in, from inside the hub.
    ///
    /// # Errors
    /// If the root refuses.
    pub fn rest(&self) -> Result<Rest<'_>> {
        Rest::log_in(self.root_url(), Some(&self.topology.hub.netns))
    }

    pub fn root_url(&self) -> String {
        format!("http://{}:{ROOT_PORT}", self.topology.hub.address)
    }

    /// Starts the daemons of every worker of the topology and waits until all can be used.
    ///
    /// # Errors
    /// If one does not start; with its last words.
    pub fn start_workers(&mut self) -> Result<()> {
        self.start_first_workers(self.topology.workers.len())
    }

    /// As [`Self::start_workers`], on the first `count` of the topology's hosts.
    ///
    /// # Errors
    /// As there.
    pub fn start_first_workers(&mut self, count: usize) -> Result<()> {
        for (number, host) in (1..).zip(self.topology.workers.iter().take(count)) {
            let worker = self.start_worker(&format!("worker{number}"), host)?;
            self.workers.push(worker);
        }
        self.wait_joined()
    }

    /// Waits until the root sees every worker, with its subnet.
    ///
    /// # Errors
    /// If one does not join in time, or a daemon ends.
    pub fn wait_joined(&self) -> Result<()> {
        let wanted = self.workers.len();
        wait_for("all workers to join", READY_LIMIT, || {
            self.check_alive()?;
            let nodes = self.rest()?.nodes()?;
            let joined = nodes.iter().filter(|node| node.host_ip.is_some()).count();
            if joined < wanted {
                bail!("{joined} of {wanted} have joined");
            }
            Ok(())
        })
    }

    fn start_worker(&self, name: &str, host: &Host) -> Result<Worker> {
        let state = self.state.path().join(name);
        fs::create_dir_all(&state).with_context(|| format!("no {}", state.display()))?;
        let paths = WorkerPaths {
            socket: state.join("net.sock"),
            bpffs_root: self.name.bpffs().join(name),
            cgroup_parent: format!("{}-{name}", self.name.label()),
            state,
        };
        let hub = self.topology.hub.address;
        let net_manager = self.start_on(
            host,
            &format!("{name}-net-manager"),
            daemon::net_manager(host.address, &paths),
        )?;
        let node_engine = self.start_on(
            host,
            &format!("{name}-node-engine"),
            daemon::node_engine(name, hub, &paths),
        )?;
        Ok(Worker { name: name.to_owned(), paths, net_manager, node_engine })
    }

    /// Starts a worker's net manager again, by its index, after it was stopped or killed.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart_net_manager(&mut self, worker: usize) -> Result<()> {
        self.restart_net_manager_with(worker, &[])
    }

    /// As [`Self::restart_net_manager`], with more flags.
    ///
    /// # Errors
    /// As there.
    pub fn restart_net_manager_with(&mut self, worker: usize, flags: &[&str]) -> Result<()> {
        let (host, paths) = (&self.topology.workers[worker], &self.workers[worker].paths);
        let name = self.workers[worker].net_manager.name().to_owned();
        let mut command = daemon::net_manager(host.address, paths);
        command.args(flags);
        self.workers[worker].net_manager = self.start_on(host, &name, command)?;
        Ok(())
    }

    /// Starts a worker's node engine again, by its index, after it was stopped or killed.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart_node_engine(&mut self, worker: usize) -> Result<()> {
        let (host, paths) = (&self.topology.workers[worker], &self.workers[worker].paths);
        let name = self.workers[worker].node_engine.name().to_owned();
        let command =
            daemon::node_engine(&self.workers[worker].name, self.topology.hub.address, paths);
        self.workers[worker].node_engine = self.start_on(host, &name, command)?;
        Ok(())
    }

    /// Starts the root again after it was stopped or killed, and waits until it answers.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart_root(&mut self) -> Result<()> {
        let hub = &self.topology.hub;
        let command = daemon::root(hub.address, &self.state.path().join("root"));
        let mut root = self.start_on(hub, "xylem-root", command)?;
        root.wait_ready(READY_LIMIT, || self.rest().map(drop))?;
        self.root = root;
        Ok(())
    }

    /// Starts the cluster again after it was stopped or killed, and waits for its session.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart_cluster(&mut self) -> Result<()> {
        let hub = &self.topology.hub;
        let command = daemon::cluster("site", hub.address, &self.state.path().join("cluster"));
        let mut cluster = self.start_on(hub, "xylem-cluster", command)?;
        cluster.wait_ready(READY_LIMIT, || self.check_connected())?;
        self.cluster = cluster;
        Ok(())
    }

    fn check_connected(&self) -> Result<()> {
        let connected = self.rest()?.clusters()?.iter().any(|cluster| cluster.connected);
        if connected { Ok(()) } else { bail!("the cluster has no session with the root") }
    }

    /// Starts a program on a host; its log is with the others'.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start_on(&self, host: &Host, name: &str, command: Command) -> Result<Process> {
        let log = self.state.path().join(format!("{name}.log"));
        Process::start(name, command, Some(&host.netns), &log)
    }

    /// The network namespace of a running instance.
    ///
    /// # Errors
    /// If it has no address or no process on its worker.
    pub fn inside(&self, instance: &JobInstance) -> Result<Inside> {
        let is_it = |worker: &&Worker| worker.name == instance.worker_name;
        let worker = self.workers.iter().find(is_it);
        let worker = worker.with_context(|| format!("no worker {:?}", instance.worker_name))?;
        let address = instance.namespace_ip.context("no namespace IP")?;
        Inside::of_worker(&worker.paths.cgroup_parent, address)
    }

    /// Where the logs are.
    pub fn folder(&self) -> &Path {
        self.state.path()
    }

    /// Every daemon that there should be.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let of_workers =
            self.workers.iter().flat_map(|worker| [&worker.net_manager, &worker.node_engine]);
        [&self.root, &self.cluster].into_iter().chain(of_workers)
    }

    /// # Errors
    /// If a daemon has ended; with its last words.
    pub fn check_alive(&self) -> Result<()> {
        for process in self.processes() {
            if !process.is_running() {
                bail!("{} has ended:\n{}", process.name(), process.log_tail(15));
            }
        }
        Ok(())
    }
}

impl Drop for Platform {
    /// The daemons leave instances and pins in place when they stop, as they should; what they
    /// leave is removed here, after them.
    fn drop(&mut self) {
        for worker in self.workers.drain(..) {
            drop(worker);
        }
        for error in leftovers::remove(&self.name, Some(self.state.path())) {
            eprintln!("{error:#}");
        }
    }
}

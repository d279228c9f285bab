//! The daemon as it is: its process, its broker, its store, with a root and workers that are
//! played here over real connections.

mod outage;
mod process;
mod register;
mod root;
mod run;
mod wait;
mod worker;

use process::Cluster;
use root::FakeRoot;
use wait::eventually;
use worker::FakeWorker;

use xylem_types::{mqtt::DeployCommand, session::Placement};

const WEB: &str = "app.ns.web.prod";

fn web(number: u32, generation: u64) -> Placement {
    Placement {
        job_id: "job-web".into(),
        command: DeployCommand {
            job_name: WEB.into(),
            instance_number: number,
            generation,
            virtualization: "docker".into(),
            image: "oci:/images/web".into(),
            memory: 100,
            vcpus: 0.5,
            cmd: vec![],
            environment: vec![],
            one_shot: false,
            privileged: false,
            port: String::new(),
        },
        allowed_nodes: vec![],
        vgpus: 0,
    }
}

/// A root, a cluster that is connected to it, and workers that have their subnets.
struct World {
    root: FakeRoot,
    cluster: Cluster,
    workers: Vec<FakeWorker>,
}

impl World {
    async fn new(workers: usize) -> Self {
        let root = FakeRoot::start().await;
        let cluster = Cluster::start(root.url()).await;
        Self::populate(root, cluster, workers).await
    }

    /// One where a worker is soon lost: long enough for a busy machine, short enough to wait for.
    async fn impatient(workers: usize) -> Self {
        let root = FakeRoot::start().await;
        let cluster = Cluster::with_silence(root.url(), 2.0).await;
        Self::populate(root, cluster, workers).await
    }

    /// One where what is stopped drains: long enough for a busy machine to look at it.
    async fn draining(workers: usize) -> Self {
        let root = FakeRoot::start().await;
        let cluster = Cluster::with_grace(root.url(), 4.0).await;
        Self::populate(root, cluster, workers).await
    }

    async fn populate(root: FakeRoot, cluster: Cluster, workers: usize) -> Self {
        let mut world = Self { root, cluster, workers: Vec::new() };
        for i in 0..workers {
            let mut worker = FakeWorker::join(&world.cluster, &format!("worker-{i}")).await;
            worker.get_subnet().await;
            world.workers.push(worker);
        }
        eventually("the cluster reports its workers", || {
            world.root.resources().filter(|r| r.active_nodes as usize == workers)
        })
        .await;
        world
    }

    /// Which worker runs instance `number`, once one does in this generation and the root knows.
    async fn running(&self, number: u32, generation: u64) -> usize {
        let observed = eventually("the instance runs", || {
            self.root.observed(number).filter(|o| {
                o.status.as_str() == "RUNNING"
                    && o.generation == generation
                    && o.namespace_ip.is_some()
            })
        })
        .await;
        let id = observed.worker_id.expect("a running instance is on a worker");
        self.workers.iter().position(|worker| worker.id == id).expect("one of ours")
    }
}

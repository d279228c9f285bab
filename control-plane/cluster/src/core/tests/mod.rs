//! The core under scenarios and under arbitrary faults, with time and every message in hand.

mod cordon;
mod drain;
mod interests;
mod load;
mod network;
mod peers;
mod placement;
mod ports;
mod simulation;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use xylem_types::{
    instance::InstanceStatus,
    mqtt::{
        DeleteCommand, DeployCommand, InstanceEntry, InstanceReport, InstanceResources,
        InstanceUsage, IpType, NetDeployed, Peers, ServiceAddress, SubnetGrant, SubnetRequest,
        TableAnswer, TunnelEndpoint, UpdateKind,
    },
    node::Node,
    session::{Drain, FromCluster, FromRoot, InstanceKey, Observed, Placement, SubnetResult},
};

use super::{Change, Cluster, Effect, Records, Settings, Time};
use crate::message::{FromWorker, Message, ToWorker};

const TICK: Duration = Duration::from_millis(200);

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A cluster with its clock, its durable records and everything it has sent.
struct Bench {
    cluster: Cluster,
    now: Time,
    records: Records,
    mqtt: Vec<Message>,
    root: Vec<FromCluster>,
}

impl Bench {
    /// A cluster that was just started for the first time; the broker is up, the root is away.
    fn new() -> Self {
        let cluster = Cluster::new(Settings::new("edge"), Records::default());
        let mut bench = Self {
            cluster,
            now: Time::ZERO,
            records: Records::default(),
            mqtt: Vec::new(),
            root: Vec::new(),
        };
        bench.cluster.broker_connected(bench.now);
        bench.settle();
        bench
    }

    /// With the root connected, wanting nothing yet, and these workers.
    fn with_workers(workers: &[&str]) -> Self {
        let mut bench = Self::new();
        for worker in workers {
            bench.register(worker);
        }
        bench.connect_root(vec![]);
        bench.root.clear();
        bench.mqtt.clear();
        bench
    }

    /// Takes the step: changes become durable, effects go to the logs.
    fn settle(&mut self) {
        let step = self.cluster.step(self.now);
        for change in step.changes {
            apply(&mut self.records, change);
        }
        for effect in step.effects {
            match effect {
                Effect::Mqtt(message) => self.mqtt.push(message),
                Effect::Root(message) => self.root.push(message),
            }
        }
    }

    fn register(&mut self, worker: &str) {
        let node = Node {
            id: worker.into(),
            host: format!("host-{worker}"),
            ip: "127.0.0.1".into(),
            vcpus: 4,
            memory: 4000.0,
            virtualization: vec!["docker".into()],
            ..Node::default()
        };
        self.cluster.register(node, None, self.now).unwrap();
        self.beat(worker);
    }

    fn says(&mut self, worker: &str, message: FromWorker) {
        self.cluster.from_worker(worker, message, self.now);
        self.settle();
    }

    fn beat(&mut self, worker: &str) {
        let node = Node { memory: 4000.0, ..Node::default() };
        self.says(worker, FromWorker::Information(Box::new(node)));
    }

    /// Time passes, with these workers alive.
    fn pass(&mut self, time: Duration, alive: &[&str]) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            for worker in alive {
                self.beat(worker);
            }
            self.cluster.tick(self.now);
            self.settle();
        }
    }

    /// The daemon is killed and started again.
    fn restart(&mut self) {
        self.now = Time::ZERO;
        self.cluster = Cluster::new(Settings::new("edge"), self.records.clone());
        self.cluster.broker_connected(self.now);
        self.settle();
    }

    fn connect_root(&mut self, placements: Vec<Placement>) {
        self.cluster.root_connected();
        self.root_says(FromRoot::Welcome { cluster_id: "c1".into() });
        self.root_says(desired(placements));
    }

    fn root_says(&mut self, message: FromRoot) {
        self.cluster.from_root(message, self.now).unwrap();
        self.settle();
    }

    fn deploy(&mut self, placement: Placement) {
        self.root_says(FromRoot::Deploy(Box::new(placement)));
    }

    fn report(&mut self, worker: &str, number: u32, generation: u64, status: InstanceStatus) {
        let report = InstanceReport {
            sname: WEB.into(),
            status,
            status_detail: String::new(),
            instance: number,
            publicip: String::new(),
            generation,
        };
        self.says(worker, FromWorker::Job(report));
    }

    fn lists(&mut self, worker: &str, instances: &[(u32, u64)]) {
        let services = instances.iter().map(|(n, g)| usage(WEB, *n, *g)).collect();
        self.says(worker, FromWorker::Resources(InstanceResources { services }));
    }

    fn asks_subnet(&mut self, worker: &str, port: u16) {
        let endpoint = TunnelEndpoint { host_ip: [192, 0, 2, 1].into(), host_port: port };
        let request = SubnetRequest { method: "GET".into(), endpoint: Some(endpoint) };
        self.says(worker, FromWorker::Subnet(request));
    }

    fn grant(&mut self, worker: &str, third: u8) {
        let result = SubnetResult::Granted {
            v4: [10, 18, third, 0].into(),
            v6: format!("fc00::{third}00").parse().unwrap(),
        };
        self.root_says(FromRoot::Subnet { worker_id: worker.into(), result });
    }

    fn attached(&mut self, worker: &str, number: u32, nsip: &str) {
        self.says(worker, FromWorker::Deployed(net_event("DEPLOYED", number, nsip)));
    }

    /// The last of what the root was told of the instance.
    fn observed(&self, number: u32) -> Option<&Observed> {
        self.root.iter().rev().find_map(|message| match message {
            FromCluster::Instance(observed) if observed.key.instance_number == number => {
                Some(&**observed)
            }
            _ => None,
        })
    }

    fn status(&self, number: u32) -> String {
        self.observed(number).map(|o| o.status.to_string()).unwrap_or_default()
    }

    /// Takes every command of this kind sent since the last call, with its worker.
    fn take<T>(&mut self, pick: impl Fn(&ToWorker) -> Option<T>) -> Vec<(String, T)> {
        let mut taken = Vec::new();
        self.mqtt.retain(|message| match message {
            Message::To { worker, body } => match pick(body) {
                Some(found) => {
                    taken.push((worker.clone(), found));
                    false
                }
                None => true,
            },
            Message::Updates { .. } => true,
        });
        taken
    }

    fn deploys(&mut self) -> Vec<(String, u32, u64)> {
        self.take(|body| match body {
            ToWorker::Deploy(c) => Some((c.instance_number, c.generation)),
            _ => None,
        })
        .into_iter()
        .map(|(worker, (number, generation))| (worker, number, generation))
        .collect()
    }

    fn deletes(&mut self) -> Vec<(String, DeleteCommand)> {
        self.take(|body| match body {
            ToWorker::Delete(command) => Some(command.clone()),
            _ => None,
        })
    }

    fn answers(&mut self) -> Vec<(String, TableAnswer)> {
        self.take(|body| match body {
            ToWorker::Answer(answer) => Some(answer.clone()),
            _ => None,
        })
    }

    fn subnets(&mut self) -> Vec<(String, SubnetGrant)> {
        self.take(|body| match body {
            ToWorker::Subnet(grant) => Some(grant.clone()),
            _ => None,
        })
    }

    /// The last list of peers that each worker was sent, by ids.
    fn peers(&mut self) -> BTreeMap<String, Vec<String>> {
        self.take(|body| match body {
            ToWorker::Peers(Peers { peers }) => {
                Some(peers.iter().map(|p| p.worker_id.clone()).collect())
            }
            _ => None,
        })
        .into_iter()
        .collect()
    }

    fn updates(&mut self) -> Vec<UpdateKind> {
        let mut taken = Vec::new();
        self.mqtt.retain(|message| match message {
            Message::Updates { change, .. } => {
                taken.push(*change);
                false
            }
            Message::To { .. } => true,
        });
        taken
    }

    /// Request ids of what the root was asked and has not been shown since.
    fn queries(&mut self) -> Vec<u64> {
        let mut ids = Vec::new();
        self.root.retain(|message| match message {
            FromCluster::TableQuery { request_id, .. } => {
                ids.push(*request_id);
                false
            }
            _ => true,
        });
        ids
    }

    /// Answers whatever the root was asked.
    fn root_answers(&mut self, answer: &TableAnswer) {
        for request_id in self.queries() {
            self.root_says(FromRoot::TableAnswer { request_id, answer: answer.clone() });
        }
    }
}

fn apply(records: &mut Records, change: Change) {
    fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<Box<V>>) {
        match value {
            Some(value) => map.insert(key, *value),
            None => map.remove(&key),
        };
    }
    match change {
        Change::Membership(membership) => records.membership = membership,
        Change::Worker(id, worker) => put(&mut records.workers, id, worker),
        Change::Instance(key, instance) => put(&mut records.instances, key, instance),
        Change::Service(name, service) => put(&mut records.services, name, service),
    }
}

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

fn key(number: u32) -> InstanceKey {
    InstanceKey { job_id: "job-web".into(), instance_number: number }
}

fn undeploy(number: u32, generation: u64) -> FromRoot {
    drained(number, generation, Drain::Always)
}

fn drained(number: u32, generation: u64, drain: Drain) -> FromRoot {
    let (key, job_name) = (key(number), WEB.into());
    FromRoot::Undeploy { key, job_name, generation, drain, drain_grace_ms: None }
}

fn desired(placements: Vec<Placement>) -> FromRoot {
    FromRoot::Desired { placements, cordoned: BTreeSet::new() }
}

fn changed(change: UpdateKind) -> FromRoot {
    FromRoot::ServiceChanged { job_name: WEB.into(), change, load: vec![] }
}

fn usage(job_name: &str, instance: u32, generation: u64) -> InstanceUsage {
    InstanceUsage {
        job_name: job_name.into(),
        instance,
        generation,
        cpu_percent: "12.5".into(),
        logs: "hello".into(),
        ..InstanceUsage::default()
    }
}

fn net_event(status: &str, instance_number: u32, nsip: &str) -> NetDeployed {
    NetDeployed {
        appname: WEB.into(),
        status: status.into(),
        instance_number,
        nsip: nsip.into(),
        nsipv6: String::new(),
        host_ip: "192.0.2.1".into(),
        host_port: 50103,
    }
}

/// What the root says of the service: its address, and these instances. Where they are, the cluster
/// knows better.
fn web_answer(numbers: &[u32]) -> TableAnswer {
    let address = |ip_type, last| ServiceAddress {
        ip_type,
        address: Some([10, 30, 0, last].into()),
        address_v6: None,
    };
    let service = address(IpType::RoundRobin, 1);
    TableAnswer {
        app_name: WEB.into(),
        query_key: WEB.into(),
        instance_list: numbers
            .iter()
            .map(|n| InstanceEntry {
                instance_number: *n,
                namespace_ip: String::new(),
                namespace_ip_v6: String::new(),
                host_ip: String::new(),
                host_port: 0,
                service_ip: vec![
                    service.clone(),
                    address(IpType::Instance, 100 + u8::try_from(*n).unwrap()),
                ],
                ..InstanceEntry::default()
            })
            .collect(),
        service_ip: vec![service],
    }
}

//! The core against simulated clusters, with messages delayed and lost, sessions broken, and
//! root and clusters restarted: whatever happens, no address has two owners, and once everything
//! can talk again, what runs is what is wanted, once.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use jiff::Timestamp;
use proptest::prelude::*;
use xylem_types::{
    instance::InstanceStatus,
    session::{
        ClusterResources, FromCluster, FromRoot, InstanceKey, Observed, Placement, WorkerRoom,
    },
    sla::{Application, Microservice, Sla},
};

use super::{
    account::Caller,
    cluster::Hello,
    ipam::Leases,
    moment::Moment,
    rows::{RowKey, Rows},
    state::{Outgoing, Settings, State, Tables},
};

const SETTINGS: Settings = Settings {
    resources_stale_after: Duration::from_secs(15),
    unconfirmed_move_after: Duration::from_secs(10),
};

fn admin() -> Caller {
    Caller { user_id: "1".to_owned(), admin: true }
}

/// A cluster of one worker; each instance takes one of its CPUs.
#[derive(Debug)]
struct SimCluster {
    name: String,
    cpus: usize,
    running: BTreeMap<InstanceKey, u64>,
    /// Given to it, and without a place.
    waiting: BTreeMap<InstanceKey, u64>,
    session: Option<u64>,
    to_root: VecDeque<FromCluster>,
    from_root: VecDeque<FromRoot>,
}

impl SimCluster {
    fn new(name: &str, cpus: usize) -> Self {
        Self {
            name: name.to_owned(),
            cpus,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            session: None,
            to_root: VecDeque::new(),
            from_root: VecDeque::new(),
        }
    }

    fn observed(&self, key: &InstanceKey, generation: u64, status: InstanceStatus) -> Observed {
        Observed {
            key: key.clone(),
            generation,
            status,
            status_detail: String::new(),
            worker_id: Some(format!("worker of {}", self.name)),
            worker_name: String::new(),
            host_ip: "192.0.2.1".to_owned(),
            host_port: 50_103,
            publicip: String::new(),
            namespace_ip: Some(Ipv4Addr::new(10, 18, 0, 2)),
            namespace_ip_v6: None,
            cpu_percent: 0.0,
            memory_percent: 0.0,
            disk: 0,
            logs: String::new(),
        }
    }

    fn report(&mut self, key: &InstanceKey, generation: u64, status: InstanceStatus) {
        let observed = self.observed(key, generation, status);
        self.to_root.push_back(FromCluster::Instance(Box::new(observed)));
    }

    fn start(&mut self, placement: &Placement) -> InstanceStatus {
        let key = key_of(placement);
        let generation = placement.command.generation;
        match self.running.get(&key) {
            Some(running) if *running >= generation => {}
            None if self.running.len() >= self.cpus => {
                self.waiting.insert(key, generation);
                return InstanceStatus::NoWorkerCapacity;
            }
            _ => {
                self.waiting.remove(&key);
                self.running.insert(key, generation);
            }
        }
        InstanceStatus::Running
    }

    fn take(&mut self, message: FromRoot) {
        match message {
            FromRoot::Desired { placements } => {
                let wanted: BTreeSet<_> = placements.iter().map(key_of).collect();
                self.running.retain(|key, _| wanted.contains(key));
                self.waiting.retain(|key, _| wanted.contains(key));
                let mut instances = Vec::new();
                for placement in &placements {
                    let key = key_of(placement);
                    let status = self.start(placement);
                    let generation =
                        self.running.get(&key).copied().unwrap_or(placement.command.generation);
                    instances.push(self.observed(&key, generation, status));
                }
                self.to_root.push_back(FromCluster::Snapshot {
                    instances,
                    workers: Vec::new(),
                    interests: Vec::new(),
                });
            }
            FromRoot::Deploy(placement) => {
                let status = self.start(&placement);
                self.report(&key_of(&placement), placement.command.generation, status);
            }
            FromRoot::Undeploy { key, generation, .. }
                if self.running.get(&key).is_none_or(|running| *running <= generation) =>
            {
                self.running.remove(&key);
                self.waiting.remove(&key);
                self.report(&key, generation, InstanceStatus::Undeployed);
            }
            // Newer than the root knows: it is told, and decides again.
            FromRoot::Undeploy { key, .. } => {
                let generation = self.running[&key];
                self.report(&key, generation, InstanceStatus::Running);
            }
            _ => {}
        }
    }

    /// What waits is started where there is room; then the report.
    fn resources(&mut self) {
        while self.running.len() < self.cpus
            && let Some((key, generation)) = self.waiting.pop_first()
        {
            self.running.insert(key.clone(), generation);
            self.report(&key, generation, InstanceStatus::Running);
        }
        let free = self.cpus - self.running.len();
        let room = WorkerRoom {
            worker_id: format!("worker of {}", self.name),
            free_vcpus: free as f64,
            total_vcpus: self.cpus as f64,
            free_memory: 1024.0,
            total_memory: 1024.0,
            virtualization: vec!["docker".to_owned()],
            ..WorkerRoom::default()
        };
        let resources = ClusterResources { workers: vec![room], ..ClusterResources::default() };
        self.to_root.push_back(FromCluster::Resources(resources));
    }

    /// The cluster's worker was lost and the instance placed anew, without the root.
    fn place_anew(&mut self, key: &InstanceKey) {
        if let Some(generation) = self.running.get_mut(key) {
            *generation += 1;
            let generation = *generation;
            self.report(key, generation, InstanceStatus::Running);
        }
    }
}

fn key_of(placement: &Placement) -> InstanceKey {
    InstanceKey {
        job_id: placement.job_id.clone(),
        instance_number: placement.command.instance_number,
    }
}

#[derive(Debug)]
struct Sim {
    state: State,
    clusters: Vec<SimCluster>,
    sessions: u64,
    seconds: u64,
}

fn copy<K: RowKey, V: Clone + PartialEq>(rows: &Rows<K, V>) -> Rows<K, V> {
    Rows::written(rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
}

impl Sim {
    fn new() -> Self {
        let state = State::new(Tables::default(), SETTINGS);
        let clusters = vec![SimCluster::new("munich", 3), SimCluster::new("paris", 4)];
        let mut sim = Self { state, clusters, sessions: 0, seconds: 0 };
        sim.create();
        sim
    }

    fn now(&self) -> Moment {
        let monotonic = Duration::from_secs(self.seconds);
        Moment { wall: Timestamp::UNIX_EPOCH + monotonic, monotonic }
    }

    /// A change as the engine makes it: kept, then the messages sent.
    fn change<T, E: std::fmt::Debug>(
        &mut self,
        change: impl FnOnce(&mut State, Moment) -> Result<T, E>,
    ) -> Result<T, E> {
        let now = self.now();
        let outcome = self.state.transaction(|state| change(state, now));
        self.state.refresh_peers();
        for outgoing in std::mem::take(&mut self.state.outbox) {
            let Outgoing::Send { session, message } = outgoing else { continue };
            let cluster = self.clusters.iter_mut().find(|c| c.session == Some(session));
            if let Some(cluster) = cluster {
                cluster.from_root.push_back(message);
            }
        }
        outcome
    }

    fn tell(&mut self, change: impl FnOnce(&mut State, Moment)) {
        let told: Result<(), ()> = self.change(|state, now| {
            change(state, now);
            Ok(())
        });
        told.unwrap();
    }

    /// Always the same name, so that a service follows another of its name.
    fn create(&mut self) {
        let service = Microservice {
            microservice_name: "web".to_owned(),
            microservice_namespace: "test".to_owned(),
            virtualization: "container".to_owned(),
            code: "image".to_owned(),
            vcpus: 1,
            ..Microservice::default()
        };
        let application = Application {
            application_name: "app".to_owned(),
            application_namespace: "test".to_owned(),
            microservices: vec![service],
            ..Application::default()
        };
        let sla = Sla { applications: vec![application], ..Sla::default() };
        let _exists = self.change(|state, now| state.create_applications(&admin(), &sla, now));
    }

    fn delete(&mut self) {
        let Some(id) = self.state.applications.iter().next().map(|(id, _)| id.clone()) else {
            return;
        };
        self.change(|state, now| state.delete_application(&admin(), &id, now)).unwrap();
    }

    fn service(&self) -> Option<String> {
        self.state.services.iter().next().map(|(id, _)| id.clone())
    }

    fn connect(&mut self, which: usize) {
        self.sessions += 1;
        let session = self.sessions;
        let cluster = &mut self.clusters[which];
        cluster.session = Some(session);
        cluster.to_root.clear();
        cluster.from_root.clear();
        let hello = Hello {
            name: cluster.name.clone(),
            location: String::new(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        self.tell(|state, now| {
            state.attach(session, hello, now);
        });
    }

    fn disconnect(&mut self, which: usize) {
        let cluster = &mut self.clusters[which];
        cluster.to_root.clear();
        cluster.from_root.clear();
        if let Some(session) = cluster.session.take() {
            self.tell(|state, now| {
                state.detach(session, now);
            });
        }
    }

    fn deliver_to_root(&mut self, which: usize) {
        let cluster = &mut self.clusters[which];
        let (Some(session), Some(message)) = (cluster.session, cluster.to_root.pop_front()) else {
            return;
        };
        self.tell(|state, now| state.receive(session, message, now));
    }

    fn deliver_to_cluster(&mut self, which: usize) {
        let cluster = &mut self.clusters[which];
        if let Some(message) = cluster.from_root.pop_front() {
            cluster.take(message);
        }
    }

    fn tick(&mut self, seconds: u64) {
        self.seconds += seconds;
        self.tell(State::tick);
    }

    fn restart_root(&mut self) {
        let state = &self.state;
        let tables = Tables {
            users: copy(&state.users),
            applications: copy(&state.applications),
            services: copy(&state.services),
            instances: copy(&state.instances),
            clusters: copy(&state.clusters),
            workers: copy(&state.workers),
            interests: copy(&state.interests),
            counters: copy(&state.counters),
            leases: Leases {
                service: copy(&state.ipam.service.leases),
                service_v6: state.ipam.service_v6.each_ref().map(|pool| copy(&pool.leases)),
                instance_v6: copy(&state.ipam.instance_v6.leases),
                subnets: copy(&state.ipam.subnets.leases),
            },
        };
        self.state = State::new(tables, SETTINGS);
        for cluster in &mut self.clusters {
            cluster.session = None;
            cluster.to_root.clear();
            cluster.from_root.clear();
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Create => self.create(),
            Step::Delete => self.delete(),
            Step::ScaleUp => {
                if let Some(id) = self.service() {
                    self.change(|state, now| state.deploy(&admin(), &id, now)).unwrap();
                }
            }
            Step::ScaleDown(which) => {
                let Some(id) = self.service() else { return };
                let keys = self.state.keys_of(&id);
                if !keys.is_empty() {
                    let number = keys[which.index(keys.len())].instance_number;
                    self.change(|state, now| state.scale_down(&admin(), &id, Some(number), now))
                        .unwrap();
                }
            }
            Step::Connect(which) => self.connect(which),
            Step::Disconnect(which) => self.disconnect(which),
            Step::ToRoot(which) => self.deliver_to_root(which),
            Step::ToCluster(which) => self.deliver_to_cluster(which),
            Step::Resources(which) => self.clusters[which].resources(),
            Step::PlaceAnew(which, index) => {
                let cluster = &mut self.clusters[which];
                let keys: Vec<_> = cluster.running.keys().cloned().collect();
                if !keys.is_empty() {
                    cluster.place_anew(&keys[index.index(keys.len())]);
                }
            }
            Step::ForgetAll(which) => {
                self.disconnect(which);
                self.clusters[which].running.clear();
                self.clusters[which].waiting.clear();
            }
            Step::RestartRoot => self.restart_root(),
            Step::Wait(seconds) => self.tick(seconds),
        }
    }

    fn check_addresses(&self) {
        let services = self.state.services.values().flat_map(|job| &job.service_ip_list);
        let services = services.map(|address| address.address.unwrap());
        let instances = self.state.instances.values().map(|instance| instance.instance_ip);
        let all: Vec<_> = services.chain(instances).collect();
        let different: BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "an address has two owners");
        assert_eq!(self.state.ipam.service.held(), all.len(), "an address leaked");
        for pool in &self.state.ipam.service_v6 {
            assert_eq!(pool.held(), self.state.services.len());
        }
        assert_eq!(self.state.ipam.instance_v6.held(), self.state.instances.len());
    }

    /// Everything is connected and every message arrives, for as long as refusals may pause.
    /// Sessions that are up stay up: they must converge without a comparison.
    fn heal(&mut self) {
        for which in 0..self.clusters.len() {
            if self.clusters[which].session.is_none() {
                self.connect(which);
            }
        }
        for _ in 0..80 {
            for which in 0..self.clusters.len() {
                self.clusters[which].resources();
                while !self.clusters[which].to_root.is_empty()
                    || !self.clusters[which].from_root.is_empty()
                {
                    self.deliver_to_cluster(which);
                    self.deliver_to_root(which);
                }
            }
            self.tick(2);
        }
    }

    fn check_converged(&self) {
        let mut wanted: Vec<BTreeMap<InstanceKey, u64>> = vec![BTreeMap::new(); 2];
        let mut waiting = 0;
        for (key, instance) in self.state.instances.iter() {
            assert!(!instance.removing, "{key:?} is still a tombstone: {instance:?}");
            let Some(cluster_id) =
                instance.cluster_id.as_ref().filter(|_| !instance.seeks_cluster())
            else {
                waiting += 1;
                continue;
            };
            assert_eq!(instance.status, InstanceStatus::Running, "{key:?}: {instance:?}");
            let name = self.state.cluster_name(cluster_id);
            let which = self.clusters.iter().position(|c| c.name == name).unwrap();
            wanted[which].insert(key.clone(), instance.generation);
        }
        for (cluster, wanted) in self.clusters.iter().zip(&wanted) {
            assert_eq!(&cluster.running, wanted, "what runs in {}", cluster.name);
        }
        let free: usize = self.clusters.iter().map(|c| c.cpus - c.running.len()).sum();
        assert!(waiting == 0 || free == 0, "{waiting} wait while {free} could run");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create,
    Delete,
    ScaleUp,
    ScaleDown(prop::sample::Index),
    Connect(usize),
    Disconnect(usize),
    ToRoot(usize),
    ToCluster(usize),
    Resources(usize),
    PlaceAnew(usize, prop::sample::Index),
    ForgetAll(usize),
    RestartRoot,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let cluster = 0..2_usize;
    let index = any::<prop::sample::Index>();
    prop_oneof![
        2 => Just(Step::Create),
        1 => Just(Step::Delete),
        6 => Just(Step::ScaleUp),
        3 => index.clone().prop_map(Step::ScaleDown),
        3 => cluster.clone().prop_map(Step::Connect),
        1 => cluster.clone().prop_map(Step::Disconnect),
        12 => cluster.clone().prop_map(Step::ToRoot),
        12 => cluster.clone().prop_map(Step::ToCluster),
        4 => cluster.clone().prop_map(Step::Resources),
        2 => (cluster.clone(), index).prop_map(|(which, index)| Step::PlaceAnew(which, index)),
        1 => cluster.prop_map(Step::ForgetAll),
        1 => Just(Step::RestartRoot),
        1 => (1..20_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn what_runs_is_what_is_wanted_after_any_faults(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut sim = Sim::new();
        for step in steps {
            sim.step(step);
            sim.check_addresses();
        }
        sim.heal();
        sim.check_addresses();
        sim.check_converged();
    }
}

/// Both connected, and their resources known.
fn both_ready() -> Sim {
    let mut sim = Sim::new();
    for which in 0..2 {
        sim.connect(which);
        sim.clusters[which].from_root.clear();
        sim.clusters[which].resources();
        sim.deliver_to_root(which);
    }
    sim
}

#[test]
fn what_a_cluster_had_not_confirmed_when_it_went_away_moves_to_another() {
    let mut sim = both_ready();
    sim.step(Step::ScaleUp);
    let instance = |sim: &Sim| sim.state.instances.values().next().unwrap().clone();
    let first = instance(&sim);
    let had = sim.clusters.iter().position(|c| !c.from_root.is_empty()).unwrap();
    let other = 1 - had;
    sim.disconnect(had);
    sim.tick(9);
    assert_eq!(instance(&sim), first, "it may be back soon");
    sim.clusters[other].resources();
    sim.deliver_to_root(other);
    sim.tick(1);
    assert_eq!(instance(&sim).generation, first.generation + 1);
    assert_ne!(instance(&sim).cluster_id, first.cluster_id);

    sim.deliver_to_cluster(other);
    sim.deliver_to_root(other);
    sim.connect(had);
    while !sim.clusters[had].from_root.is_empty() {
        sim.deliver_to_cluster(had);
    }
    assert!(sim.clusters[had].running.is_empty(), "it does not run where it was given first");
    assert_eq!(instance(&sim).status, InstanceStatus::Running);
}

#[test]
fn what_a_cluster_runs_stays_when_it_goes_away() {
    let mut sim = both_ready();
    sim.step(Step::ScaleUp);
    let had = sim.clusters.iter().position(|c| !c.from_root.is_empty()).unwrap();
    sim.deliver_to_cluster(had);
    sim.deliver_to_root(had);
    let before: Vec<_> = sim.state.instances.values().cloned().collect();
    sim.disconnect(had);
    for _ in 0..100 {
        sim.clusters[1 - had].resources();
        sim.deliver_to_root(1 - had);
        sim.tick(10);
    }
    let after: Vec<_> = sim.state.instances.values().cloned().collect();
    assert_eq!(after, before);
}

#[test]
fn a_burst_is_counted_before_any_report_of_resources_contains_it() {
    let mut sim = both_ready();
    for _ in 0..9 {
        sim.step(Step::ScaleUp);
    }
    let placed = |cluster: &SimCluster| {
        cluster.from_root.iter().filter(|m| matches!(m, FromRoot::Deploy(_))).count()
    };
    assert_eq!(sim.clusters.iter().map(placed).collect::<Vec<_>>(), [3, 4], "as many as fit");
    // What is running and reported is not counted twice.
    for which in 0..2 {
        while !sim.clusters[which].from_root.is_empty() {
            sim.deliver_to_cluster(which);
        }
        sim.clusters[which].cpus += 1;
        sim.clusters[which].resources();
        while !sim.clusters[which].to_root.is_empty() {
            sim.deliver_to_root(which);
        }
    }
    assert_eq!(sim.clusters.iter().map(placed).collect::<Vec<_>>(), [1, 1]);
}

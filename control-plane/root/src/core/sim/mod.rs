//! The core against simulated clusters, with messages delayed and lost, sessions broken, and
//! root and clusters restarted.

mod cluster;
mod drain;
mod faults;
mod outages;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use jiff::Timestamp;
use xylem_types::{
    node::Availability,
    rest::{AvailabilityChange, Node},
    sla::{Application, Microservice, Sla},
};

use self::cluster::SimCluster;
use super::{
    account::Caller,
    cluster::Hello,
    ipam::Leases,
    moment::Moment,
    refusal::Refusal,
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

#[derive(Debug)]
struct Sim {
    state: State,
    clusters: Vec<SimCluster>,
    sessions: u64,
    seconds: u64,
    /// Instances that the user has asked for and not taken back.
    asked: usize,
}

fn copy<K: RowKey, V: Clone + PartialEq>(rows: &Rows<K, V>) -> Rows<K, V> {
    Rows::written(rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect())
}

impl Sim {
    fn new() -> Self {
        let state = State::new(Tables::default(), SETTINGS);
        let clusters = vec![SimCluster::new("munich", 3), SimCluster::new("paris", 4)];
        let mut sim = Self { state, clusters, sessions: 0, seconds: 0, asked: 0 };
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
        self.asked = 0;
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
            nodes: copy(&state.nodes),
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

    /// Refused while the worker is not known.
    fn set_availability(
        &mut self,
        which: usize,
        availability: Availability,
    ) -> Result<Node, Refusal> {
        let worker = self.clusters[which].worker();
        let change = AvailabilityChange { availability, drain_grace_ms: None };
        self.change(|state, now| state.set_availability(&admin(), &worker, &change, now))
    }

    fn deploy(&mut self) -> u32 {
        let id = self.service().expect("a service");
        self.asked += 1;
        self.change(|state, now| state.deploy(&admin(), &id, now)).unwrap()
    }

    /// Every message under way arrives, and those that follow from it.
    fn deliver(&mut self) {
        for which in 0..self.clusters.len() {
            while !self.clusters[which].to_root.is_empty()
                || !self.clusters[which].from_root.is_empty()
            {
                self.deliver_to_cluster(which);
                self.deliver_to_root(which);
            }
        }
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
            }
            self.deliver();
            self.tick(2);
        }
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

//! What the cluster knows and decides, without any I/O and without a clock.
//!
//! The daemon feeds [`Cluster`] with what happens (a worker's message, the root's, time passing),
//! each with the present time, and takes a [`Step`] out: first [`Change`]s to be made durable,
//! then [`Effect`]s to be sent. A crash between the two sends too little, never too much, and what
//! was not sent is found again by comparison: commands are repeated until a worker reports,
//! and a session with the root begins with both sides' whole state.
//!
//! Invariants:
//! - an instance is placed on at most one worker, and its generation rises with each placement;
//! - a report is obeyed only from the worker on which the instance is placed, and only in its
//!   present generation; any other live copy is answered with a deletion;
//! - what leads another worker to a peer is sent after that peer was told who will come.

mod drain;
mod instance;
mod load;
mod network;
mod peers;
mod placement;
mod query;
mod report;
mod resources;
mod root;
mod service;
mod settings;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use xylem_types::{
    mqtt::{DeleteCommand, Peer, UpdateKind},
    session::{FromCluster, InstanceKey},
};

pub use self::{
    instance::{Attachment, Instance, Phase},
    root::SessionRefused,
    service::Service,
    settings::{DRAIN_GRACE, Settings},
    worker::{RegistrationRefused, Subnet, Worker},
};
use self::{query::Queries, root::Link};
use crate::message::{FromWorker, Message, ToWorker};

/// Monotonic time since the daemon started.
pub type Time = Duration;

/// What the cluster keeps beside workers, instances and services.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Membership {
    /// Given by the root at the first session, the same for ever.
    pub cluster_id: Option<String>,
    /// Workers of other clusters, as the root last said.
    pub foreign_peers: Vec<Peer>,
    /// Workers that take no new instances, as the root last said.
    #[serde(default)]
    pub cordoned: BTreeSet<String>,
}

/// Everything durable.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pub membership: Membership,
    pub workers: BTreeMap<String, Worker>,
    pub instances: BTreeMap<InstanceKey, Instance>,
    pub services: BTreeMap<String, Service>,
}

/// A record to be written, or with `None` removed.
#[derive(Clone, Debug)]
pub enum Change {
    Membership(Membership),
    Worker(String, Option<Box<Worker>>),
    Instance(InstanceKey, Option<Box<Instance>>),
    Service(String, Option<Box<Service>>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Mqtt(Message),
    Root(FromCluster),
}

/// What follows from what happened: the changes first, made durable, then the effects in order.
#[derive(Clone, Debug, Default)]
pub struct Step {
    pub changes: Vec<Change>,
    pub effects: Vec<Effect>,
}

/// What has happened since the start, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub placements: u64,
    pub workers_lost: u64,
    pub restarts: u64,
    pub refused_reports: u64,
    pub unanswered_queries: u64,
}

/// Records touched since the last step.
#[derive(Debug, Default)]
struct Touched {
    membership: bool,
    workers: BTreeSet<String>,
    instances: BTreeSet<InstanceKey>,
    services: BTreeSet<String>,
    /// Job names whose answer may have changed.
    answers: BTreeSet<String>,
    /// Job names of instances that have got a place in the network.
    attached: BTreeSet<String>,
}

#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    membership: Membership,
    workers: BTreeMap<String, Worker>,
    instances: BTreeMap<InstanceKey, Instance>,
    /// Job name → instance number → key.
    numbers: BTreeMap<String, BTreeMap<u32, InstanceKey>>,
    services: BTreeMap<String, Service>,
    /// Service IPs and instance IPs → job name.
    addresses: HashMap<IpAddr, String>,
    queries: Queries,
    link: Link,
    broker_connected: bool,
    /// Some worker may have to be told its peers.
    peers_stale: bool,
    last_tick: Time,
    resources_due: Time,
    usage_due: Time,
    load_due: Time,
    /// Services of which some instance may use more or less than workers were told.
    loads_changed: BTreeSet<String>,
    touched: Touched,
    effects: Vec<Effect>,
    tally: Tally,
}

impl Cluster {
    /// The cluster as it was when it last wrote. Its workers count as heard now, and have twice
    /// the usual time to come back.
    pub fn new(settings: Settings, records: Records) -> Self {
        let mut cluster = Self {
            membership: records.membership,
            workers: records.workers,
            instances: BTreeMap::new(),
            numbers: BTreeMap::new(),
            services: BTreeMap::new(),
            addresses: HashMap::new(),
            queries: Queries::default(),
            link: Link::default(),
            broker_connected: false,
            peers_stale: true,
            last_tick: Time::ZERO,
            resources_due: Time::ZERO,
            usage_due: Time::ZERO,
            load_due: Time::ZERO,
            loads_changed: BTreeSet::new(),
            touched: Touched::default(),
            effects: Vec::new(),
            tally: Tally::default(),
            settings,
        };
        for (key, instance) in records.instances {
            cluster.insert_instance(key, instance);
        }
        for (job_name, service) in records.services {
            cluster.index_addresses(&job_name, &service);
            cluster.services.insert(job_name.clone(), service);
            cluster.note_announced(&job_name);
        }
        cluster.touched = Touched::default();
        cluster
    }

    /// The connection to the broker stands and every topic is subscribed. What was sent before
    /// may not have arrived: workers are told again when they speak, and those that were
    /// connected all the time are to ask again for whatever they hold an interest in.
    pub fn broker_connected(&mut self, now: Time) {
        self.broker_connected = true;
        self.peers_stale = true;
        for job_name in self.services.keys() {
            let (job_name, change) = (job_name.clone(), UpdateKind::Deployment);
            self.effects.push(Effect::Mqtt(Message::Updates { job_name, change }));
        }
        for worker in self.workers.values_mut() {
            worker.live.grant_grace(now, self.settings.worker_silence);
            worker.live.up_to_date = false;
        }
    }

    /// Nobody can be heard until it is back, so nobody's silence counts.
    pub fn broker_lost(&mut self) {
        self.broker_connected = false;
    }

    /// A worker speaks.
    pub fn from_worker(&mut self, worker: &str, message: FromWorker, now: Time) {
        if !self.hear(worker, &message, now) {
            return self.answer_stranger(worker, &message);
        }
        match message {
            FromWorker::Information(node) => self.on_information(worker, &node),
            FromWorker::Job(report) => self.on_report(worker, report, now),
            FromWorker::Resources(list) => self.on_resources(worker, list, now),
            FromWorker::Subnet(request) => self.on_subnet_request(worker, &request),
            FromWorker::Query(query) => self.on_query(worker, &query, now),
            FromWorker::Deployed(event) => self.on_attached(worker, &event),
            FromWorker::Undeployed(event) => self.on_detached(worker, &event),
            FromWorker::AddressChanged(event) => self.on_address_changed(worker, &event),
            FromWorker::InterestRemove(event) => self.on_interest_remove(worker, &event.appname),
            FromWorker::PeersRequest(request) => self.on_peers_request(worker, request.sender, now),
        }
    }

    /// Time passes; to be called several times a second.
    pub fn tick(&mut self, now: Time) {
        self.forgive_own_pauses(now);
        // In this order, so that the loss of a worker is seen before its instances move.
        self.review_instances(now);
        self.find_lost_workers(now);
        self.review_queries(now);
        self.report_resources(now);
        self.tell_loads(now);
        self.last_tick = now;
    }

    /// Takes what follows from everything since the last call.
    pub fn step(&mut self, now: Time) -> Step {
        let mut effects = self.peer_updates();
        effects.append(&mut self.effects);
        self.announce_answers();
        effects.append(&mut self.effects);
        self.observe_touched();
        self.learn_attached(now);
        effects.append(&mut self.effects);
        Step { changes: self.take_changes(), effects }
    }

    pub fn cluster_id(&self) -> Option<&str> {
        self.membership.cluster_id.as_deref()
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    pub fn instances(&self) -> impl Iterator<Item = (&InstanceKey, &Instance)> {
        self.instances.iter()
    }

    pub fn services(&self) -> usize {
        self.services.len()
    }

    fn take_changes(&mut self) -> Vec<Change> {
        let touched = std::mem::take(&mut self.touched);
        let mut changes = Vec::new();
        if touched.membership {
            changes.push(Change::Membership(self.membership.clone()));
        }
        changes.extend(touched.workers.into_iter().map(|id| {
            let worker = self.workers.get(&id).cloned().map(Box::new);
            Change::Worker(id, worker)
        }));
        changes.extend(touched.instances.into_iter().map(|key| {
            let instance = self.instances.get(&key).cloned().map(Box::new);
            Change::Instance(key, instance)
        }));
        changes.extend(touched.services.into_iter().map(|name| {
            let service = self.services.get(&name).cloned().map(Box::new);
            Change::Service(name, service)
        }));
        changes
    }

    fn send(&mut self, worker: &str, body: ToWorker) {
        self.effects.push(Effect::Mqtt(Message::To { worker: worker.to_owned(), body }));
    }

    /// To the root, if it listens: what it misses, it will find in the next snapshot.
    fn tell_root(&mut self, message: FromCluster) {
        if self.link == Link::Synced {
            self.effects.push(Effect::Root(message));
        }
    }

    /// Tells a worker to remove one copy, whether or not we ever placed it there. A worker that
    /// knows no generations gets none.
    fn send_delete(
        &mut self,
        worker: &str,
        job_name: &str,
        number: u32,
        virtualization: &str,
        generation: u64,
    ) {
        let identified = self.workers.get(worker).is_some_and(Worker::identified);
        let command = DeleteCommand {
            job_name: job_name.to_owned(),
            virtualization: virtualization.to_owned(),
            instance_number: number,
            generation: identified.then_some(generation),
        };
        self.send(worker, ToWorker::Delete(command));
    }

    fn insert_instance(&mut self, key: InstanceKey, instance: Instance) {
        self.numbers
            .entry(instance.job_name().to_owned())
            .or_default()
            .insert(key.instance_number, key.clone());
        self.touch(&key, instance.job_name());
        self.instances.insert(key, instance);
    }

    fn remove_instance(&mut self, key: &InstanceKey) -> Option<Instance> {
        let instance = self.instances.remove(key)?;
        let job_name = instance.job_name();
        if let Some(numbers) = self.numbers.get_mut(job_name) {
            // Another service of the same name may have taken the number.
            if numbers.get(&key.instance_number) == Some(key) {
                numbers.remove(&key.instance_number);
            }
            if numbers.is_empty() {
                self.numbers.remove(job_name);
            }
        }
        self.touch(key, instance.job_name());
        Some(instance)
    }

    fn key_of(&self, job_name: &str, number: u32) -> Option<InstanceKey> {
        self.numbers.get(job_name)?.get(&number).cloned()
    }

    /// The instance changed: to be written, reported, and announced to those who dial it.
    fn touch(&mut self, key: &InstanceKey, job_name: &str) {
        self.touched.instances.insert(key.clone());
        self.touched.answers.insert(job_name.to_owned());
    }
}

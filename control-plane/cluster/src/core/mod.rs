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
    worker::{RegistrationRefused, Subnet, Worker},
};
use self::{query::Queries, root::Link};
use crate::message::{FromWorker, Message, ToWorker};

/// Monotonic time since the daemon started.
pub type Time = Duration;

/// As long as most requests take, and much longer than it takes until everybody has heard that an
/// instance drains. Elsewhere it is what one is told to configure: services of Kubernetes stop
/// pods at once unless a pre-stop hook waits, usually 5 to 15 s, within the 30 s that a pod has;
/// Nomad's `shutdown_delay` is 0 s, and advised to be a few seconds. Load balancers of clouds wait
/// for minutes, which is for those who know that their flows are long: each stop, and the room on
/// the worker, would wait as well.
pub const DRAIN_GRACE: Duration = Duration::from_secs(10);

/// Everything that can be chosen about the decisions.
#[derive(Clone, Debug)]
pub struct Settings {
    pub cluster_name: String,
    pub cluster_location: String,
    /// A worker not heard for this long is lost, and its instances are placed again.
    pub worker_silence: Duration,
    /// A command is repeated after this time without a report.
    pub resend_after: Duration,
    /// An instance without a place looks for one this often.
    pub place_again_after: Duration,
    /// Wait before an instance that ended is started again; doubles each time…
    pub restart_after: Duration,
    /// …up to this.
    pub restart_after_max: Duration,
    /// An instance that ran for this long starts again at [`Self::restart_after`].
    pub stable_after: Duration,
    /// An instance that its worker does not list for this long is gone.
    pub unlisted_after: Duration,
    /// How long a worker waits for an answer of the root before it is told that there is none.
    pub query_patience: Duration,
    /// How long the root's "unknown" is believed.
    pub unknown_for: Duration,
    /// How long an instance that is to be stopped runs on without new flows, so that those that
    /// it has can end. Zero: not at all.
    pub drain_grace: Duration,
    /// How often it is considered what workers are to be told of what instances use.
    pub load_every: Duration,
    /// How often the root is told of the cluster's room…
    pub resources_every: Duration,
    /// …and of what instances use and print.
    pub usage_every: Duration,
}

impl Settings {
    pub fn new(cluster_name: &str) -> Self {
        Self {
            cluster_name: cluster_name.to_owned(),
            cluster_location: String::new(),
            worker_silence: Duration::from_secs(5),
            resend_after: Duration::from_secs(3),
            place_again_after: Duration::from_secs(2),
            restart_after: Duration::from_secs(1),
            restart_after_max: Duration::from_secs(60),
            stable_after: Duration::from_secs(60),
            unlisted_after: Duration::from_secs(15),
            query_patience: Duration::from_secs(3),
            unknown_for: Duration::from_secs(2),
            drain_grace: DRAIN_GRACE,
            load_every: Duration::from_secs(2),
            resources_every: Duration::from_secs(2),
            usage_every: Duration::from_secs(4),
        }
    }
}

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

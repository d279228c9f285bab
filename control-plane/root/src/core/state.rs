//! Everything the root knows, and how a change of it is kept or taken back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xylem_types::{
    job::Job,
    mqtt::Peer,
    rest::Application,
    session::{FromRoot, InstanceKey},
};

use super::{
    account::User,
    cluster::{KnownCluster, Live},
    instance::Instance,
    ipam::{Ipam, Leases},
    load::Loads,
    moment::Moment,
    node::{NodeKey, NodeOrder},
    placement::Refusals,
    route::Interest,
    rows::{RowKey, Rows},
    usage::Usage,
};

/// A message for a session, or its end.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Send { session: u64, message: FromRoot },
    Close { session: u64 },
}

/// Counted since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) placements: u64,
    /// A cluster had no room for what it was given.
    pub(crate) placements_refused: u64,
    /// Reports of an older generation, or from a cluster that the instance has left.
    pub(crate) reports_stale: u64,
    pub(crate) sessions_opened: u64,
}

/// What is on disk.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// By id.
    pub(crate) users: Rows<String, User>,
    /// By id.
    pub(crate) applications: Rows<String, Application>,
    /// By id, without their instances.
    pub(crate) services: Rows<String, Job>,
    pub(crate) instances: Rows<InstanceKey, Instance>,
    /// By id.
    pub(crate) clusters: Rows<String, KnownCluster>,
    /// The workers of a cluster as it reported them last, by its id. Kept on disk, so that a
    /// root that starts does not withdraw the workers of a cluster that comes back later.
    pub(crate) workers: Rows<String, Vec<Peer>>,
    /// What was asked of workers; most have no row.
    pub(crate) nodes: Rows<NodeKey, NodeOrder>,
    pub(crate) interests: Rows<Interest, Registered>,
    /// The last number used, by what it numbers.
    pub(crate) counters: Rows<String, u64>,
    pub(crate) leases: Leases,
}

/// An interest says all by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registered {}

/// The root's state: rows, and what is true only while the process runs.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) users: Rows<String, User>,
    pub(crate) applications: Rows<String, Application>,
    pub(crate) services: Rows<String, Job>,
    pub(crate) instances: Rows<InstanceKey, Instance>,
    pub(crate) clusters: Rows<String, KnownCluster>,
    pub(crate) workers: Rows<String, Vec<Peer>>,
    pub(crate) nodes: Rows<NodeKey, NodeOrder>,
    pub(crate) interests: Rows<Interest, Registered>,
    pub(crate) counters: Rows<String, u64>,
    pub(crate) ipam: Ipam,
    pub(crate) settings: Settings,
    /// The connected clusters by id.
    pub(crate) live: BTreeMap<String, Live>,
    /// Since when a cluster is not connected, by its id, on the monotonic clock.
    pub(crate) lost: BTreeMap<String, std::time::Duration>,
    pub(crate) usage: BTreeMap<InstanceKey, Usage>,
    pub(crate) loads: Loads,
    pub(crate) refusals: BTreeMap<InstanceKey, Refusals>,
    /// Why a worker that is drained got no replacement for an instance, as last tried.
    pub(crate) drain_refusals: BTreeMap<NodeKey, String>,
    pub(crate) outbox: Vec<Outgoing>,
    pub(crate) tally: Tally,
    /// Something changed that decides which workers are peers of which cluster.
    pub(crate) peers_stale: bool,
}

/// What an operator may set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// A cluster whose last report of resources is older gets nothing new.
    pub(crate) resources_stale_after: std::time::Duration,
    /// An instance that was given to a cluster which went away before it confirmed, is given to
    /// another after this time.
    pub(crate) unconfirmed_move_after: std::time::Duration,
}

impl State {
    pub(crate) fn new(tables: Tables, settings: Settings) -> Self {
        Self {
            users: tables.users,
            applications: tables.applications,
            services: tables.services,
            instances: tables.instances,
            clusters: tables.clusters,
            workers: tables.workers,
            nodes: tables.nodes,
            interests: tables.interests,
            counters: tables.counters,
            ipam: Ipam::new(tables.leases),
            settings,
            live: BTreeMap::new(),
            lost: BTreeMap::new(),
            usage: BTreeMap::new(),
            loads: Loads::default(),
            refusals: BTreeMap::new(),
            drain_refusals: BTreeMap::new(),
            outbox: Vec::new(),
            tally: Tally::default(),
            peers_stale: false,
        }
    }

    /// Runs `change`; when it is refused, no row is changed and no message left.
    pub(crate) fn transaction<T, E>(
        &mut self,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let messages = self.outbox.len();
        let outcome = change(self);
        if outcome.is_ok() {
            self.keep();
        } else {
            self.roll_back();
            self.outbox.truncate(messages);
        }
        outcome
    }

    /// A new id, in the form of the document ids that Oakestra's clients know: 24 hexadecimal
    /// digits that begin with the time.
    pub(crate) fn new_id(&mut self, now: Moment) -> String {
        let key = "id".to_owned();
        let number = self.counters.get(&key).copied().unwrap_or(0) + 1;
        self.counters.put(key, number);
        let seconds = u32::try_from(now.wall.as_second()).unwrap_or(0);
        format!("{seconds:08x}{number:016x}")
    }

    /// A message for a cluster; dropped when it is not connected, since it will compare its state
    /// with ours when it is.
    pub(crate) fn send(&mut self, cluster_id: &str, message: FromRoot) {
        if let Some(live) = self.live.get(cluster_id) {
            self.outbox.push(Outgoing::Send { session: live.session, message });
        }
    }

    fn keep(&mut self) {
        self.users.keep();
        self.applications.keep();
        self.services.keep();
        self.instances.keep();
        self.clusters.keep();
        self.workers.keep();
        self.nodes.keep();
        self.interests.keep();
        self.counters.keep();
        self.ipam.pools_mut().for_each(|pool| pool.leases.keep());
    }

    fn roll_back(&mut self) {
        self.users.roll_back();
        self.applications.roll_back();
        self.services.roll_back();
        self.instances.roll_back();
        self.clusters.roll_back();
        self.workers.roll_back();
        self.nodes.roll_back();
        self.interests.roll_back();
        self.counters.roll_back();
        self.ipam.pools_mut().for_each(|pool| pool.leases.roll_back());
    }
}

impl RowKey for InstanceKey {
    fn encode(&self) -> String {
        format!("{}/{:010}", self.job_id, self.instance_number)
    }

    fn decode(text: &str) -> Option<Self> {
        let (job_id, number) = text.split_once('/')?;
        Some(Self { job_id: job_id.to_owned(), instance_number: number.parse().ok()? })
    }
}

//! Clusters: known by name for ever, live while their session is up.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use xylem_scheduler::reserve;
use xylem_types::{
    mqtt::Peer,
    session::{ClusterResources, FromRoot, InstanceKey, SubnetResult, WorkerRoom},
};

use super::{
    instance::placement,
    moment::Moment,
    placement::Unsettled,
    state::{Outgoing, State},
};

/// A cluster that has connected at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownCluster {
    pub(crate) name: String,
    pub(crate) location: String,
}

/// A connected cluster.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) session: u64,
    /// Where the session comes from.
    pub(crate) ip: IpAddr,
    /// The last report, and when it came.
    pub(crate) resources: Option<(ClusterResources, Moment)>,
    /// The reported room, less what was placed since.
    pub(crate) rooms: Vec<WorkerRoom>,
    pub(crate) unsettled: BTreeMap<InstanceKey, Unsettled>,
    /// The peers last sent.
    pub(crate) peers: Option<Vec<Peer>>,
    /// Ids of the workers that take no new instances, as last sent.
    cordoned: BTreeSet<String>,
}

impl Live {
    /// Counts a placement against the room of its worker.
    pub(crate) fn reserve(&mut self, key: InstanceKey, unsettled: Unsettled) {
        subtract(&mut self.rooms, &unsettled);
        self.unsettled.insert(key, unsettled);
    }

    pub(crate) fn unreserve(&mut self, key: &InstanceKey) {
        if self.unsettled.remove(key).is_some() {
            self.count_rooms();
        }
    }

    /// The cluster has chosen a worker by itself.
    pub(crate) fn acknowledge(&mut self, key: &InstanceKey) {
        if let Some(unsettled) = self.unsettled.get_mut(key) {
            unsettled.acknowledged = true;
        }
    }

    /// These workers and no others take no new instances, whatever the cluster said last.
    pub(crate) fn cordon(&mut self, cordoned: BTreeSet<String>) {
        self.cordoned = cordoned;
        self.count_rooms();
    }

    fn count_rooms(&mut self) {
        self.rooms = match &self.resources {
            Some((resources, _)) => resources.workers.clone(),
            None => Vec::new(),
        };
        for room in &mut self.rooms {
            room.cordoned = self.cordoned.contains(&room.worker_id);
        }
        for unsettled in self.unsettled.values() {
            subtract(&mut self.rooms, unsettled);
        }
    }
}

fn subtract(rooms: &mut [WorkerRoom], unsettled: &Unsettled) {
    if let Some(room) = rooms.iter_mut().find(|room| room.worker_id == unsettled.worker_id) {
        reserve(&unsettled.request, room);
    }
}

/// A cluster's first words.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) name: String,
    pub(crate) location: String,
    pub(crate) ip: IpAddr,
}

impl State {
    /// A cluster has connected: it gets its id and all that it shall run. An older session of
    /// the same name ends, since it is the same cluster after a break that only it has noticed.
    /// Returns the cluster's id.
    pub(crate) fn attach(&mut self, session: u64, hello: Hello, now: Moment) -> String {
        let known = self.clusters.iter().find(|(_, cluster)| cluster.name == hello.name);
        let id = match known.map(|(id, _)| id.clone()) {
            Some(id) => id,
            None => self.new_id(now),
        };
        let cluster = KnownCluster { name: hello.name, location: hello.location };
        self.clusters.put(id.clone(), cluster);
        let cordoned = self.cordoned_in(&id);
        let live = Live {
            session,
            ip: hello.ip,
            resources: None,
            rooms: Vec::new(),
            unsettled: BTreeMap::new(),
            peers: None,
            cordoned: cordoned.clone(),
        };
        if let Some(old) = self.live.insert(id.clone(), live) {
            let reason = "another session of this cluster has begun: if two clusters have the \
                          same name, rename one"
                .to_owned();
            let message = FromRoot::Refused { reason };
            self.outbox.push(Outgoing::Send { session: old.session, message });
            self.outbox.push(Outgoing::Close { session: old.session });
        }
        self.lost.remove(&id);
        self.tally.sessions_opened += 1;
        let placements = self
            .instances
            .iter()
            .filter(|(_, instance)| {
                instance.cluster_id.as_deref() == Some(&id) && instance.is_wanted()
            })
            .filter_map(|(key, instance)| {
                Some(placement(self.services.get(&key.job_id)?, key, instance.generation))
            })
            .collect();
        self.send(&id, FromRoot::Welcome { cluster_id: id.clone() });
        self.send(&id, FromRoot::Desired { placements, cordoned });
        self.peers_stale = true;
        id
    }

    /// A session has ended; says of which cluster, unless another has taken its place.
    pub(crate) fn detach(&mut self, session: u64, now: Moment) -> Option<String> {
        let id = self.live.iter().find(|(_, live)| live.session == session)?.0.clone();
        self.live.remove(&id);
        self.lost.insert(id.clone(), now.monotonic);
        Some(id)
    }

    /// A report of resources: what was placed and is in the report is no longer subtracted from
    /// it, and those that wait try again.
    pub(crate) fn resources(&mut self, cluster_id: &str, resources: ClusterResources, now: Moment) {
        let Some(live) = self.live.get_mut(cluster_id) else { return };
        live.resources = Some((resources, now));
        live.unsettled.retain(|_, unsettled| !unsettled.acknowledged);
        live.count_rooms();
        self.place_waiting(now);
    }

    /// The workers of the cluster, as peers of others.
    pub(crate) fn cluster_workers(&mut self, cluster_id: &str, mut workers: Vec<Peer>) {
        workers.sort();
        if self.workers.get(cluster_id) != Some(&workers) {
            self.workers.put(cluster_id.to_owned(), workers);
            self.peers_stale = true;
        }
    }

    pub(crate) fn subnet(&mut self, cluster_id: &str, worker_id: String) {
        let result = match self.ipam.subnet(&worker_id) {
            Ok(subnet) => SubnetResult::Granted { v4: subnet.v4, v6: subnet.v6 },
            Err(refusal) => SubnetResult::Refused { reason: refusal.to_string() },
        };
        self.send(cluster_id, FromRoot::Subnet { worker_id, result });
    }

    /// The cluster's session when it is connected and its report of resources is fresh.
    pub(crate) fn active(&self, cluster_id: &str, now: Moment) -> Option<&Live> {
        self.live.get(cluster_id).filter(|live| {
            live.resources.as_ref().is_some_and(|(_, at)| {
                now.monotonic < at.monotonic + self.settings.resources_stale_after
            })
        })
    }

    pub(crate) fn cluster_name(&self, cluster_id: &str) -> String {
        self.clusters.get(cluster_id).map(|cluster| cluster.name.clone()).unwrap_or_default()
    }

    /// What time alone brings about.
    pub(crate) fn tick(&mut self, now: Moment) {
        self.move_unconfirmed(now);
        self.advance_drains(now);
        self.tell_loads(now);
    }

    /// Since when the cluster has been away; since the start when it never was here.
    pub(crate) fn lost_since(&self, cluster_id: &str) -> Duration {
        self.lost.get(cluster_id).copied().unwrap_or_default()
    }
}

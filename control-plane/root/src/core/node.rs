//! Workers as operators see them: where they are, and whether they take instances.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use xylem_types::{
    mqtt::Peer,
    node::Availability,
    rest::{AvailabilityChange, Node},
    session::{FromRoot, WorkerRoom},
};

use super::{account::Caller, moment::Moment, refusal::Refusal, rows::RowKey, state::State};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeKey {
    pub(crate) cluster_id: String,
    pub(crate) worker_id: String,
}

/// What an operator has asked of a worker that is not simply active.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeOrder {
    pub(crate) availability: Availability,
    /// How long a replaced instance may drain; none = as its cluster is configured.
    #[serde(default)]
    pub(crate) drain_grace_ms: Option<u64>,
}

impl NodeOrder {
    pub(crate) fn drain_grace(&self) -> Option<Duration> {
        self.drain_grace_ms.map(Duration::from_millis)
    }
}

impl RowKey for NodeKey {
    fn encode(&self) -> String {
        format!("{}/{}", self.cluster_id, self.worker_id)
    }

    fn decode(text: &str) -> Option<Self> {
        let (cluster_id, worker_id) = text.split_once('/')?;
        Some(Self { cluster_id: cluster_id.to_owned(), worker_id: worker_id.to_owned() })
    }
}

impl State {
    /// Whether the worker takes instances from now on. Returns it as it is then.
    pub(crate) fn set_availability(
        &mut self,
        caller: &Caller,
        worker_id: &str,
        change: &AvailabilityChange,
        now: Moment,
    ) -> Result<Node, Refusal> {
        caller.require_admin()?;
        if change.drain_grace_ms.is_some() && change.availability != Availability::Draining {
            let reason = "only a node that is drained has a drain time";
            return Err(Refusal::field("drain_grace_ms", reason));
        }
        let key = self.node_called(worker_id)?;
        if change.availability.is_active() {
            self.nodes.remove(&key);
            self.drain_refusals.remove(&key);
        } else {
            let (availability, drain_grace_ms) = (change.availability, change.drain_grace_ms);
            self.nodes.put(key.clone(), NodeOrder { availability, drain_grace_ms });
        }
        let cordoned = self.cordoned_in(&key.cluster_id);
        if let Some(live) = self.live.get_mut(&key.cluster_id) {
            live.cordon(cordoned.clone());
        }
        self.send(&key.cluster_id, FromRoot::Cordoned { workers: cordoned });
        self.advance_drains(now);
        self.place_waiting(now);
        Ok(self.node_view(&key, self.room_of(&key), self.peer_of(&key)))
    }

    fn node_called(&self, worker_id: &str) -> Result<NodeKey, Refusal> {
        let clusters: Vec<_> = self
            .clusters
            .iter()
            .map(|(id, _)| NodeKey { cluster_id: id.clone(), worker_id: worker_id.to_owned() })
            .filter(|key| {
                let known = self.room_of(key).is_some() || self.peer_of(key).is_some();
                known || self.nodes.contains(key)
            })
            .collect();
        match clusters.as_slice() {
            [] => Err(Refusal::not_found("node", worker_id)),
            [key] => Ok(key.clone()),
            [key, other, ..] => {
                let name = |key: &NodeKey| self.cluster_name(&key.cluster_id);
                let reason = format!(
                    "{} and {} have each a worker of the id {worker_id}: name one otherwise",
                    name(key),
                    name(other),
                );
                Err(Refusal::field("id", &reason))
            }
        }
    }

    /// The workers of the cluster that take no new instances.
    pub(crate) fn cordoned_in(&self, cluster_id: &str) -> BTreeSet<String> {
        let of_cluster = self.nodes.iter().filter(|(key, _)| key.cluster_id == cluster_id);
        of_cluster.map(|(key, _)| key.worker_id.clone()).collect()
    }

    /// The workers of all active clusters, with the room that their clusters reported.
    pub(crate) fn nodes_view(&self, now: Moment) -> Vec<Node> {
        let mut nodes = Vec::new();
        for (cluster_id, _) in self.clusters.iter() {
            let Some(live) = self.active(cluster_id, now) else { continue };
            let peers: BTreeMap<&str, &Peer> = self
                .workers
                .get(cluster_id)
                .into_iter()
                .flatten()
                .map(|peer| (peer.worker_id.as_str(), peer))
                .collect();
            let reported = live.resources.iter().flat_map(|(resources, _)| &resources.workers);
            nodes.extend(reported.map(|room| {
                let worker_id = room.worker_id.clone();
                let key = NodeKey { cluster_id: cluster_id.clone(), worker_id };
                self.node_view(&key, Some(room), peers.get(room.worker_id.as_str()).copied())
            }));
        }
        nodes
    }

    fn node_view(&self, key: &NodeKey, room: Option<&WorkerRoom>, peer: Option<&Peer>) -> Node {
        let unknown = || WorkerRoom { worker_id: key.worker_id.clone(), ..WorkerRoom::default() };
        let availability = self.nodes.get(key).map(|order| order.availability).unwrap_or_default();
        Node {
            cluster_id: key.cluster_id.clone(),
            cluster_name: self.cluster_name(&key.cluster_id),
            room: room.cloned().unwrap_or_else(unknown),
            host_ip: peer.map(|peer| peer.endpoint.host_ip),
            host_port: peer.map(|peer| peer.endpoint.host_port),
            subnet: peer.and_then(|peer| peer.subnet),
            availability,
            drain: (availability == Availability::Draining).then(|| self.drain_progress(key)),
        }
    }

    fn room_of(&self, key: &NodeKey) -> Option<&WorkerRoom> {
        let (resources, _) = self.live.get(&key.cluster_id)?.resources.as_ref()?;
        resources.workers.iter().find(|room| room.worker_id == key.worker_id)
    }

    fn peer_of(&self, key: &NodeKey) -> Option<&Peer> {
        let peers = self.workers.get(&key.cluster_id)?;
        peers.iter().find(|peer| peer.worker_id == key.worker_id)
    }
}

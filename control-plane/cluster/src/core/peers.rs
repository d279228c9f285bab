//! Who exchanges tunnel packets with whom.

use std::{collections::BTreeSet, time::Duration};

use xylem_types::{
    mqtt::{Peer, Peers, TunnelEndpoint},
    session::FromCluster,
};

use super::{Cluster, Effect, Time, Worker};
use crate::message::{Message, ToWorker};

/// A worker's list is repeated at most so often, however often it asks.
const REPEATED_EVERY: Duration = Duration::from_secs(1);

impl Cluster {
    /// Our workers as peers of others: those that have a subnet and can be reached.
    pub(super) fn own_peers(&self) -> Vec<Peer> {
        self.workers.iter().filter_map(|(id, worker)| as_peer(id, worker)).collect()
    }

    /// The new list for every worker whose peers are not what it was last told. Lost workers stay
    /// in it: that we do not hear one does not mean that others do not.
    pub(super) fn peer_updates(&mut self) -> Vec<Effect> {
        let changed = !self.touched.workers.is_empty() || self.touched.membership;
        if !self.broker_connected || !(changed || self.peers_stale) {
            return Vec::new();
        }
        self.peers_stale = false;
        let own = self.own_peers();
        let ours: BTreeSet<&str> = self.workers.keys().map(String::as_str).collect();
        let foreign: Vec<Peer> = self
            .membership
            .foreign_peers
            .iter()
            .filter(|peer| !ours.contains(peer.worker_id.as_str()))
            .cloned()
            .collect();
        let mut effects = Vec::new();
        for (id, worker) in &mut self.workers {
            // Whoever has not asked for a subnet has no tunnel yet.
            if worker.subnet.is_none() {
                continue;
            }
            let others = own.iter().filter(|peer| peer.worker_id != *id);
            let peers: Vec<Peer> = others.chain(&foreign).cloned().collect();
            if worker.live.peers_sent.as_ref() == Some(&peers) {
                continue;
            }
            worker.live.peers_sent = Some(peers.clone());
            let body = ToWorker::Peers(Peers { peers });
            effects.push(Effect::Mqtt(Message::To { worker: id.clone(), body }));
        }
        effects
    }

    /// A worker gets tunnel packets from somebody whom it does not know. If it was told of that
    /// peer, it is told again, at most so often.
    pub(super) fn on_peers_request(&mut self, id: &str, sender: TunnelEndpoint, now: Time) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let told = worker.live.peers_sent.as_deref().unwrap_or_default();
        if !told.iter().any(|peer| peer.endpoint == sender) {
            return tracing::debug!(
                node.id = id, sender = ?sender, "a worker asks for a sender that is no peer of it"
            );
        }
        if worker.live.peers_repeated_at.is_some_and(|at| now < at + REPEATED_EVERY) {
            return;
        }
        worker.live.peers_repeated_at = Some(now);
        worker.live.peers_sent = None;
        self.peers_stale = true;
    }

    /// The root's list of workers of other clusters.
    pub(super) fn on_foreign_peers(&mut self, mut peers: Vec<Peer>) {
        peers.sort();
        if self.membership.foreign_peers != peers {
            self.membership.foreign_peers = peers;
            self.touched.membership = true;
        }
    }

    /// One of our workers can be reached, or elsewhere than before.
    pub(super) fn announce_workers(&mut self) {
        let workers = self.own_peers();
        self.tell_root(FromCluster::Workers { workers });
    }
}

fn as_peer(id: &str, worker: &Worker) -> Option<Peer> {
    let subnet = worker.subnet?;
    Some(Peer {
        worker_id: id.to_owned(),
        endpoint: worker.tunnel()?,
        subnet: Some(subnet.v4),
        subnet_v6: Some(subnet.v6),
        kind: worker.kind(),
    })
}

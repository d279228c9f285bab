//! Who exchanges packets with whom across clusters.
//!
//! The workers of another cluster are peers when that cluster holds an interest in something
//! that runs here: any of them may dial it. Of a cluster that runs something in which this one
//! holds an interest, those workers are peers that run it.

use std::collections::{BTreeMap, BTreeSet};

use xylem_types::{mqtt::Peer, session::FromRoot};

use super::state::State;

impl State {
    /// Sends every connected cluster its peers when they are others than it was sent before.
    pub(crate) fn refresh_peers(&mut self) {
        if !std::mem::take(&mut self.peers_stale) {
            return;
        }
        let mut peers = self.peers_by_cluster();
        let connected: Vec<_> = self.live.keys().cloned().collect();
        for cluster_id in connected {
            let peers: Vec<_> = peers.remove(&cluster_id).unwrap_or_default().into_iter().collect();
            let Some(live) = self.live.get_mut(&cluster_id) else { continue };
            if live.peers.as_ref() != Some(&peers) {
                live.peers = Some(peers.clone());
                self.send(&cluster_id, FromRoot::Peers { peers });
            }
        }
    }

    fn peers_by_cluster(&self) -> BTreeMap<String, BTreeSet<Peer>> {
        // By service: the clusters that run it, and on which workers.
        let mut running: BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
        for instance in self.instances.values() {
            let Some(cluster_id) = instance.cluster_id.as_deref() else { continue };
            if !instance.site.worker_id.is_empty() {
                let clusters = running.entry(&instance.job_name).or_default();
                clusters.entry(cluster_id).or_default().insert(&instance.site.worker_id);
            }
        }
        let mut peers: BTreeMap<String, BTreeSet<Peer>> = BTreeMap::new();
        for (interest, _) in self.interests.iter() {
            let Some(clusters) = running.get(interest.job_name.as_str()) else { continue };
            for (cluster_id, workers) in clusters {
                if *cluster_id == interest.cluster_id {
                    continue;
                }
                let may_dial = self.workers_of(&interest.cluster_id);
                peers.entry((*cluster_id).to_owned()).or_default().extend(may_dial.cloned());
                let answer = self
                    .workers_of(cluster_id)
                    .filter(|worker| workers.contains(worker.worker_id.as_str()));
                peers.entry(interest.cluster_id.clone()).or_default().extend(answer.cloned());
            }
        }
        peers
    }

    fn workers_of(&self, cluster_id: &str) -> impl Iterator<Item = &Peer> {
        self.workers.get(cluster_id).into_iter().flatten()
    }
}

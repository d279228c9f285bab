//! The cluster in numbers, for those who look from outside.

use std::collections::BTreeMap;

use crate::core::{Cluster, Tally};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    pub(crate) cluster_name: String,
    pub(crate) cluster_id: String,
    pub(crate) connected_to_root: bool,
    pub(crate) connected_to_broker: bool,
    pub(crate) workers: u64,
    pub(crate) workers_active: u64,
    /// By status.
    pub(crate) instances: BTreeMap<String, u64>,
    pub(crate) services: u64,
    pub(crate) tally: Tally,
    pub(crate) traffic: Traffic,
}

/// Messages since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traffic {
    pub(crate) mqtt_received: u64,
    pub(crate) mqtt_not_understood: u64,
    pub(crate) mqtt_sent: u64,
    /// Not sent, since the broker was away or behind; repeated later where it matters.
    pub(crate) mqtt_dropped: u64,
    pub(crate) root_sessions: u64,
}

impl Summary {
    pub(crate) fn of(
        cluster: &Cluster,
        name: &str,
        connected_to_broker: bool,
        traffic: Traffic,
    ) -> Self {
        let mut instances = BTreeMap::new();
        for (_, instance) in cluster.instances() {
            *instances.entry(instance.status.to_string()).or_default() += 1;
        }
        let (mut workers, mut workers_active) = (0, 0);
        for (_, _, active) in cluster.workers() {
            workers += 1;
            workers_active += u64::from(active);
        }
        Self {
            cluster_name: name.to_owned(),
            cluster_id: cluster.cluster_id().unwrap_or_default().to_owned(),
            connected_to_root: cluster.root_listens(),
            connected_to_broker,
            workers,
            workers_active,
            instances,
            services: cluster.services() as u64,
            tally: cluster.tally(),
            traffic,
        }
    }
}

//! How much there is of everything.

use std::collections::BTreeMap;

use super::{
    moment::Moment,
    state::{State, Tally},
};

#[derive(Clone, Debug, Default)]
pub(crate) struct Census {
    pub(crate) clusters_known: usize,
    pub(crate) clusters_connected: usize,
    pub(crate) clusters_active: usize,
    pub(crate) applications: usize,
    pub(crate) services: usize,
    /// By status.
    pub(crate) instances: BTreeMap<String, usize>,
    pub(crate) interests: usize,
    pub(crate) service_ips_held: usize,
    pub(crate) subnets_held: usize,
    pub(crate) tally: Tally,
}

impl State {
    pub(crate) fn census(&self, now: Moment) -> Census {
        let mut instances = BTreeMap::new();
        for instance in self.instances.values() {
            *instances.entry(instance.status.to_string()).or_default() += 1;
        }
        Census {
            clusters_known: self.clusters.len(),
            clusters_connected: self.live.len(),
            clusters_active: self.live.keys().filter(|id| self.active(id, now).is_some()).count(),
            applications: self.applications.len(),
            services: self.services.len(),
            instances,
            interests: self.interests.len(),
            service_ips_held: self.ipam.service.held(),
            subnets_held: self.ipam.subnets.held(),
            tally: self.tally,
        }
    }
}

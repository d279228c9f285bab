//! What the root is told from time to time: the cluster's room, and what instances use.

use std::collections::BTreeSet;

use xylem_types::session::{ClusterResources, FromCluster, InstanceKey};

use super::{Cluster, Instance, Time, Worker};

impl Cluster {
    pub(super) fn report_resources(&mut self, now: Time) {
        if !self.root_listens() {
            return;
        }
        if now >= self.resources_due {
            self.resources_due = now + self.settings.resources_every;
            let resources = self.resources();
            self.tell_root(FromCluster::Resources(resources));
            self.learn_missing_addresses(now);
        }
        if now >= self.usage_due {
            self.usage_due = now + self.settings.usage_every;
            self.report_usage();
        }
    }

    /// The active workers, summed.
    pub fn resources(&self) -> ClusterResources {
        let active: Vec<&Worker> = self.workers.values().filter(|w| w.active()).collect();
        let nodes = || active.iter().map(|worker| &worker.node);
        let mean = |sum: f64| if active.is_empty() { 0.0 } else { sum / active.len() as f64 };
        let distinct = |texts: BTreeSet<String>| texts.into_iter().collect();
        ClusterResources {
            active_nodes: u32::try_from(active.len()).unwrap_or(u32::MAX),
            vcpus: nodes().map(|n| n.vcpus).fold(0, u32::saturating_add),
            cpu_percent: mean(nodes().map(|n| n.cpu_percent).sum()),
            memory: nodes().map(|n| n.memory).sum(),
            memory_percent: mean(nodes().map(|n| n.memory_percent).sum()),
            vgpus: nodes().map(|n| n.vgpus).fold(0, u32::saturating_add),
            virtualization: distinct(nodes().flat_map(|n| n.virtualization.clone()).collect()),
            supported_addons: distinct(nodes().flat_map(|n| n.supported_addons.clone()).collect()),
            csi_drivers: distinct(
                nodes()
                    .flat_map(|n| &n.csi_drivers)
                    .map(|driver| driver.csi_driver_name.clone())
                    .collect(),
            ),
            workers: self.rooms(),
        }
    }

    /// What instances use and print changes all the time and is nowhere else needed: it is told
    /// at this pace and not written down.
    fn report_usage(&mut self) {
        let new: Vec<InstanceKey> = self
            .instances
            .iter_mut()
            .filter_map(|(key, i)| std::mem::take(&mut i.live.usage_new).then(|| key.clone()))
            .collect();
        for key in new {
            let instance = &self.instances[&key];
            if !instance.removed_for_root() {
                let observed = instance.observed(&key, self.worker_of(instance));
                self.tell_root(FromCluster::Instance(Box::new(observed)));
            }
        }
    }

    pub(super) fn worker_of(&self, instance: &Instance) -> Option<&Worker> {
        instance.worker.as_ref().and_then(|id| self.workers.get(id))
    }
}

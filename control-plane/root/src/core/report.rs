//! What clusters report of instances, held against what the root wants.

use std::collections::BTreeSet;

use xylem_types::{
    instance::InstanceStatus,
    mqtt::Peer,
    session::{FromRoot, InstanceKey, Observed},
};

use super::{
    instance::{Instance, Site, placement},
    moment::Moment,
    state::State,
};

impl State {
    /// One instance as its cluster sees it. A report of an older generation, or from a cluster
    /// that the instance has left, changes nothing; what still runs there is told to stop.
    pub(crate) fn report(&mut self, cluster_id: &str, observed: Observed, now: Moment) {
        let key = observed.key.clone();
        let Some(instance) = self.instances.get(&key).cloned() else {
            if observed.status != InstanceStatus::Undeployed {
                self.send_undeploy(cluster_id, &key, observed.generation);
            }
            return;
        };
        if instance.cluster_id.as_deref() != Some(cluster_id)
            || observed.generation < instance.generation
        {
            if needs_stopping(&observed.status) {
                self.tally.reports_stale += 1;
                self.send_undeploy(cluster_id, &key, observed.generation);
            }
            return;
        }
        match &observed.status {
            status if instance.removing => {
                if *status == InstanceStatus::Undeployed {
                    self.forget(&key);
                } else if observed.generation > instance.generation {
                    // The cluster had placed it anew before it heard of the removal.
                    self.send_undeploy(cluster_id, &key, observed.generation);
                    let generation = observed.generation;
                    self.instances.put(key, Instance { generation, ..instance });
                } else if !observed.status_detail.is_empty() {
                    let status_detail = observed.status_detail;
                    self.instances.put(key, Instance { status_detail, ..instance });
                }
            }
            InstanceStatus::Undeployed if instance.status == InstanceStatus::Completed => {
                self.leave_cluster(key, instance);
            }
            InstanceStatus::NoWorkerCapacity
            | InstanceStatus::NoQualifiedWorkerFound
            | InstanceStatus::Undeployed => {
                let before = self.entry(&key);
                self.refused_by_cluster(&key, cluster_id, observed, now);
                self.announce(&key, before);
            }
            _ => self.accept(cluster_id, instance, observed, now),
        }
    }

    /// Everything that a cluster has, after it has heard what it shall have.
    pub(crate) fn snapshot(
        &mut self,
        cluster_id: &str,
        observed: Vec<Observed>,
        workers: Vec<Peer>,
        interests: Vec<String>,
        now: Moment,
    ) {
        let reported: BTreeSet<_> = observed.iter().map(|observed| observed.key.clone()).collect();
        for one in observed {
            self.report(cluster_id, one, now);
        }
        let missing: Vec<_> = self
            .instances
            .iter()
            .filter(|(key, instance)| {
                instance.cluster_id.as_deref() == Some(cluster_id) && !reported.contains(*key)
            })
            .map(|(key, instance)| (key.clone(), instance.clone()))
            .collect();
        for (key, instance) in missing {
            self.missing_in_cluster(cluster_id, &key, instance, now);
        }
        self.cluster_workers(cluster_id, workers);
        self.replace_interests(cluster_id, &interests);
    }

    fn missing_in_cluster(
        &mut self,
        cluster_id: &str,
        key: &InstanceKey,
        mut instance: Instance,
        now: Moment,
    ) {
        if instance.removing {
            self.forget(key);
            return;
        }
        if instance.status == InstanceStatus::Completed {
            self.leave_cluster(key.clone(), instance);
            return;
        }
        let before = self.entry(key);
        if instance.status != InstanceStatus::ClusterScheduled {
            instance.status = InstanceStatus::ClusterScheduled;
            instance.status_detail = "its cluster did not have it any more".to_owned();
            instance.site = Site::default();
            instance.modified = now.wall;
        }
        let generation = instance.generation;
        self.instances.put(key.clone(), instance);
        if let Some(job) = self.services.get(&key.job_id) {
            let message = FromRoot::Deploy(Box::new(placement(job, key, generation)));
            self.send(cluster_id, message);
        }
        self.announce(key, before);
    }

    /// What completed and was cleared away needs no cluster to confirm its removal.
    fn leave_cluster(&mut self, key: InstanceKey, instance: Instance) {
        self.instances.put(key, Instance { cluster_id: None, ..instance });
    }

    fn accept(&mut self, cluster_id: &str, instance: Instance, observed: Observed, now: Moment) {
        let key = observed.key.clone();
        let before = self.entry(&key);
        self.usage.entry(key.clone()).or_default().record(&observed, now.wall);
        self.loads.changed(key.clone());
        if !matches!(observed.status, InstanceStatus::Requested | InstanceStatus::ClusterScheduled)
        {
            self.refusals.remove(&key);
            if let Some(live) = self.live.get_mut(cluster_id) {
                live.acknowledge(&key);
            }
        }
        let site = Site::from(&observed);
        if site.worker_id != instance.site.worker_id {
            self.peers_stale = true;
        }
        let changed = Instance {
            generation: observed.generation,
            status: observed.status,
            status_detail: observed.status_detail,
            site,
            ..instance.clone()
        };
        if changed != instance {
            self.instances.put(key.clone(), Instance { modified: now.wall, ..changed });
        }
        self.announce(&key, before);
    }
}

/// Whether an instance of that status is, or may come to be, somewhere on a worker.
fn needs_stopping(status: &InstanceStatus) -> bool {
    !matches!(
        status,
        InstanceStatus::Undeployed
            | InstanceStatus::NoWorkerCapacity
            | InstanceStatus::NoQualifiedWorkerFound
    )
}

//! What instances use, told to the clusters elsewhere whose workers balance by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use xylem_types::{
    instance::InstanceStatus,
    load::{InstanceLoad, Worth, told_percent, worth_telling},
    mqtt::UpdateKind,
    session::{FromRoot, InstanceKey},
};

use super::{moment::Moment, state::State};

/// What was told, and what may have to be. In memory only: after a restart all of it is told anew.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    /// The last value told and when, on the monotonic clock.
    told: BTreeMap<InstanceKey, (f32, Duration)>,
    /// Instances whose value may differ from the one told.
    pending: BTreeSet<InstanceKey>,
}

impl Loads {
    pub(crate) fn changed(&mut self, key: InstanceKey) {
        self.pending.insert(key);
    }

    pub(crate) fn forget(&mut self, key: &InstanceKey) {
        self.told.remove(key);
        self.pending.remove(key);
    }
}

impl State {
    /// Tells what is worth telling, one message a service and cluster.
    pub(crate) fn tell_loads(&mut self, now: Moment) {
        let mut by_service: BTreeMap<String, (String, Vec<InstanceLoad>)> = BTreeMap::new();
        for key in std::mem::take(&mut self.loads.pending) {
            let Some(cpu_percent) = self.cpu_of(&key) else { continue };
            let Some(instance) = self.instances.get(&key) else { continue };
            let Some(cluster_id) = instance.cluster_id.clone() else { continue };
            let job_name = instance.job_name.clone();
            if self.interested_in(&job_name).iter().all(|other| *other == cluster_id) {
                // Whoever becomes interested is told the value with the answer.
                continue;
            }
            let told = self.loads.told.get(&key);
            let age = told.map(|(value, at)| (*value, now.monotonic.saturating_sub(*at)));
            match worth_telling(cpu_percent, age) {
                Worth::Now => {
                    let load = InstanceLoad { instance_number: key.instance_number, cpu_percent };
                    // A service that runs in several clusters is told to all of them.
                    let (source, loads) = by_service
                        .entry(job_name)
                        .or_insert_with(|| (cluster_id.clone(), Vec::new()));
                    if *source != cluster_id {
                        source.clear();
                    }
                    loads.push(load);
                    self.loads.told.insert(key, (cpu_percent, now.monotonic));
                }
                Worth::Later => {
                    self.loads.pending.insert(key);
                }
                Worth::Never => {}
            }
        }
        for (job_name, (source, load)) in by_service {
            for cluster_id in self.interested_in(&job_name) {
                if cluster_id != source {
                    let (job_name, load) = (job_name.clone(), load.clone());
                    let change = UpdateKind::Deployment;
                    self.send(&cluster_id, FromRoot::ServiceChanged { job_name, change, load });
                }
            }
        }
    }

    /// Percent of one CPU, once it was measured.
    pub(crate) fn cpu_of(&self, key: &InstanceKey) -> Option<f32> {
        let running = |status: &InstanceStatus| *status == InstanceStatus::Running;
        self.instances.get(key).filter(|i| running(&i.status) || i.draining)?;
        Some(told_percent(self.usage.get(key)?.cpu_percent()))
    }
}

//! What the root no longer wants: given time to end its flows, then deleted.
//!
//! Whoever holds an interest is told first that the instance drains, and the delete command
//! follows when the grace is over. The phase is durable and its beginning is not: after a restart
//! of the cluster the grace begins anew, so that an instance drains for twice the time at most and
//! is never forgotten.

use std::time::Duration;

use xylem_types::{
    instance::Generation,
    session::{Drain, InstanceKey},
};

use super::{Cluster, Phase, Time, Worker};

impl Cluster {
    /// The root no longer wants this instance, if it is of this generation or an older one. It may
    /// drain for `grace`, if the root says for how long.
    pub(super) fn undeploy(
        &mut self,
        key: InstanceKey,
        generation: Generation,
        drain: Drain,
        grace: Option<Duration>,
        now: Time,
    ) {
        match self.instances.get(&key) {
            None => self.report_gone(key, generation),
            Some(instance) if instance.generation > generation => {
                // The root does not know yet how far we are: tell, and let it decide again.
                self.touched.instances.insert(key);
            }
            Some(instance) => {
                let drains = match drain {
                    Drain::Always => true,
                    Drain::IfDialled => self.dialled(instance.job_name()),
                    Drain::Never => false,
                };
                if drains {
                    self.begin_drain(&key, grace, now);
                } else if !instance.draining() {
                    self.begin_deletion(&key, now);
                }
            }
        }
    }

    /// Lets the instance drain if it can have flows, else deletes it.
    pub(super) fn begin_drain(&mut self, key: &InstanceKey, grace: Option<Duration>, now: Time) {
        let its_own = grace;
        let grace = grace.unwrap_or(self.settings.drain_grace);
        let Some(instance) = self.instances.get(key) else { return };
        if instance.unwanted() {
            return;
        }
        let worker = instance.worker.as_ref().and_then(|id| self.workers.get(id));
        let lost = worker.is_none_or(Worker::lost);
        if grace.is_zero() || lost || instance.dialable().is_none() {
            return self.begin_deletion(key, now);
        }
        let Some(instance) = self.instances.get_mut(key) else { return };
        // It runs as before, so nothing else of it changes.
        instance.phase = Phase::Draining;
        instance.drain_grace = its_own;
        instance.status_detail =
            format!("draining, is stopped {} s after it began", grace.as_secs_f64());
        instance.live.since = now;
        tracing::info!(
            instance.name = instance.job_name(),
            instance.number = key.instance_number,
            generation = instance.generation,
            ?grace,
            "instance drains",
        );
        let job_name = instance.job_name().to_owned();
        self.touch(key, &job_name);
    }

    pub(super) fn review_draining(&mut self, key: &InstanceKey, now: Time) {
        let Some(instance) = self.instances.get(key) else { return };
        let grace = instance.drain_grace.unwrap_or(self.settings.drain_grace);
        if now >= instance.live.since.saturating_add(grace) {
            self.begin_deletion(key, now);
        }
    }

    /// Whether a worker that does not run the service holds an interest in it. Those that do run
    /// it hold one in any case.
    fn dialled(&self, job_name: &str) -> bool {
        let numbers = self.numbers.get(job_name).into_iter().flatten();
        let hosts: Vec<&str> =
            numbers.filter_map(|(_, key)| self.instances.get(key)?.worker.as_deref()).collect();
        let interested = self.services.get(job_name).into_iter().flat_map(|s| &s.interested);
        interested.into_iter().any(|worker| !hosts.contains(&worker.as_str()))
    }
}

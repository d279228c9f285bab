//! What workers say of instances, and whether it is obeyed.

use xylem_types::{
    instance::{Generation, InstanceStatus},
    mqtt::{InstanceReport, InstanceResources, InstanceUsage},
    session::InstanceKey,
};

use super::{Cluster, Phase, Time, instance::Usage};

/// What a report is worth.
enum Standing {
    /// The instance is placed on this worker, in this generation.
    Current,
    /// It waits for a place, and this worker still or already runs it.
    Found,
    /// It is elsewhere, or newer, or not at all.
    Foreign,
}

impl Cluster {
    pub(super) fn on_report(&mut self, worker: &str, report: InstanceReport, now: Time) {
        let InstanceReport { sname, status, status_detail, instance, publicip, generation } =
            report;
        let live = !is_over(&status);
        let key = self.key_of(&sname, instance);
        match key.map(|key| (self.standing(worker, &key, generation), key)) {
            Some((Standing::Current, key)) => {
                self.adopt(worker, &key, generation, now);
                self.apply(&key, status, status_detail, publicip, now);
            }
            Some((Standing::Found, key)) if live => {
                self.adopt(worker, &key, generation, now);
                self.apply(&key, status, status_detail, publicip, now);
            }
            // What is over needs no deletion, and answering it would have no end.
            _ if live => self.refuse(worker, &sname, instance, "", generation),
            _ => {}
        }
    }

    pub(super) fn on_resources(&mut self, worker: &str, list: InstanceResources, now: Time) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.live.resources_at = Some(now);
        }
        for usage in list.services {
            let key = self.key_of(&usage.job_name, usage.instance);
            match key.map(|key| (self.standing(worker, &key, usage.generation), key)) {
                Some((Standing::Current, key)) => self.on_usage(worker, &key, usage, now),
                Some((Standing::Found, key)) => {
                    self.adopt(worker, &key, usage.generation, now);
                    self.apply(&key, InstanceStatus::Running, String::new(), String::new(), now);
                    self.on_usage(worker, &key, usage, now);
                }
                Some((Standing::Foreign, _)) | None => {
                    let InstanceUsage { job_name, instance, virtualization, generation, .. } =
                        usage;
                    self.refuse(worker, &job_name, instance, &virtualization, generation);
                }
            }
        }
    }

    fn on_usage(&mut self, worker: &str, key: &InstanceKey, usage: InstanceUsage, now: Time) {
        self.adopt(worker, key, usage.generation, now);
        let Some(instance) = self.instances.get_mut(key) else { return };
        instance.live.listed_at = Some(now);
        match instance.status {
            // Only what runs is listed, so the report that it does was lost.
            InstanceStatus::NodeScheduled | InstanceStatus::Creating | InstanceStatus::Created => {
                self.apply(key, InstanceStatus::Running, String::new(), String::new(), now);
            }
            InstanceStatus::Running => {
                instance.live.running_since.get_or_insert(now);
            }
            _ => {}
        }
        let Some(instance) = self.instances.get_mut(key) else { return };
        let usage = Usage::of(usage);
        if instance.live.usage != usage {
            instance.live.usage = usage;
            instance.live.usage_new = true;
            let job_name = instance.job_name().to_owned();
            self.loads_changed.insert(job_name);
        }
    }

    fn standing(&self, worker: &str, key: &InstanceKey, generation: Generation) -> Standing {
        let (Some(instance), Some(speaker)) = (self.instances.get(key), self.workers.get(worker))
        else {
            return Standing::Foreign;
        };
        let mine = instance.worker.as_deref() == Some(worker);
        let fresh = !speaker.identified() || generation >= instance.generation;
        match instance.phase {
            Phase::Placed | Phase::Ended | Phase::Draining | Phase::Deleting { .. }
                if mine && fresh =>
            {
                Standing::Current
            }
            Phase::Waiting { recoverable: true } if mine && fresh => Standing::Found,
            // Our own records were lost, the worker has what the root wants.
            Phase::Waiting { .. } if !instance.given && fresh && speaker.identified() => {
                Standing::Found
            }
            _ => Standing::Foreign,
        }
    }

    /// The worker's word for where the instance is and in which generation.
    fn adopt(&mut self, worker: &str, key: &InstanceKey, generation: Generation, now: Time) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        instance.live.acknowledged = true;
        let found = matches!(instance.phase, Phase::Waiting { .. });
        if !found && generation <= instance.generation {
            return;
        }
        instance.generation = instance.generation.max(generation);
        if found {
            instance.phase = Phase::Placed;
            instance.given = true;
            instance.worker = Some(worker.to_owned());
            instance.live.since = now;
            instance.live.cause.clear();
            tracing::info!(
                instance.name = instance.job_name(),
                instance.number = key.instance_number,
                generation = instance.generation,
                node.id = worker,
                "instance found again",
            );
        }
        let job_name = instance.job_name().to_owned();
        self.touch(key, &job_name);
    }

    /// The status of an instance as its worker says.
    fn apply(
        &mut self,
        key: &InstanceKey,
        status: InstanceStatus,
        detail: String,
        publicip: String,
        now: Time,
    ) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        if instance.being_deleted() {
            // Whatever else it says was said before it was told.
            if status == InstanceStatus::Undeployed {
                self.finish_deletion(key);
            }
            return;
        }
        if instance.draining() {
            // It has nothing left to drain for.
            if is_over(&status) {
                self.begin_deletion(key, now);
            }
            if status == InstanceStatus::Undeployed {
                self.finish_deletion(key);
            }
            return;
        }
        let one_shot = instance.placement.command.one_shot;
        let again = match status {
            InstanceStatus::Dead if !one_shot => Some(detail.clone()),
            InstanceStatus::Undeployed => Some("stopped by its worker".to_owned()),
            _ => None,
        };
        if let Some(why) = again {
            // Said again while it waits or is over: nothing new.
            if instance.phase == Phase::Placed {
                self.restart(key, &why, now);
            }
            return;
        }
        let phase = match status {
            InstanceStatus::Dead | InstanceStatus::Failed | InstanceStatus::Completed => {
                Phase::Ended
            }
            _ => Phase::Placed,
        };
        let unchanged = instance.phase == phase
            && instance.status == status
            && instance.status_detail == detail
            && (publicip.is_empty() || instance.publicip == publicip);
        if unchanged {
            return;
        }
        if instance.phase != phase {
            instance.live.since = now;
        }
        if status == InstanceStatus::Running {
            instance.live.running_since.get_or_insert(now);
        }
        instance.phase = phase;
        instance.status = status;
        instance.status_detail = detail;
        if !publicip.is_empty() {
            instance.publicip = publicip;
        }
        let job_name = instance.job_name().to_owned();
        self.touch(key, &job_name);
    }

    /// A copy that must not be: it is removed where it runs.
    fn refuse(
        &mut self,
        worker: &str,
        job_name: &str,
        number: u32,
        virtualization: &str,
        generation: Generation,
    ) {
        tracing::warn!(
            instance.name = job_name,
            instance.number = number,
            generation,
            node.id = worker,
            "instance reported that is not placed there, removing it",
        );
        self.tally.refused_reports += 1;
        let known = self.key_of(job_name, number).and_then(|key| self.instances.get(&key));
        let virtualization = match known {
            Some(instance) if virtualization.is_empty() => {
                instance.placement.command.virtualization.clone()
            }
            _ => virtualization.to_owned(),
        };
        self.send_delete(worker, job_name, number, &virtualization, generation);
    }
}

fn is_over(status: &InstanceStatus) -> bool {
    matches!(
        status,
        InstanceStatus::Undeployed
            | InstanceStatus::Dead
            | InstanceStatus::Failed
            | InstanceStatus::Completed
    )
}

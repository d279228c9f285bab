//! Which instance runs where: the root's wishes, lost workers, restarts.

use xylem_scheduler::{Refusal, RefusalKind, Request, WorkerCandidate, rank_workers};
use xylem_types::{
    instance::{Generation, InstanceStatus},
    session::{InstanceKey, Placement},
};

use super::{Cluster, Instance, Phase, Time, Worker, instance::Live};
use crate::message::ToWorker;

impl Cluster {
    /// The root wants this instance here.
    pub(super) fn deploy(&mut self, placement: Placement, now: Time) {
        let command = &placement.command;
        let key = InstanceKey {
            job_id: placement.job_id.clone(),
            instance_number: command.instance_number,
        };
        let wanted = command.generation;
        let Some(instance) = self.instances.get_mut(&key) else {
            let generation = wanted.max(self.displace_namesake(&placement, &key));
            let job_name = command.job_name.clone();
            self.insert_instance(key.clone(), Instance::new(placement, generation));
            // Asking also registers the cluster's interest, and the name may be another service's
            // by now.
            self.refresh(&job_name, now);
            return self.place(&key, now);
        };
        if wanted <= instance.generation && !instance.unwanted() {
            if instance.placement != placement {
                instance.placement = placement;
                self.touched.instances.insert(key);
            }
            return;
        }
        // A new placement. The worker that had the one before removes it, whether or not it is
        // chosen again.
        let generation = wanted.max(instance.generation + Generation::from(instance.given));
        self.remove_copy(&key);
        let instance = self.instances.get_mut(&key).expect("looked up above");
        let worker = instance.worker.take();
        *instance = Instance { worker, ..Instance::new(placement, generation) };
        self.place(&key, now);
    }

    /// Another service of the same name may not have quite gone. The newcomer's generations must
    /// be above those of the old one, since workers tell the two apart by nothing else. Returns
    /// the lowest that is free.
    fn displace_namesake(&mut self, placement: &Placement, key: &InstanceKey) -> Generation {
        let command = &placement.command;
        let Some(other) =
            self.key_of(&command.job_name, command.instance_number).filter(|other| other != key)
        else {
            return 0;
        };
        self.remove_copy(&other);
        self.drop_entry(&command.job_name, command.instance_number);
        let Some(old) = self.remove_instance(&other) else { return 0 };
        self.report_gone(other, old.generation);
        old.generation + 1
    }

    /// Gives the instance to a worker, or shows why there is none and tries again later.
    fn place(&mut self, key: &InstanceKey, now: Time) {
        let Some(instance) = self.instances.get(key) else { return };
        match self.choose(instance) {
            Ok(worker) => self.give(key, worker, now),
            Err(refusal) => {
                let status = match refusal.kind() {
                    RefusalKind::NoCapacity => InstanceStatus::NoWorkerCapacity,
                    RefusalKind::NoneQualified => InstanceStatus::NoQualifiedWorkerFound,
                };
                let place_at = now + self.settings.place_again_after;
                let instance = self.instances.get_mut(key).expect("looked up above");
                instance.live.place_at = place_at;
                let cause = &instance.live.cause;
                let separator = if cause.is_empty() { "" } else { "; " };
                let detail = format!("{cause}{separator}{refusal}");
                if instance.status != status || instance.status_detail != detail {
                    instance.status = status;
                    instance.status_detail = detail;
                    let job_name = instance.job_name().to_owned();
                    self.touch(key, &job_name);
                }
            }
        }
    }

    fn choose(&self, instance: &Instance) -> Result<String, Refusal> {
        let rooms = self.rooms();
        let candidates: Vec<_> = rooms
            .iter()
            .map(|room| WorkerCandidate {
                room,
                same_service: self.same_service(instance.job_name(), &room.worker_id),
            })
            .collect();
        let ranked = rank_workers(&Request::of_placement(&instance.placement), &candidates)?;
        Ok(ranked[0].worker_id.clone())
    }

    /// Instances of the service on the worker.
    fn same_service(&self, job_name: &str, worker: &str) -> u32 {
        let siblings = self.numbers.get(job_name).into_iter().flat_map(|numbers| numbers.values());
        let placed = siblings
            .filter_map(|key| self.instances.get(key))
            .filter(|i| i.phase == Phase::Placed && i.worker.as_deref() == Some(worker))
            .count();
        u32::try_from(placed).unwrap_or(u32::MAX)
    }

    /// Gives the instance to a worker, in a generation that nobody was given before.
    fn give(&mut self, key: &InstanceKey, worker: String, now: Time) {
        // A worker without generations takes its own dead copy for the new one.
        let keeps_old = self.workers.get(&worker).is_some_and(Worker::identified);
        let instance = self.instances.get_mut(key).expect("the caller looked it up");
        if instance.given && !(keeps_old && instance.worker.as_ref() == Some(&worker)) {
            self.remove_copy(key);
        }
        let instance = self.instances.get_mut(key).expect("the caller looked it up");
        // Shown until the worker has something to say.
        let cause = std::mem::take(&mut instance.live.cause);
        instance.generation += Generation::from(instance.given);
        instance.given = true;
        instance.attached = None;
        instance.turn(Phase::Placed, InstanceStatus::NodeScheduled, cause, now);
        instance.live = Live {
            since: now,
            resend_at: now + self.settings.resend_after,
            restarts: instance.live.restarts,
            ..Live::default()
        };
        tracing::info!(
            instance.name = instance.job_name(), instance.number = key.instance_number,
            generation = instance.generation, node.id = %worker, "instance placed",
        );
        let (job_name, command) = (instance.job_name().to_owned(), instance.command());
        instance.worker = Some(worker.clone());
        self.tally.placements += 1;
        self.touch(key, &job_name);
        self.send(&worker, ToWorker::Deploy(Box::new(command)));
    }

    /// Tells the worker that has or had the instance to remove it.
    fn remove_copy(&mut self, key: &InstanceKey) {
        let Some(instance) = self.instances.get(key).filter(|i| i.given) else { return };
        let Some(worker) = instance.worker.clone() else { return };
        let (job_name, virtualization) =
            (instance.job_name().to_owned(), instance.placement.command.virtualization.clone());
        let (number, generation) = (instance.number(), instance.generation);
        self.send_delete(&worker, &job_name, number, &virtualization, generation);
    }

    pub(super) fn begin_deletion(&mut self, key: &InstanceKey, now: Time) {
        let Some(instance) = self.instances.get(key) else { return };
        if instance.being_deleted() {
            return;
        }
        let job_name = instance.job_name().to_owned();
        self.drop_entry(&job_name, key.instance_number);
        self.remove_copy(key);
        let instance = self.instances.get_mut(key).expect("looked up above");
        let worker = instance.worker.as_ref().and_then(|id| self.workers.get(id));
        let lost = worker.is_none_or(Worker::lost);
        match instance.phase {
            // A worker may run it, so it is gone when the worker says so.
            Phase::Placed | Phase::Draining | Phase::Waiting { recoverable: true }
                if instance.given =>
            {
                let (status, detail) = (instance.status.clone(), "is being removed".to_owned());
                instance.turn(Phase::Deleting { reported: lost }, status, detail, now);
                instance.live.resend_at = now + self.settings.resend_after;
                let generation = instance.generation;
                self.touch(key, &job_name);
                if lost {
                    self.report_gone(key.clone(), generation);
                }
            }
            _ => self.finish_deletion(key),
        }
    }

    /// No worker runs the instance any more.
    pub(super) fn finish_deletion(&mut self, key: &InstanceKey) {
        let Some(instance) = self.remove_instance(key) else { return };
        if instance.phase != (Phase::Deleting { reported: true }) {
            self.report_gone(key.clone(), instance.generation);
        }
        self.forget_unused(instance.job_name());
    }

    /// The worker is silent: what it ran is needed elsewhere.
    pub(super) fn give_up_worker(&mut self, id: &str, now: Time) {
        let name = self.workers[id].node.host.clone();
        let detail = format!(
            "worker {name} has been silent for more than {} s",
            self.settings.worker_silence.as_secs_f64()
        );
        for key in self.instances_on(id) {
            let instance = self.instances.get_mut(&key).expect("listed just now");
            match instance.phase {
                Phase::Placed => {
                    let phase = Phase::Waiting { recoverable: true };
                    instance.turn(phase, InstanceStatus::Failed, detail.clone(), now);
                    instance.live.cause.clone_from(&detail);
                    instance.live.place_at = now;
                }
                Phase::Draining | Phase::Deleting { reported: false } => {
                    instance.phase = Phase::Deleting { reported: true };
                    let generation = instance.generation;
                    self.report_gone(key.clone(), generation);
                }
                Phase::Waiting { .. } | Phase::Ended | Phase::Deleting { reported: true } => {
                    continue;
                }
            }
            let job_name = self.instances[&key].job_name().to_owned();
            self.touch(&key, &job_name);
        }
    }

    /// The instance ended by itself and shall run again.
    pub(super) fn restart(&mut self, key: &InstanceKey, why: &str, now: Time) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        let wait = instance.back_off(&self.settings, now);
        let detail = format!(
            "{why}{}started again in {} s",
            if why.is_empty() { "" } else { "; " },
            wait.as_secs_f64()
        );
        let job_name = instance.job_name().to_owned();
        instance.turn(Phase::Waiting { recoverable: false }, InstanceStatus::Dead, detail, now);
        instance.live.cause = why.to_owned();
        instance.live.place_at = now + wait;
        self.tally.restarts += 1;
        self.touch(key, &job_name);
    }

    /// What waits and may be placed now, what was sent and not answered, what is no longer there.
    pub(super) fn review_instances(&mut self, now: Time) {
        let due: Vec<(InstanceKey, Phase)> = self
            .instances
            .iter()
            .filter(|(_, i)| match i.phase {
                Phase::Waiting { .. } => i.live.place_at <= now,
                Phase::Placed | Phase::Draining | Phase::Deleting { .. } => true,
                Phase::Ended => false,
            })
            .map(|(key, instance)| (key.clone(), instance.phase))
            .collect();
        for (key, phase) in due {
            match phase {
                Phase::Waiting { .. } => self.place(&key, now),
                Phase::Placed => self.review_placed(&key, now),
                Phase::Draining => self.review_draining(&key, now),
                Phase::Deleting { .. } => self.review_deletion(&key, now),
                Phase::Ended => {}
            }
        }
    }

    fn review_placed(&mut self, key: &InstanceKey, now: Time) {
        let unlisted_after = self.settings.unlisted_after;
        let resend_after = self.settings.resend_after;
        let Some(instance) = self.instances.get_mut(key) else { return };
        let Some((id, worker)) =
            instance.worker.as_ref().and_then(|id| self.workers.get_key_value(id))
        else {
            return;
        };
        if !worker.active() {
            return;
        }
        // Once listed, an instance stays listed; that other instances are proves that the worker
        // is able to.
        let vanished = instance.live.listed_at.is_some_and(|listed| {
            worker.live.resources_at.is_some_and(|heard| heard > listed + unlisted_after)
        });
        if vanished {
            let why = format!("worker {} no longer lists it", worker.node.host);
            return self.restart(key, &why, now);
        }
        if !instance.live.acknowledged && instance.live.resend_at <= now && worker.identified() {
            instance.live.resend_at = now + resend_after;
            let (id, command) = (id.clone(), instance.command());
            self.send(&id, ToWorker::Deploy(Box::new(command)));
        }
    }

    fn review_deletion(&mut self, key: &InstanceKey, now: Time) {
        let resend_after = self.settings.resend_after;
        let Some(instance) = self.instances.get_mut(key) else { return };
        let worker = instance.worker.as_ref().and_then(|id| self.workers.get(id));
        let Some(worker) = worker else {
            return self.finish_deletion(key);
        };
        if !worker.active() {
            return;
        }
        // Lists come every few seconds, one a runtime: absent from all of them for some time.
        let last_seen = instance.live.listed_at.unwrap_or_default().max(instance.live.since);
        if worker.live.resources_at.is_some_and(|heard| heard >= last_seen + resend_after * 2) {
            return self.finish_deletion(key);
        }
        if instance.live.resend_at <= now {
            instance.live.resend_at = now + resend_after;
            self.remove_copy(key);
        }
    }

    /// Tells a worker that comes back, or may have missed something, all that it shall do. Each
    /// command is answered by a report and does nothing where it was obeyed before.
    pub(super) fn repeat_commands(&mut self, worker: &str, now: Time) {
        if !self.workers[worker].identified() {
            return;
        }
        let resend_at = now + self.settings.resend_after;
        for key in self.instances_on(worker) {
            let instance = self.instances.get_mut(&key).expect("listed just now");
            instance.live.resend_at = resend_at;
            instance.live.acknowledged = false;
            match instance.phase {
                Phase::Placed => {
                    let command = instance.command();
                    self.send(worker, ToWorker::Deploy(Box::new(command)));
                }
                Phase::Deleting { .. } => self.remove_copy(&key),
                // One that drains runs on by itself, and is deleted in due time.
                Phase::Draining | Phase::Waiting { .. } | Phase::Ended => {}
            }
        }
    }

    fn instances_on(&self, worker: &str) -> Vec<InstanceKey> {
        self.instances
            .iter()
            .filter(|(_, i)| i.worker.as_deref() == Some(worker))
            .map(|(key, _)| key.clone())
            .collect()
    }
}

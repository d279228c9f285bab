//! Which cluster gets an instance.

use std::{collections::BTreeMap, time::Duration};

use xylem_scheduler::{ClusterCandidate, RefusalKind, Request, rank_clusters};
use xylem_types::{
    instance::InstanceStatus,
    job::Job,
    session::{FromRoot, InstanceKey},
};

use super::{
    instance::{Site, placement},
    moment::Moment,
    state::State,
};

/// A cluster that refused is not asked again for this long, doubled with every refusal in turn.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A reason that differs in its numbers only is renewed at most so often: they change with every
/// report of resources, and every change is a write.
const NUMBERS_RENEWED_AFTER: Duration = Duration::from_secs(10);

/// The clusters that refused an instance, by id.
pub(crate) type Refusals = BTreeMap<String, ClusterRefusal>;

#[derive(Clone, Debug)]
pub(crate) struct ClusterRefusal {
    at: Duration,
    in_turn: u32,
    reason: String,
}

impl ClusterRefusal {
    fn holds(&self, now: Moment) -> bool {
        let doublings = self.in_turn.saturating_sub(1).min(16);
        let pause = (FIRST_PAUSE * (1 << doublings)).min(LONGEST_PAUSE);
        now.monotonic < self.at + pause
    }
}

/// A placement that the cluster's report of resources does not contain yet.
#[derive(Clone, Debug)]
pub(crate) struct Unsettled {
    pub(crate) request: Request,
    /// Where the root counts it until the cluster says.
    pub(crate) worker_id: String,
    /// The cluster has chosen a worker: its next report of resources contains it.
    pub(crate) acknowledged: bool,
}

struct Choice {
    cluster_id: String,
    worker_id: String,
}

/// Why there is no cluster.
struct NoPlace {
    status: InstanceStatus,
    reason: String,
}

fn same_but_for_numbers(a: &str, b: &str) -> bool {
    let words = |text: &str| text.chars().filter(|c| !c.is_numeric()).collect::<String>();
    words(a) == words(b)
}

fn request_of(job: &Job) -> Request {
    let (allowed_clusters, allowed_workers) = job.sla.direct_targets();
    Request {
        vcpus: job.sla.vcpus.into(),
        memory: job.sla.memory,
        vgpus: job.sla.vgpus,
        virtualization: job.sla.virtualization.clone(),
        architectures: job.sla.arch.clone(),
        csi_drivers: job.sla.volumes.iter().map(|volume| volume.csi_driver.clone()).collect(),
        allowed_workers,
        allowed_clusters,
    }
}

impl State {
    /// Gives an instance that has no cluster to the best one, with a new generation, or notes why
    /// there is none.
    pub(crate) fn place(&mut self, key: &InstanceKey, now: Moment) {
        let Some(job) = self.services.get(&key.job_id) else { return };
        let Some(mut instance) = self.instances.get(key).cloned() else { return };
        if instance.cluster_id.is_some() || !instance.is_wanted() {
            return;
        }
        let request = request_of(job);
        match self.choose(key, &request, now) {
            Ok(choice) => {
                instance.generation += 1;
                let message = FromRoot::Deploy(Box::new(placement(job, key, instance.generation)));
                instance.cluster_id = Some(choice.cluster_id.clone());
                instance.status = InstanceStatus::ClusterScheduled;
                instance.status_detail.clear();
                instance.site = Site::default();
                instance.modified = now.wall;
                self.instances.put(key.clone(), instance);
                if let Some(live) = self.live.get_mut(&choice.cluster_id) {
                    let worker_id = choice.worker_id;
                    live.reserve(
                        key.clone(),
                        Unsettled { request, worker_id, acknowledged: false },
                    );
                }
                self.tally.placements += 1;
                self.send(&choice.cluster_id, message);
            }
            Err(no_place) => {
                let age = now.wall.duration_since(instance.modified).unsigned_abs();
                if instance.status != no_place.status
                    || age > NUMBERS_RENEWED_AFTER
                    || !same_but_for_numbers(&instance.status_detail, &no_place.reason)
                {
                    instance.status = no_place.status;
                    instance.status_detail = no_place.reason;
                    instance.modified = now.wall;
                    self.instances.put(key.clone(), instance);
                }
            }
        }
    }

    /// Every instance that waits for a cluster tries again.
    pub(crate) fn place_waiting(&mut self, now: Moment) {
        let waiting: Vec<_> = self
            .instances
            .iter()
            .filter(|(_, instance)| instance.cluster_id.is_none() && instance.is_wanted())
            .map(|(key, _)| key.clone())
            .collect();
        for key in waiting {
            self.place(&key, now);
        }
    }

    /// The cluster has no place for the instance: the next best is asked.
    pub(crate) fn refused_by_cluster(
        &mut self,
        key: &InstanceKey,
        status: InstanceStatus,
        reason: String,
        now: Moment,
    ) {
        let Some(mut instance) = self.instances.get(key).cloned() else { return };
        let Some(cluster_id) = instance.cluster_id.take() else { return };
        self.tally.placements_refused += 1;
        // It might find room later by itself, when the instance runs elsewhere already.
        self.send_undeploy(&cluster_id, key, instance.generation);
        if let Some(live) = self.live.get_mut(&cluster_id) {
            live.unreserve(key);
        }
        let name = self.cluster_name(&cluster_id);
        let before = self.refusals.entry(key.clone()).or_default().get(&cluster_id);
        let refusal = ClusterRefusal {
            at: now.monotonic,
            in_turn: before.map_or(0, |refusal| refusal.in_turn) + 1,
            reason: format!(
                "{name}: {}",
                if reason.is_empty() { status.as_str() } else { &reason }
            ),
        };
        instance.status = status;
        instance.status_detail.clone_from(&refusal.reason);
        instance.site = Site::default();
        instance.modified = now.wall;
        self.refusals.entry(key.clone()).or_default().insert(cluster_id, refusal);
        self.instances.put(key.clone(), instance);
        self.place(key, now);
    }

    /// Takes instances back from clusters that went away before they had confirmed them.
    pub(crate) fn move_unconfirmed(&mut self, now: Moment) {
        let late = |cluster_id: &String| {
            let since = self.lost_since(cluster_id);
            !self.live.contains_key(cluster_id)
                && now.monotonic >= since + self.settings.unconfirmed_move_after
        };
        let unconfirmed: Vec<_> = self
            .instances
            .iter()
            .filter(|(_, instance)| instance.status == InstanceStatus::ClusterScheduled)
            .filter(|(_, instance)| instance.cluster_id.as_ref().is_some_and(late))
            .map(|(key, instance)| (key.clone(), instance.clone()))
            .collect();
        for (key, mut instance) in unconfirmed {
            instance.cluster_id = None;
            instance.status = InstanceStatus::Requested;
            self.instances.put(key.clone(), instance);
            self.place(&key, now);
        }
    }

    fn choose(&self, key: &InstanceKey, request: &Request, now: Moment) -> Result<Choice, NoPlace> {
        let wanted = |id: &str, name: &str| {
            let allowed = &request.allowed_clusters;
            allowed.is_empty() || allowed.iter().any(|a| a == id || a == name)
        };
        let known: Vec<_> =
            self.clusters.iter().filter(|(id, cluster)| wanted(id, &cluster.name)).collect();
        let active: Vec<_> = known
            .iter()
            .filter_map(|(id, cluster)| Some((*id, *cluster, self.active(id, now)?)))
            .collect();
        let refusals = self.refusals.get(key);
        let refusal_of = |id: &String| refusals.and_then(|r| r.get(id)).filter(|r| r.holds(now));
        let candidates: Vec<_> = active
            .iter()
            .filter(|(id, _, _)| refusal_of(id).is_none())
            .map(|(id, cluster, live)| ClusterCandidate {
                id: id.as_str(),
                name: &cluster.name,
                workers: &live.rooms,
                same_service: self.instances_in(&key.job_id, id),
            })
            .collect();

        let refusal = match rank_clusters(request, &candidates) {
            Ok(ranked) => {
                if let Some(best) = ranked.first() {
                    return Ok(Choice {
                        cluster_id: best.cluster.id.to_owned(),
                        worker_id: best.worker.worker_id.clone(),
                    });
                }
                xylem_scheduler::Refusal::default()
            }
            Err(refusal) => refusal,
        };

        let direct = request.allowed_clusters.join(" or ");
        let mut reasons: Vec<_> = active
            .iter()
            .filter_map(|(id, _, _)| refusal_of(id))
            .map(|r| r.reason.clone())
            .collect();
        if !refusal.reasons.is_empty() {
            reasons.push(refusal.to_string());
        }
        let (status, reason) = if direct.is_empty() {
            if active.is_empty() {
                let reason = "no cluster is connected and reports its resources".to_owned();
                (InstanceStatus::NoActiveClusterWithCapacity, reason)
            } else if reasons.len() == 1 && refusal.kind() == RefusalKind::NoneQualified {
                (InstanceStatus::NoQualifiedWorkerFound, reasons.join("; "))
            } else {
                (InstanceStatus::NoActiveClusterWithCapacity, reasons.join("; "))
            }
        } else if known.is_empty() {
            let reason = format!("no cluster named {direct} has ever connected");
            (InstanceStatus::TargetClusterNotFound, reason)
        } else if active.is_empty() {
            let reason = format!("{direct} is not connected or does not report its resources");
            (InstanceStatus::TargetClusterNotActive, reason)
        } else {
            (InstanceStatus::TargetClusterNoCapacity, reasons.join("; "))
        };
        Err(NoPlace { status, reason })
    }

    fn instances_in(&self, job_id: &str, cluster_id: &str) -> u32 {
        let here = self
            .instances_of(job_id)
            .iter()
            .filter_map(|key| self.instances.get(key))
            .filter(|i| i.cluster_id.as_deref() == Some(cluster_id) && i.is_wanted())
            .count();
        u32::try_from(here).unwrap_or(u32::MAX)
    }
}

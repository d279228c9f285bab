//! Which cluster gets an instance.

use std::{collections::BTreeMap, time::Duration};

use xylem_scheduler::{ClusterCandidate, RefusalKind, Request, rank_clusters};
use xylem_types::{
    instance::InstanceStatus,
    job::Job,
    port::node_ports,
    session::{FromRoot, InstanceKey, Observed},
};

use super::{
    instance::{Instance, Site, placement},
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
        node_ports: node_ports(&job.sla.port),
        virtualization: job.sla.virtualization.clone(),
        architectures: job.sla.arch.clone(),
        csi_drivers: job.sla.volumes.iter().map(|volume| volume.csi_driver.clone()).collect(),
        allowed_workers,
        allowed_clusters,
    }
}

impl State {
    /// Gives an instance that has no cluster, or whose cluster has no place for it, to the best
    /// one, with a new generation; or notes why there is none.
    pub(crate) fn place(&mut self, key: &InstanceKey, now: Moment) {
        let Some(job) = self.services.get(&key.job_id) else { return };
        let Some(mut instance) = self.instances.get(key).cloned() else { return };
        if !instance.seeks_cluster() {
            return;
        }
        let request = request_of(job);
        match self.choose(key, &instance, &request, now) {
            Ok(choice) => {
                let left = instance.cluster_id.replace(choice.cluster_id.clone());
                let left_generation = instance.generation;
                instance.generation += 1;
                let message = FromRoot::Deploy(Box::new(placement(job, key, instance.generation)));
                instance.status = InstanceStatus::ClusterScheduled;
                instance.status_detail.clear();
                instance.site = Site::default();
                instance.modified = now.wall;
                self.instances.put(key.clone(), instance);
                if let Some(left) = left {
                    // It would find room by itself some day, and run a second copy.
                    self.send_undeploy(&left, key, left_generation);
                }
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
                // A cluster that has it knows better what stands against it.
                let status = match instance.cluster_id {
                    Some(_) => instance.status.clone(),
                    None => no_place.status,
                };
                let age = now.wall.duration_since(instance.modified).unsigned_abs();
                if instance.status != status
                    || age > NUMBERS_RENEWED_AFTER
                    || !same_but_for_numbers(&instance.status_detail, &no_place.reason)
                {
                    instance.status = status;
                    instance.status_detail = no_place.reason;
                    instance.modified = now.wall;
                    self.instances.put(key.clone(), instance);
                }
            }
        }
    }

    /// Every instance that waits for a place tries again.
    pub(crate) fn place_waiting(&mut self, now: Moment) {
        let waiting: Vec<_> = self
            .instances
            .iter()
            .filter(|(_, instance)| instance.seeks_cluster())
            .map(|(key, _)| key.clone())
            .collect();
        for key in waiting {
            self.place(&key, now);
        }
    }

    /// The cluster has no place for the instance: it goes to the next best, and when there is
    /// none it stays, because the cluster goes on looking by itself.
    pub(crate) fn refused_by_cluster(
        &mut self,
        key: &InstanceKey,
        cluster_id: &str,
        observed: Observed,
        now: Moment,
    ) {
        let Some(mut instance) = self.instances.get(key).cloned() else { return };
        let again = instance.status == observed.status;
        let words = match observed.status_detail.as_str() {
            "" => observed.status.as_str(),
            detail => detail,
        };
        let reason = format!("{}: {words}", self.cluster_name(cluster_id));
        let refusals = self.refusals.entry(key.clone()).or_default();
        let refusal = refusals.entry(cluster_id.to_owned()).or_insert(ClusterRefusal {
            at: now.monotonic,
            in_turn: 0,
            reason: String::new(),
        });
        refusal.reason.clone_from(&reason);
        if !again {
            refusal.at = now.monotonic;
            refusal.in_turn = refusal.in_turn.saturating_add(1);
            self.tally.placements_refused += 1;
            instance.status_detail = reason;
            instance.modified = now.wall;
        }
        if let Some(live) = self.live.get_mut(cluster_id) {
            live.unreserve(key);
        }
        if observed.status == InstanceStatus::Undeployed {
            instance.cluster_id = None;
        }
        instance.generation = observed.generation;
        instance.status = observed.status;
        instance.site = Site::default();
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

    fn choose(
        &self,
        key: &InstanceKey,
        instance: &Instance,
        request: &Request,
        now: Moment,
    ) -> Result<Choice, NoPlace> {
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
        let refusal_of = |id: &String| {
            let refusal = refusals.and_then(|refusals| refusals.get(id))?;
            let has_it = instance.cluster_id.as_ref() == Some(id);
            (has_it || refusal.holds(now)).then_some(refusal)
        };
        let same_service = self.instances_by_cluster(&key.job_id);
        let candidates: Vec<_> = active
            .iter()
            .filter(|(id, _, _)| {
                instance.cluster_id.as_ref() != Some(*id) && refusal_of(id).is_none()
            })
            .map(|(id, cluster, live)| ClusterCandidate {
                id: id.as_str(),
                name: &cluster.name,
                workers: &live.rooms,
                same_service: same_service.get(id.as_str()).copied().unwrap_or_default(),
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

    fn instances_by_cluster(&self, job_id: &str) -> BTreeMap<&str, u32> {
        let mut counts = BTreeMap::new();
        for (_, instance) in self.instances_of(job_id).filter(|(_, i)| i.is_wanted()) {
            if let Some(cluster_id) = instance.cluster_id.as_deref() {
                *counts.entry(cluster_id).or_default() += 1;
            }
        }
        counts
    }
}

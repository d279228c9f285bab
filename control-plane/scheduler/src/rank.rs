//! The ranking of those candidates that fit.

use std::cmp::Reverse;

use xylem_types::session::WorkerRoom;

use crate::{Reason, Refusal, Request, request::allows};

/// A worker as the cluster's scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub struct WorkerCandidate<'a> {
    pub room: &'a WorkerRoom,
    /// Instances of the same service already there. Workers with fewer come first: losing one
    /// worker shall cost the service as little as possible.
    pub same_service: u32,
}

/// A cluster as the root's scheduler sees it.
#[derive(Clone, Copy, Debug)]
pub struct ClusterCandidate<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub workers: &'a [WorkerRoom],
    /// Instances of the same service already there.
    pub same_service: u32,
}

/// A cluster in which at least one worker fits.
#[derive(Clone, Copy, Debug)]
pub struct ClusterFit<'a> {
    pub cluster: ClusterCandidate<'a>,
    /// The worker that fits best, by which the root counts the reservation until the cluster
    /// reports its own choice.
    pub worker: &'a WorkerRoom,
}

/// Candidates with a smaller key come first.
///
/// Shares are whole percents, because the memory of a machine at rest moves by less than that
/// between two reports and must not outweigh how many instances are there.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'a> {
    same_service: u32,
    /// Of CPU and memory, the one that is left with less.
    headroom: Reverse<i64>,
    /// Of CPU and memory, the one that is left with more.
    slack: Reverse<i64>,
    instances: u32,
    id: &'a str,
}

/// The workers that fit, best first.
///
/// # Errors
/// The reason against every worker when none fits.
pub fn rank_workers<'a>(
    request: &Request,
    candidates: &[WorkerCandidate<'a>],
) -> Result<Vec<&'a WorkerRoom>, Refusal> {
    let mut fits = Vec::new();
    let mut refusal = Refusal::default();
    for candidate in candidates {
        match request.refused_by(candidate.room) {
            None => fits.push(*candidate),
            Some(reason) => refusal.reasons.push((candidate.room.name.clone(), reason)),
        }
    }
    if fits.is_empty() {
        return Err(refusal);
    }
    fits.sort_by(|a, b| worker_key(request, a).cmp(&worker_key(request, b)));
    Ok(fits.into_iter().map(|candidate| candidate.room).collect())
}

/// The clusters in which one worker fits, best first, by the room of all their workers together.
///
/// # Errors
/// The reason against every cluster when none fits.
pub fn rank_clusters<'a>(
    request: &Request,
    candidates: &[ClusterCandidate<'a>],
) -> Result<Vec<ClusterFit<'a>>, Refusal> {
    let mut fits = Vec::new();
    let mut refusal = Refusal::default();
    for cluster in candidates {
        match best_worker(request, cluster) {
            Ok(worker) => fits.push(ClusterFit { cluster: *cluster, worker }),
            Err(reason) => refusal.reasons.push((cluster.name.to_owned(), reason)),
        }
    }
    if fits.is_empty() {
        return Err(refusal);
    }
    fits.sort_by(|a, b| cluster_key(request, a).cmp(&cluster_key(request, b)));
    Ok(fits)
}

/// Subtracts what the request takes from the room of the worker that will run it.
pub fn reserve(request: &Request, room: &mut WorkerRoom) {
    room.free_vcpus -= request.vcpus;
    room.free_memory -= request.memory as f64;
    room.free_vgpus = room.free_vgpus.saturating_sub(request.vgpus);
    room.instances += 1;
    room.node_ports.extend(&request.node_ports);
}

fn best_worker<'a>(
    request: &Request,
    cluster: &ClusterCandidate<'a>,
) -> Result<&'a WorkerRoom, Reason> {
    if !allows(&request.allowed_clusters, cluster.id, cluster.name) {
        return Err(Reason::NotAllowed);
    }
    let workers: Vec<_> =
        cluster.workers.iter().map(|room| WorkerCandidate { room, same_service: 0 }).collect();
    let ranked = rank_workers(request, &workers).map_err(Reason::Workers)?;
    Ok(ranked[0])
}

fn worker_key<'a>(request: &Request, candidate: &WorkerCandidate<'a>) -> Key<'a> {
    let room = candidate.room;
    let cpu = percent_left(room.free_vcpus, request.vcpus, room.total_vcpus);
    let memory = percent_left(room.free_memory, request.memory as f64, room.total_memory);
    Key {
        same_service: candidate.same_service,
        headroom: Reverse(cpu.min(memory)),
        slack: Reverse(cpu.max(memory)),
        instances: room.instances,
        id: &room.worker_id,
    }
}

fn cluster_key<'a>(request: &Request, fit: &ClusterFit<'a>) -> Key<'a> {
    let sum = |of: fn(&WorkerRoom) -> f64| fit.cluster.workers.iter().map(of).sum::<f64>();
    let cpu = percent_left(
        sum(|w| w.free_vcpus),
        request.vcpus,
        sum(|w| w.total_vcpus.max(w.free_vcpus)),
    );
    let memory = percent_left(
        sum(|w| w.free_memory),
        request.memory as f64,
        sum(|w| w.total_memory.max(w.free_memory)),
    );
    Key {
        same_service: fit.cluster.same_service,
        headroom: Reverse(cpu.min(memory)),
        slack: Reverse(cpu.max(memory)),
        instances: fit.cluster.workers.iter().map(|w| w.instances).sum(),
        id: fit.cluster.id,
    }
}

/// Whole percents of `total` that stay free once `needed` is taken. A total that was not said, or
/// is less than what is free, is taken to be what is free.
fn percent_left(free: f64, needed: f64, total: f64) -> i64 {
    let total = total.max(free);
    if total <= 0.0 {
        return 0;
    }
    ((free - needed) / total * 100.0).floor() as i64
}

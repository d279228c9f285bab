//! Moves the instances of a worker that is to be empty to others.
//!
//! An instance is not moved: another one takes its place. That one runs before the old one drains,
//! so there is no moment with one instance less, flows stay with the old one until it is stopped,
//! and nobody has two copies of one identity to keep apart. A worker has one replacement under
//! way at a time, not counting those that wait for a place: what has none must not keep the rest.
//!
//! Nothing is remembered but the orders and who replaces whom, so that a root that starts again,
//! or an order that is taken back, is no special case.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use xylem_types::{
    instance::InstanceStatus,
    node::Availability,
    rest::DrainProgress,
    session::{Drain, InstanceKey},
};

use super::{instance::Instance, moment::Moment, node::NodeKey, state::State};

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    /// The instance of this key gets a successor.
    Replace { node: NodeKey, old: InstanceKey },
    /// The successor has taken over, and the old one goes.
    Retire { old: InstanceKey, successor: InstanceKey, grace: Option<Duration> },
    /// The old one may stay after all.
    CallOff { successor: InstanceKey },
}

impl State {
    /// Takes every draining a step further.
    pub(crate) fn advance_drains(&mut self, now: Moment) {
        for step in self.plan_drains() {
            match step {
                Move::Replace { node, old } => {
                    let Some(job) = self.services.get(&old.job_id).cloned() else { continue };
                    match self.add_instance(job, Some(old.instance_number), now) {
                        Ok(_) => self.drain_refusals.remove(&node),
                        Err(refusal) => self.drain_refusals.insert(node, refusal.to_string()),
                    };
                }
                Move::Retire { old, successor, grace } => {
                    self.settle(&successor);
                    self.undeploy(&old, Drain::Always, grace, now);
                }
                Move::CallOff { successor } => {
                    self.undeploy(&successor, Drain::Always, None, now);
                }
            }
        }
    }

    /// The successor is an instance like any other from now on.
    fn settle(&mut self, successor: &InstanceKey) {
        if let Some(instance) = self.instances.get(successor).cloned() {
            self.instances.put(successor.clone(), Instance { replaces: None, ..instance });
        }
    }

    fn plan_drains(&self) -> Vec<Move> {
        let mut plan = Vec::new();
        let mut replaced = BTreeSet::new();
        let mut busy = BTreeSet::new();
        for (successor, instance, old) in self.successors() {
            let predecessor = self.instances.get(&old).filter(|old| !old.removing);
            let draining = predecessor.and_then(|old| self.draining_node(old));
            let taken_over = predecessor.is_none_or(|old| has_taken_over(instance, old));
            let successor = successor.clone();
            match draining {
                node if taken_over => {
                    let order = node.as_ref().and_then(|node| self.nodes.get(node));
                    let grace = order.and_then(|order| order.drain_grace());
                    plan.push(Move::Retire { old: old.clone(), successor, grace });
                }
                None => plan.push(Move::CallOff { successor }),
                Some(node) if !instance.seeks_cluster() => {
                    busy.insert(node);
                }
                Some(_) => {}
            }
            replaced.insert(old);
        }
        // One a node: the rest when this one runs.
        let mut next = BTreeMap::new();
        for (old, instance) in self.instances.iter() {
            let Some(node) = self.draining_node(instance).filter(|node| !busy.contains(node))
            else {
                continue;
            };
            if self.can_be_replaced(old, instance) && !replaced.contains(old) {
                next.entry(node).or_insert_with(|| old.clone());
            }
        }
        plan.extend(next.into_iter().map(|(node, old)| Move::Replace { node, old }));
        plan
    }

    /// How far a draining is.
    pub(crate) fn drain_progress(&self, node: &NodeKey) -> DrainProgress {
        let mut progress = DrainProgress::default();
        let successors: BTreeMap<_, _> =
            self.successors().map(|(key, i, old)| (old, (key, i))).collect();
        for (key, instance) in self.instances.iter().filter(|(_, instance)| is_on(instance, node)) {
            if instance.removing {
                progress.draining += 1;
                continue;
            }
            if !instance.status.holds_resources() {
                continue;
            }
            progress.left += 1;
            let (number, name) = (key.instance_number, &instance.job_name);
            if self.is_one_shot(key) {
                progress.blocked.push(format!(
                    "instance {number} of {name} runs once only, so nothing replaces it: wait \
                     until it ends, or remove it"
                ));
            } else if let Some((successor, instance)) = successors.get(key) {
                let successor = successor.instance_number;
                let Instance { status, status_detail, .. } = instance;
                if instance.seeks_cluster() {
                    progress.blocked.push(format!(
                        "instance {successor}, to replace {number} of {name}, finds no place: \
                         {status_detail}"
                    ));
                } else if *status == InstanceStatus::Failed {
                    progress.blocked.push(format!(
                        "instance {successor}, to replace {number} of {name}, failed: remove it \
                         to try again: {status_detail}"
                    ));
                }
            }
        }
        progress.blocked.extend(self.drain_refusals.get(node).cloned());
        progress
    }

    /// The keys of those that are to take the instance's place.
    pub(crate) fn successors_of(&self, key: &InstanceKey) -> Vec<InstanceKey> {
        let of_it = |(_, instance): &(&InstanceKey, &Instance)| {
            !instance.removing && instance.replaces == Some(key.instance_number)
        };
        self.instances_of(&key.job_id).filter(of_it).map(|(key, _)| key.clone()).collect()
    }

    /// Every successor that is wanted, with whom it replaces.
    fn successors(&self) -> impl Iterator<Item = (&InstanceKey, &Instance, InstanceKey)> {
        self.instances.iter().filter(|(_, instance)| !instance.removing).filter_map(
            |(key, instance)| {
                let old = InstanceKey { instance_number: instance.replaces?, ..key.clone() };
                Some((key, instance, old))
            },
        )
    }

    /// Where the instance is, if that is to be drained.
    fn draining_node(&self, instance: &Instance) -> Option<NodeKey> {
        let cluster_id = instance.cluster_id.clone()?;
        let key = NodeKey { cluster_id, worker_id: instance.site.worker_id.clone() };
        let order = self.nodes.get(&key)?;
        (order.availability == Availability::Draining).then_some(key)
    }

    /// What runs once would run twice; what ended, or is a successor itself, needs none.
    fn can_be_replaced(&self, key: &InstanceKey, instance: &Instance) -> bool {
        !instance.removing
            && instance.status.holds_resources()
            && instance.replaces.is_none()
            && !self.is_one_shot(key)
    }

    fn is_one_shot(&self, key: &InstanceKey) -> bool {
        self.services.get(&key.job_id).is_some_and(|job| job.sla.one_shot)
    }
}

fn is_on(instance: &Instance, node: &NodeKey) -> bool {
    instance.cluster_id.as_ref() == Some(&node.cluster_id)
        && instance.site.worker_id == node.worker_id
}

/// It runs, and can be dialled if the old one can.
fn has_taken_over(successor: &Instance, old: &Instance) -> bool {
    let attached = |i: &Instance| i.site.namespace_ip.is_some() || i.site.namespace_ip_v6.is_some();
    successor.status == InstanceStatus::Running && (attached(successor) || !attached(old))
}

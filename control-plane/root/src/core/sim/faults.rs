//! Whatever happens, no address has two owners and there are as many instances as were asked for;
//! and once everything can talk again, what runs is what is wanted, once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use xylem_types::{instance::InstanceStatus, node::Availability, session::InstanceKey};

use super::{Sim, admin, cluster::SimCluster};

impl Sim {
    fn step(&mut self, step: Step) {
        match step {
            Step::Create => self.create(),
            Step::Delete => self.delete(),
            Step::ScaleUp => {
                if self.service().is_some() {
                    self.deploy();
                }
            }
            Step::ScaleDown(which) => {
                let Some(id) = self.service() else { return };
                let keys = self.state.keys_of(&id);
                if !keys.is_empty() {
                    let key = &keys[which.index(keys.len())];
                    let number = key.instance_number;
                    self.asked -= usize::from(self.counts(key));
                    self.change(|state, now| state.scale_down(&admin(), &id, Some(number), now))
                        .unwrap();
                }
            }
            Step::Connect(which) => self.connect(which),
            Step::Disconnect(which) => self.disconnect(which),
            Step::ToRoot(which) => self.deliver_to_root(which),
            Step::ToCluster(which) => self.deliver_to_cluster(which),
            Step::Resources(which) => self.clusters[which].resources(),
            Step::PlaceAnew(which, index) => {
                let cluster = &mut self.clusters[which];
                let keys: Vec<_> = cluster.running.keys().cloned().collect();
                if !keys.is_empty() {
                    cluster.place_anew(&keys[index.index(keys.len())]);
                }
            }
            Step::ForgetAll(which) => {
                self.disconnect(which);
                self.clusters[which].running.clear();
                self.clusters[which].waiting.clear();
            }
            Step::SetAvailability(which, availability) => {
                let _unknown = self.set_availability(which, availability);
            }
            Step::RestartRoot => self.restart_root(),
            Step::Wait(seconds) => self.tick(seconds),
        }
    }

    /// Whether the instance is one that the user has asked for: what is to take another's place is
    /// not one more.
    fn counts(&self, key: &InstanceKey) -> bool {
        let wanted = |key: &InstanceKey| self.state.instances.get(key).filter(|i| !i.removing);
        wanted(key).is_some_and(|instance| {
            let old = |number| InstanceKey { instance_number: number, ..key.clone() };
            instance.replaces.is_none_or(|number| wanted(&old(number)).is_none())
        })
    }

    pub(super) fn check_count(&self) {
        let count = self.state.instances.iter().filter(|(key, _)| self.counts(key)).count();
        assert_eq!(count, self.asked, "instances that the user has asked for");
    }

    /// Nothing is left on what is drained but what finds no place elsewhere.
    fn check_drained(&self) {
        let room = |c: &SimCluster| !c.cordoned && c.running.len() < c.cpus;
        let room = self.clusters.iter().any(room);
        for (node, order) in self.state.nodes.iter() {
            let left = self.state.drain_progress(node);
            let drained = order.availability == Availability::Draining;
            assert!(!drained || left.is_done() || !room, "{node:?}: {left:?}");
        }
    }

    fn check_addresses(&self) {
        let services = self.state.services.values().flat_map(|job| &job.service_ip_list);
        let services = services.map(|address| address.address.unwrap());
        let instances = self.state.instances.values().map(|instance| instance.instance_ip);
        let all: Vec<_> = services.chain(instances).collect();
        let different: BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "an address has two owners");
        assert_eq!(self.state.ipam.service.held(), all.len(), "an address leaked");
        for pool in &self.state.ipam.service_v6 {
            assert_eq!(pool.held(), self.state.services.len());
        }
        assert_eq!(self.state.ipam.instance_v6.held(), self.state.instances.len());
    }

    fn check_converged(&self) {
        let mut wanted: Vec<BTreeMap<InstanceKey, u64>> = vec![BTreeMap::new(); 2];
        let mut waiting = 0;
        for (key, instance) in self.state.instances.iter() {
            assert!(!instance.removing, "{key:?} is still a tombstone: {instance:?}");
            let Some(cluster_id) =
                instance.cluster_id.as_ref().filter(|_| !instance.seeks_cluster())
            else {
                waiting += 1;
                continue;
            };
            assert_eq!(instance.status, InstanceStatus::Running, "{key:?}: {instance:?}");
            let name = self.state.cluster_name(cluster_id);
            let which = self.clusters.iter().position(|c| c.name == name).unwrap();
            wanted[which].insert(key.clone(), instance.generation);
        }
        for (cluster, wanted) in self.clusters.iter().zip(&wanted) {
            assert_eq!(&cluster.running, wanted, "what runs in {}", cluster.name);
        }
        let free: usize = self.clusters.iter().map(|c| c.cpus - c.running.len()).sum();
        assert!(waiting == 0 || free == 0, "{waiting} wait while {free} could run");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Create,
    Delete,
    ScaleUp,
    ScaleDown(prop::sample::Index),
    Connect(usize),
    Disconnect(usize),
    ToRoot(usize),
    ToCluster(usize),
    Resources(usize),
    PlaceAnew(usize, prop::sample::Index),
    ForgetAll(usize),
    SetAvailability(usize, Availability),
    RestartRoot,
    Wait(u64),
}

fn availability() -> impl Strategy<Value = Availability> {
    prop_oneof![
        2 => Just(Availability::Draining),
        1 => Just(Availability::Cordoned),
        1 => Just(Availability::Active),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let cluster = 0..2_usize;
    let index = any::<prop::sample::Index>();
    prop_oneof![
        2 => Just(Step::Create),
        1 => Just(Step::Delete),
        6 => Just(Step::ScaleUp),
        3 => index.clone().prop_map(Step::ScaleDown),
        3 => cluster.clone().prop_map(Step::Connect),
        1 => cluster.clone().prop_map(Step::Disconnect),
        12 => cluster.clone().prop_map(Step::ToRoot),
        12 => cluster.clone().prop_map(Step::ToCluster),
        4 => cluster.clone().prop_map(Step::Resources),
        2 => (cluster.clone(), index).prop_map(|(which, index)| Step::PlaceAnew(which, index)),
        1 => cluster.clone().prop_map(Step::ForgetAll),
        3 => (cluster, availability()).prop_map(|(w, a)| Step::SetAvailability(w, a)),
        1 => Just(Step::RestartRoot),
        1 => (1..20_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn what_runs_is_what_is_wanted_after_any_faults(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let mut sim = Sim::new();
        for step in steps {
            sim.step(step);
            sim.check_addresses();
            sim.check_count();
        }
        sim.heal();
        sim.check_count();
        sim.check_drained();
        for which in 0..2 {
            let _unknown = sim.set_availability(which, Availability::Active);
        }
        sim.heal();
        sim.check_addresses();
        sim.check_count();
        sim.check_converged();
    }
}

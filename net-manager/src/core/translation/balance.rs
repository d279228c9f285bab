//! The lookup tables: computed from the instances, their nodes and their load, when one of these
//! changed and as time passes.

use std::{collections::BTreeMap, time::Duration};

use net_common::{InstanceState, Node, NodeState, Policy};
use net_maps::Name;
use xylem_types::load::Loads;

use super::{Known, Purpose, Tables, Translation};
use crate::core::{
    policy::{Candidate, Change, LookupTable, Seed, Settings},
    tables::{InstanceId, NodeId, Slot},
};

/// Updates after which a table whose candidates stay the same has come to rest: 10 s of updates
/// every 500 ms, ten half-lives of underutilized.
const AT_REST: u32 = 20;

/// A lookup table, and from what it was computed.
#[derive(Clone, Debug)]
pub(super) struct Balance {
    table: LookupTable,
    seen: Vec<Candidate>,
    /// Successive updates from the same candidates that changed nothing.
    quiet: u32,
    moved: Moved,
}

impl Balance {
    pub(super) fn new(policy: Policy, name: Name) -> Self {
        let table = LookupTable::new(policy, Seed::of(name.as_str().as_bytes()));
        Self { table, seen: Vec::new(), quiet: 0, moved: Moved::default() }
    }

    pub(super) fn with_ids(mut self, ids: Vec<InstanceId>) -> Self {
        self.table = self.table.with_ids(ids);
        self
    }

    fn update(
        &mut self,
        settings: &Settings,
        candidates: &[Candidate],
        now: Duration,
    ) -> Option<Change> {
        if self.seen != candidates {
            self.seen = candidates.to_vec();
            self.quiet = 0;
        } else if self.quiet >= AT_REST {
            return None;
        }
        let change = self.table.update(settings, candidates, now);
        self.quiet = if change.is_some() { 0 } else { self.quiet + 1 };
        change
    }
}

/// How many clients the changes of one affinity table sent elsewhere, as long as it is known here.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moved {
    /// How often it was replaced by another, neither being empty.
    pub changes: u64,
    /// Share of clients that the last of them moved, 0 to 1.
    pub last_ratio: f64,
    /// Sum over all of them; with `changes`, their mean.
    pub sum_ratio: f64,
}

impl Translation {
    /// Computes the lookup tables whose instances changed. To be called before each plan: the
    /// tables name only instances that are there after it.
    pub fn balance(&mut self, settings: &Settings, now: Duration) {
        for name in std::mem::take(&mut self.unbalanced) {
            self.balance_service(name, settings, now);
        }
    }

    /// Looks at the tables that depend on what is measured with the next [`Translation::balance`].
    pub fn rebalance(&mut self) {
        let depends = |purpose: &Purpose| {
            matches!(purpose.choosing(), Some(Policy::Closest | Policy::Underutilized))
        };
        let names = self.services.iter().filter(|(_, known)| known.slots.keys().any(depends));
        self.unbalanced.extend(names.map(|(name, _)| *name));
    }

    /// What each affinity table moved. A service that is forgotten takes its counts with it.
    pub fn moved(&self) -> impl Iterator<Item = (Name, Policy, Moved)> + '_ {
        self.services.iter().filter_map(|(name, known)| {
            let balance = known.balances.get(&Purpose::of(Policy::Affinity))?;
            Some((*name, Policy::Affinity, balance.moved))
        })
    }

    /// Flows in progress to the instances; to those left out there is none.
    pub fn set_flows(&mut self, flows: BTreeMap<InstanceId, u32>) {
        self.flows = flows;
    }

    /// The instances for whose tables flows in progress count.
    pub fn weighed_by_flows(&self) -> Vec<InstanceId> {
        let weighed = Purpose::of(Policy::Underutilized);
        let services = self.services.values().filter(|known| known.slots.contains_key(&weighed));
        services.flat_map(|known| known.instances.values().copied()).collect()
    }

    /// What instances use changed.
    pub fn set_load(&mut self, loads: &Loads) {
        for service in &loads.services {
            let Ok(name) = Name::try_from(service.app_name.as_str()) else { continue };
            let Some(known) = self.services.get_mut(&name) else { continue };
            for instance in &service.instances {
                if known.instances.contains_key(&instance.instance_number) {
                    known.cpu.insert(instance.instance_number, instance.cpu_percent);
                }
            }
        }
    }

    /// Every service with an instance on this node is to be balanced anew.
    pub(super) fn unbalance_node(&mut self, id: NodeId) {
        let on_it = self.desired.instances.iter().filter(|(_, instance)| instance.node == id);
        let names = on_it.filter_map(|(_, i)| self.desired.names.get(i.service).copied());
        self.unbalanced.extend(names);
    }

    fn balance_service(&mut self, name: Name, settings: &Settings, now: Duration) {
        let Some(known) = self.services.get_mut(&name) else { return };
        let candidates = candidates(known, &self.desired, &self.flows);
        let slots: Vec<(Purpose, Slot)> = known.slots.iter().map(|(p, s)| (*p, *s)).collect();
        for (purpose, slot) in slots {
            let Some(policy) = purpose.choosing() else { continue };
            let balance =
                known.balances.entry(purpose).or_insert_with(|| Balance::new(policy, name));
            let change = balance.update(settings, &candidates, now);
            if let Some(change) = change
                && policy == Policy::Affinity
                && !balance.table.ids().is_empty()
                && self.desired.tables.get(slot).is_some()
            {
                balance.moved.changes += 1;
                balance.moved.last_ratio = change.moved;
                balance.moved.sum_ratio += change.moved;
            }
            let ids = balance.table.ids();
            if ids.is_empty() {
                self.desired.tables.remove(slot);
            } else if self.desired.tables.get(slot).is_none_or(|held| held != ids) {
                self.desired.tables.set(slot, ids.to_vec());
            }
        }
    }

    /// Takes over the tables that the maps hold. What is left of one that names instances that are
    /// there no more is computed anew with the first balance; so is what depends on nothing but
    /// the instances.
    pub(super) fn recover_balances(&mut self, name: Name, held: &Tables) {
        let Some(known) = self.services.get_mut(&name) else { return };
        let candidates = candidates(known, &self.desired, &self.flows);
        let takes = |id: &InstanceId| candidates.iter().any(|c| c.id == *id && c.takes_flows());
        let somebody = candidates.iter().any(Candidate::takes_flows);
        for (purpose, slot) in known.slots.clone() {
            let Some(policy) = purpose.choosing() else { continue };
            let held: &[InstanceId] = held.tables.get(slot).map_or(&[], Vec::as_slice);
            let ids: Vec<InstanceId> = held.iter().copied().filter(takes).collect();
            let is_whole = ids.len() == held.len() && ids.is_empty() != somebody;
            if !is_whole || matches!(policy, Policy::RoundRobin | Policy::Affinity) {
                self.unbalanced.insert(name);
            }
            if !ids.is_empty() {
                self.desired.tables.set(slot, ids.clone());
            }
            known.balances.insert(purpose, Balance::new(policy, name).with_ids(ids));
        }
    }
}

/// What is known of the listed instances of a service.
fn candidates(
    known: &Known,
    desired: &Tables,
    flows: &BTreeMap<InstanceId, u32>,
) -> Vec<Candidate> {
    let candidate = |number: &u32| {
        let id = *known.instances.get(number)?;
        let instance = desired.instances.get(id)?;
        let node = desired.nodes.get(instance.node)?;
        Some(Candidate {
            id,
            number: *number,
            node: instance.node,
            state: InstanceState::from_raw(instance.state)?,
            node_is_up: instance.node == 0 || node.state == NodeState::Up as u32,
            rtt: rtt(node),
            cpu_percent: known.cpu.get(number).copied(),
            flows: flows.get(&id).copied().unwrap_or(0),
        })
    };
    known.listed.iter().filter_map(candidate).collect()
}

fn rtt(node: &Node) -> Option<Duration> {
    (node.rtt_us != 0).then(|| Duration::from_micros(node.rtt_us.into()))
}

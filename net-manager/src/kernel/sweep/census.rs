//! Who has how many flows.

use std::collections::{BTreeMap, BTreeSet};

use net_common::Flow;

use crate::core::{
    expiry,
    tables::{InstanceId, Slot},
};

/// What a look at one map has seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Census {
    pub(super) entries: usize,
    /// Those of them that live.
    pub(super) living: usize,
    slots: Vec<BySlot>,
    /// By id: flows in progress.
    instances: Vec<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct BySlot {
    is_in_use: bool,
    in_progress: u64,
}

impl Census {
    /// An entry lives, with the ids that it has: below `slots` and `instances`, or they are nobody's.
    pub(super) fn count(&mut self, flow: &Flow, slots: u32, instances: u32) {
        self.living += 1;
        let in_progress = expiry::counts(flow) && expiry::is_in_progress(flow);
        if (1..slots).contains(&flow.service) {
            let slot = place(&mut self.slots, flow.service);
            slot.is_in_use = true;
            slot.in_progress += u64::from(in_progress);
        }
        if in_progress && (1..instances).contains(&flow.instance) {
            *place(&mut self.instances, flow.instance) += 1;
        }
    }

    pub(super) fn in_use(&self) -> impl Iterator<Item = Slot> {
        (0..).zip(&self.slots).filter(|(_, slot)| slot.is_in_use).map(|(slot, _)| slot)
    }

    pub(super) fn by_slot(&self) -> impl Iterator<Item = (Slot, u64)> {
        (0..).zip(&self.slots).map(|(slot, counted)| (slot, counted.in_progress))
    }

    pub(super) fn by_instance(&self) -> impl Iterator<Item = (InstanceId, u64)> {
        (0..).zip(self.instances.iter().copied())
    }
}

/// Of two maps together.
pub(super) fn sum<K: Ord>(
    a: impl Iterator<Item = (K, u64)>,
    b: impl Iterator<Item = (K, u64)>,
) -> BTreeMap<K, u64> {
    let mut sums = BTreeMap::new();
    for (key, count) in a.chain(b).filter(|(_, count)| *count != 0) {
        *sums.entry(key).or_default() += count;
    }
    sums
}

pub(super) fn union<K: Ord>(a: impl Iterator<Item = K>, b: impl Iterator<Item = K>) -> BTreeSet<K> {
    a.chain(b).collect()
}

fn place<T: Clone + Default>(all: &mut Vec<T>, id: u32) -> &mut T {
    let index = id as usize;
    if index >= all.len() {
        all.resize(index + 1, T::default());
    }
    &mut all[index]
}

//! One lookup table: what it is now, and what it becomes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use net_common::{Policy, limits::TABLE_SLOTS};

use super::{
    Candidate, Seed, Settings, apportion::apportion, closest, interleave::interleave, maglev,
    share_moved, share_moved_needlessly, underutilized,
};
use crate::core::tables::InstanceId;

/// What an update did to the clients of a table that is indexed by their hash (affinity). For
/// tables with a cursor it only says how unlike the two tables are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// [`share_moved`], 0 to 1.
    pub moved: f64,
    /// [`share_moved_needlessly`], 0 to 1.
    pub moved_needlessly: f64,
}

/// The lookup table of one policy of one service.
#[derive(Clone, Debug)]
pub struct LookupTable {
    seed: Seed,
    rule: Rule,
    ids: Vec<InstanceId>,
}

/// A policy, with what it remembers.
#[derive(Clone, Debug)]
enum Rule {
    RoundRobin,
    Closest(closest::Memory),
    Underutilized(underutilized::Memory),
    /// The instances (number, id) that the table is of.
    Affinity(Vec<(u32, InstanceId)>),
    /// The address is that of one instance: it has no table.
    Instance,
}

impl LookupTable {
    /// An empty table.
    pub fn new(policy: Policy, seed: Seed) -> Self {
        let rule = match policy {
            Policy::RoundRobin => Rule::RoundRobin,
            Policy::Closest => Rule::Closest(closest::Memory::default()),
            Policy::Underutilized => Rule::Underutilized(underutilized::Memory::default()),
            Policy::Affinity => Rule::Affinity(Vec::new()),
            Policy::Instance => Rule::Instance,
        };
        Self { seed, rule, ids: Vec::new() }
    }

    /// The table as the kernel holds it, after a restart: the next update is compared with it.
    pub fn with_ids(mut self, ids: Vec<InstanceId>) -> Self {
        self.ids = ids;
        self
    }

    /// The table, as it is to be written; empty if nobody takes new flows.
    pub fn ids(&self) -> &[InstanceId] {
        &self.ids
    }

    /// The part of new flows that goes to each instance; they add up to 1.
    pub fn shares(&self) -> BTreeMap<InstanceId, f64> {
        let place = 1.0 / self.ids.len() as f64;
        self.ids.iter().fold(BTreeMap::new(), |mut shares, id| {
            *shares.entry(*id).or_default() += place;
            shares
        })
    }

    /// What closest remembers, to explain its choice; `None` for other policies.
    pub fn closest(&self) -> Option<&closest::Memory> {
        match &self.rule {
            Rule::Closest(memory) => Some(memory),
            Rule::RoundRobin | Rule::Underutilized(_) | Rule::Affinity(_) | Rule::Instance => None,
        }
    }

    /// Computes the table from all instances of the service, in any order. `None` if it stays.
    ///
    /// To be called whenever candidates come, go or change state, and for closest and
    /// underutilized also as time passes, every 500 ms or so; more often does no harm.
    pub fn update(
        &mut self,
        settings: &Settings,
        candidates: &[Candidate],
        now: Duration,
    ) -> Option<Change> {
        let candidates = eligible(candidates);
        let ids = match &mut self.rule {
            _ if candidates.is_empty() => Vec::new(),
            Rule::RoundRobin => candidates.iter().map(|candidate| candidate.id).collect(),
            Rule::Closest(memory) => {
                spread(&candidates, &memory.shares(&settings.closest, &candidates, now))
            }
            Rule::Underutilized(memory) => {
                spread(&candidates, &memory.shares(&settings.underutilized, &candidates, now))
            }
            Rule::Affinity(known) => {
                let instances: Vec<_> = candidates.iter().map(|c| (c.number, c.id)).collect();
                if instances == *known && !self.ids.is_empty() {
                    return None;
                }
                *known = instances;
                maglev::table(self.seed, known)
            }
            Rule::Instance => Vec::new(),
        };
        if ids == self.ids {
            return None;
        }
        let old = std::mem::replace(&mut self.ids, ids);
        Some(Change {
            moved: share_moved(&old, &self.ids),
            moved_needlessly: share_moved_needlessly(&old, &self.ids),
        })
    }
}

/// Who takes new flows, by number, each once, and no more than a table has places.
fn eligible(candidates: &[Candidate]) -> Vec<Candidate> {
    let mut eligible: Vec<Candidate> =
        candidates.iter().copied().filter(Candidate::takes_flows).collect();
    eligible.sort_by_key(|candidate| (candidate.number, candidate.id));
    let mut seen = BTreeSet::new();
    eligible.retain(|candidate| seen.insert(candidate.number));
    eligible.truncate(TABLE_SLOTS as usize);
    eligible
}

fn spread(candidates: &[Candidate], shares: &[f64]) -> Vec<InstanceId> {
    let weights = apportion(shares);
    let weighted: Vec<_> = candidates.iter().map(|c| c.id).zip(weights).collect();
    interleave(&weighted)
}

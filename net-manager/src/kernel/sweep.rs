//! Removes ended flows from the flow table, beside the asynchronous tasks: a full table takes a
//! while to read.

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    path::Path,
    time::Duration,
};

use net_common::{Flow, FlowKey, NodeState};
use net_maps::{MapsError, PinnedMaps};

use super::clock;
use crate::core::{
    expiry::{Census, Timeouts, Verdict},
    tables::{InstanceId, NodeId, Slot},
};

/// [`FlowKey::origin`] of packets from the tunnel has this bit; the rest is the node's id.
const FROM_NODE: u32 = 0x8000_0000;

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Swept {
    pub entries: usize,
    pub removed: usize,
    /// Slots of the service IPs to which flows are alive.
    pub in_use: BTreeSet<Slot>,
    pub took: Duration,
}

/// Why a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error(transparent)]
    Open(#[from] net_maps::OpenError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error("the sweep ended early")]
    Thread(#[source] tokio::task::JoinError),
}

/// Looks at every flow once. Blocks.
///
/// # Errors
/// The maps cannot be read or written.
pub fn sweep(bpffs_root: &Path, timeouts: &Timeouts) -> Result<Swept, SweepError> {
    let started = clock::now();
    let mut maps = PinnedMaps::open(bpffs_root)?;
    let mut owners = Owners::default();
    let mut census = Census::default();
    let mut entries = 0;
    for key in maps.flow_keys()? {
        let Some(flow) = maps.flow(&key)? else { continue };
        entries += 1;
        let orphaned = owners.is_orphan(&maps, &key, &flow)?;
        census.add(key, &flow, orphaned);
    }
    let Verdict { ended, in_use } = census.judge(timeouts, clock::now());

    let mut removed = 0;
    for ended in ended {
        let unused = |flow: Flow| flow.last_seen_ns == ended.last_seen_ns;
        if maps.flow(&ended.key)?.is_some_and(unused) {
            maps.remove_flow(&ended.key)?;
            removed += 1;
        }
    }
    Ok(Swept { entries, removed, in_use, took: clock::now().saturating_sub(started) })
}

/// The instances and nodes that flows refer to, each looked up once.
#[derive(Debug, Default)]
struct Owners {
    generations: HashMap<InstanceId, u32>,
    states: HashMap<NodeId, u32>,
}

impl Owners {
    /// Whether the instance or the node of a flow is gone, or another has its place.
    fn is_orphan(
        &mut self,
        maps: &PinnedMaps,
        key: &FlowKey,
        flow: &Flow,
    ) -> Result<bool, MapsError> {
        let Flow { instance, generation, node, .. } = *flow;
        if instance != 0 {
            let known = match self.generations.entry(instance) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => *unknown.insert(maps.instance(instance)?.generation),
            };
            if known != generation {
                return Ok(true);
            }
        }
        let from = if key.origin & FROM_NODE == 0 { 0 } else { key.origin & !FROM_NODE };
        for id in [node, from].into_iter().filter(|id| *id != 0) {
            let state = match self.states.entry(id) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => *unknown.insert(maps.node(id)?.state),
            };
            if state == NodeState::Absent as u32 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

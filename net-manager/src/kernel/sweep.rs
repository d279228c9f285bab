//! Removes ended flows from the flow table, beside the asynchronous tasks: a full table takes a
//! while to read.

use std::{
    collections::{BTreeSet, HashMap},
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
    let nodes: HashMap<NodeId, u32> =
        maps.nodes()?.into_iter().map(|(id, node)| (id, node.state)).collect();
    let mut generations: HashMap<InstanceId, u32> = HashMap::new();

    let mut census = Census::default();
    let mut entries = 0;
    for key in maps.flow_keys()? {
        let Some(flow) = maps.flow(&key)? else { continue };
        entries += 1;
        let generation = match generations.get(&flow.instance) {
            Some(generation) => *generation,
            None => {
                let generation = maps.instance(flow.instance)?.generation;
                generations.insert(flow.instance, generation);
                generation
            }
        };
        let orphaned = (flow.instance != 0 && flow.generation != generation)
            || [flow.node, from(&key)].iter().any(|id| is_gone(&nodes, *id));
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

fn from(key: &FlowKey) -> NodeId {
    if key.origin & FROM_NODE == 0 { 0 } else { key.origin & !FROM_NODE }
}

fn is_gone(nodes: &HashMap<NodeId, u32>, id: NodeId) -> bool {
    id != 0 && nodes.get(&id).is_none_or(|state| *state == NodeState::Absent as u32)
}

//! Removes flows whose address is not what it was: a node opened them in the name of an instance
//! that is not there, or they lead out of the overlay by an address that this node has lost.

use std::path::Path;

use net_common::{
    Addr,
    flow::{OUTSIDE, flags::REMOTE_CLIENT, from_node},
};
use net_maps::PinnedMaps;

use super::sweep::SweepError;
use crate::core::tables::NodeId;

/// Removes both directions of each flow that came from `node` with the source `src`; how many
/// entries that were. Blocks.
///
/// # Errors
/// The maps cannot be read or written.
pub fn remove_flows(bpffs_root: &Path, node: NodeId, src: Addr) -> Result<usize, SweepError> {
    let table = PinnedMaps::open(bpffs_root)?;
    let mut maps = PinnedMaps::open(bpffs_root)?;
    let mut removed = 0;
    table.for_each_flow(|key, flow| {
        let is_question = key.origin == from_node(node);
        let is_answer = flow.node == node && flow.dst == src && flow.flags & REMOTE_CLIENT != 0;
        if key.remote == src && (is_question || is_answer) {
            maps.remove_flow(&key)?;
            removed += 1;
        }
        Ok::<_, SweepError>(())
    })?;
    Ok(removed)
}

/// Removes both directions of each flow between an instance and a host outside of the overlay that
/// goes by another address of this node than these; how many entries that were. What the instance
/// sends next opens another flow, so that its host learns that the connection is gone. Blocks.
///
/// # Errors
/// The maps cannot be read or written.
pub fn remove_outside_flows(bpffs_root: &Path, own: &[Addr]) -> Result<usize, SweepError> {
    let table = PinnedMaps::open(bpffs_root)?;
    let mut maps = PinnedMaps::open(bpffs_root)?;
    let mut removed = 0;
    table.for_each_flow(|key, flow| {
        let enters = key.origin == from_node(OUTSIDE) && !own.contains(&key.local);
        let leaves = flow.node == OUTSIDE && !own.contains(&flow.src);
        if enters || leaves {
            maps.remove_flow(&key)?;
            removed += 1;
        }
        Ok::<_, SweepError>(())
    })?;
    Ok(removed)
}

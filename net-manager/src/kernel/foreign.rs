//! Removes flows that a node opened in the name of an instance that is not there.

use std::path::Path;

use net_common::{
    Addr,
    flow::{flags::REMOTE_CLIENT, from_node},
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
    let mut maps = PinnedMaps::open(bpffs_root)?;
    let mut removed = 0;
    for key in maps.flow_keys()? {
        let is_question = key.origin == from_node(node) && key.remote == src;
        let is_answer = || -> Result<bool, SweepError> {
            Ok(key.remote == src
                && maps.flow(&key)?.is_some_and(|flow| {
                    flow.node == node && flow.dst == src && flow.flags & REMOTE_CLIENT != 0
                }))
        };
        if is_question || is_answer()? {
            maps.remove_flow(&key)?;
            removed += 1;
        }
    }
    Ok(removed)
}

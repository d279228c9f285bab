//! The instances and nodes that flows refer to, each looked up once for a million flows.

use net_common::{Flow, FlowKey, Instance, NodeState, flow::OUTSIDE};
use net_maps::{MapsError, PinnedMaps};

use crate::core::tables::{InstanceId, NodeId};

/// [`FlowKey::origin`] of packets from the tunnel has this bit; the rest is the node's id.
const FROM_NODE: u32 = 0x8000_0000;

/// What is known of them, by id: ids are given out from the lowest.
#[derive(Debug)]
pub(super) struct Owners {
    generations: Vec<Option<u32>>,
    are_absent: Vec<Option<bool>>,
    instances: u32,
    nodes: u32,
}

impl Owners {
    pub(super) fn new(maps: &PinnedMaps) -> Self {
        Self {
            generations: Vec::new(),
            are_absent: Vec::new(),
            instances: maps.instance_capacity(),
            nodes: maps.node_capacity(),
        }
    }

    /// Whether the instance or the node of a flow is gone, or another has its place.
    pub(super) fn is_orphan(
        &mut self,
        maps: &PinnedMaps,
        key: &FlowKey,
        flow: &Flow,
    ) -> Result<bool, MapsError> {
        if !self.is_current(maps, flow, false)? {
            // Who was looked up a while ago may have changed since.
            return Ok(!self.is_current(maps, flow, true)?);
        }
        for id in nodes(key, flow).into_iter().flatten() {
            if self.is_absent(maps, id, false)? && self.is_absent(maps, id, true)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the flow's instance, if it has one, is the one that was chosen.
    fn is_current(
        &mut self,
        maps: &PinnedMaps,
        flow: &Flow,
        afresh: bool,
    ) -> Result<bool, MapsError> {
        if flow.instance == 0 {
            return Ok(true);
        }
        // An id that cannot be is nobody's.
        if flow.instance >= self.instances {
            return Ok(false);
        }
        let known = place(&mut self.generations, flow.instance);
        let generation = match *known {
            Some(generation) if !afresh => generation,
            _ => *known.insert(maps.instance(flow.instance)?.generation),
        };
        Ok(generation == flow.generation)
    }

    fn is_absent(
        &mut self,
        maps: &PinnedMaps,
        id: NodeId,
        afresh: bool,
    ) -> Result<bool, MapsError> {
        if id >= self.nodes {
            return Ok(true);
        }
        let known = place(&mut self.are_absent, id);
        Ok(match *known {
            Some(is_absent) if !afresh => is_absent,
            _ => *known.insert(maps.node(id)?.state == NodeState::Absent as u32),
        })
    }

    /// The flow's instance as it is now.
    pub(super) fn instance(
        &self,
        maps: &PinnedMaps,
        id: InstanceId,
    ) -> Result<Option<Instance>, MapsError> {
        if id == 0 || id >= self.instances { Ok(None) } else { maps.instance(id).map(Some) }
    }
}

/// Where the flow leads, and where it comes from.
fn nodes(key: &FlowKey, flow: &Flow) -> [Option<NodeId>; 2] {
    let from = if key.origin & FROM_NODE == 0 { 0 } else { key.origin & !FROM_NODE };
    [flow.node, from].map(|id| (!matches!(id, 0 | OUTSIDE)).then_some(id))
}

fn place<T: Copy>(known: &mut Vec<Option<T>>, id: u32) -> &mut Option<T> {
    let index = id as usize;
    if index >= known.len() {
        known.resize(index + 1, None);
    }
    &mut known[index]
}

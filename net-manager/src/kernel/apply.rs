//! Carries out the writes of a plan, and reads back what the maps hold.

use std::collections::BTreeSet;

use net_common::PeerKey;
use net_maps::{MapsError, PinnedMaps, is_full};

use crate::core::{
    plan::MapOp,
    published,
    tables::{Slot, Tables, is_present},
};

/// What became of a plan.
#[derive(Debug, Default)]
pub struct Applied {
    /// The maps that had no room for a write; what depends on it was still written.
    pub full: Vec<&'static str>,
    /// Why the plan was not carried out to its end.
    pub failure: Option<MapsError>,
    /// Slots whose lookup table is the one before, or none, because there was no room for another.
    without_table: BTreeSet<Slot>,
}

impl Applied {
    pub fn is_complete(&self) -> bool {
        self.full.is_empty() && self.failure.is_none()
    }

    /// Whether an id that has no owner any more may be given to another: not while a lookup table
    /// from before may name it.
    pub fn frees_ids(&self) -> bool {
        self.failure.is_none() && self.without_table.is_empty()
    }
}

/// Writes a plan to the maps, and to `held`, which stands for them.
///
/// A write that finds no room is left out and the rest goes on, but for new addresses of a service
/// whose lookup table has found none: nothing else refers to an entry of the maps that can be full
/// (addresses, lookup tables, peers). Any other failure ends it, because what follows may refer to
/// what failed.
pub fn apply(maps: &mut PinnedMaps, held: &mut Tables, ops: &[MapOp]) -> Applied {
    let mut applied = Applied::default();
    for op in ops {
        if let MapOp::SetService(addr, service) = op
            && applied.without_table.contains(&service.slot)
            && held.services.get(*addr).is_none()
        {
            continue;
        }
        match write(maps, held, op) {
            Ok(()) => op.apply(held),
            Err(error) if is_full(&error) => {
                applied.full.push(error.map);
                if let MapOp::SetTable(slot, _) = op {
                    applied.without_table.insert(*slot);
                }
            }
            Err(error) => {
                applied.failure = Some(error);
                break;
            }
        }
    }
    held.planned();
    applied
}

fn write(maps: &mut PinnedMaps, held: &Tables, op: &MapOp) -> Result<(), MapsError> {
    match op {
        MapOp::SetNode(id, node) => maps.set_node(*id, node),
        MapOp::SetPeer(peer, node) => maps.set_peer(&PeerKey::from(*peer), *node),
        MapOp::RemovePeer(peer) => maps.remove_peer(&PeerKey::from(*peer)),
        MapOp::SetName(slot, name) => {
            if held.names.get(*slot).is_some_and(|before| before != name) {
                maps.reset_slot(*slot)?;
            }
            maps.set_name(*slot, name)
        }
        // Counters are put back when their owner goes: what is new is then quickly there.
        MapOp::RemoveName(slot) => {
            maps.reset_slot(*slot)?;
            maps.remove_name(*slot)
        }
        MapOp::SetInstance(id, instance) => {
            if !is_present(instance) && held.is_present(*id) {
                maps.reset_instance_traffic(*id)?;
            }
            maps.set_instance(*id, instance)
        }
        MapOp::SetTable(slot, ids) => maps.set_table(*slot, ids),
        MapOp::ClearTable(slot) => maps.set_table(*slot, &[]),
        MapOp::SetService(addr, service) => maps.set_service(*addr, service),
        MapOp::RemoveService(addr) => maps.remove_service(*addr),
        MapOp::SetEndpoint(addr, endpoint) => maps.set_endpoint(*addr, endpoint),
        MapOp::RemoveEndpoint(addr) => maps.remove_endpoint(*addr),
        MapOp::SetPublished(port, to) => maps.set_published(&published::key(*port), to),
        MapOp::RemovePublished(port) => maps.remove_published(&published::key(*port)),
    }
}

/// What the maps hold now.
///
/// # Errors
/// A map cannot be read.
pub fn read(maps: &PinnedMaps) -> Result<Tables, MapsError> {
    let names = maps.names()?;
    let mut tables = Vec::new();
    for (slot, _) in &names {
        let ids = maps.table(*slot)?;
        if !ids.is_empty() {
            tables.push((*slot, ids));
        }
    }
    Ok(Tables {
        services: maps.services()?.into_iter().collect(),
        tables: tables.into_iter().collect(),
        instances: maps.instances()?.into_iter().collect(),
        nodes: maps.nodes()?.into_iter().collect(),
        peers: maps.peers()?.into_iter().map(|(key, node)| (key.into(), node)).collect(),
        endpoints: maps.endpoints()?.into_iter().collect(),
        published: maps
            .published()?
            .into_iter()
            .filter_map(|(key, to)| Some((published::node_port(key)?, to)))
            .collect(),
        names: names.into_iter().collect(),
    })
}

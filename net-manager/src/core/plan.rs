//! From what the maps hold and what they should hold to the writes between them, in an order in
//! which no packet meets a dangling reference.
//!
//! Pure, so a crash between any two writes can be tested by planning again from what is held.
//!
//! Invariants, after every single write:
//! * a lookup table names only instances that are there, and so does a service;
//! * an instance that is there is on a node that is there;
//! * an endpoint names an instance that is there, and so does a published port;
//! * a slot that is in use has its name.

use net_common::{Addr, Endpoint, Instance, Node, Published, Service};
use net_maps::Name;
use xylem_types::port::NodePort;

use super::tables::{Entries, InstanceId, NodeId, PeerAddr, Slot, Tables, is_known, is_present};

/// One write to one map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    SetNode(NodeId, Node),
    SetPeer(PeerAddr, NodeId),
    RemovePeer(PeerAddr),
    /// The slot's counters and cursor start from zero.
    SetName(Slot, Name),
    RemoveName(Slot),
    /// For an id that nobody had, its counters start from zero.
    SetInstance(InstanceId, Instance),
    SetTable(Slot, Vec<InstanceId>),
    ClearTable(Slot),
    SetService(Addr, Service),
    RemoveService(Addr),
    SetEndpoint(Addr, Endpoint),
    RemoveEndpoint(Addr),
    SetPublished(NodePort, Published),
    RemovePublished(NodePort),
}

impl MapOp {
    /// What the write does to a map, on the value of the maps.
    pub fn apply(&self, tables: &mut Tables) {
        match self {
            // The map is an array: an entry of zeros is none.
            Self::SetNode(id, node) if *node == Node::default() => tables.nodes.remove(*id),
            Self::SetNode(id, node) => tables.nodes.set(*id, *node),
            Self::SetPeer(peer, node) => tables.peers.set(*peer, *node),
            Self::RemovePeer(peer) => tables.peers.remove(*peer),
            Self::SetName(slot, name) => tables.names.set(*slot, *name),
            Self::RemoveName(slot) => tables.names.remove(*slot),
            Self::SetInstance(id, instance) => tables.instances.set(*id, *instance),
            Self::SetTable(slot, ids) => tables.tables.set(*slot, ids.clone()),
            Self::ClearTable(slot) => tables.tables.remove(*slot),
            Self::SetService(addr, service) => tables.services.set(*addr, *service),
            Self::RemoveService(addr) => tables.services.remove(*addr),
            Self::SetEndpoint(addr, endpoint) => tables.endpoints.set(*addr, *endpoint),
            Self::RemoveEndpoint(addr) => tables.endpoints.remove(*addr),
            Self::SetPublished(port, published) => tables.published.set(*port, *published),
            Self::RemovePublished(port) => tables.published.remove(*port),
        }
    }
}

/// The writes that turn `held` into `desired`, as far as `desired` was touched.
///
/// `desired` must be consistent in itself, and an id or slot that it takes from one owner and
/// gives to another in the same plan would be seen with the wrong owner in between: who makes
/// `desired` lets freed ids rest until they are planned.
pub fn plan(held: &Tables, desired: &Tables) -> Vec<MapOp> {
    let mut ops = Vec::new();

    // What is referred to comes before what refers to it …
    changes(&mut ops, &held.nodes, &desired.nodes, |id, node| {
        node.filter(|node| is_known(node)).map(|node| MapOp::SetNode(id, *node))
    });
    changes(&mut ops, &held.names, &desired.names, |slot, name| {
        name.map(|name| MapOp::SetName(slot, *name))
    });
    changes(&mut ops, &held.instances, &desired.instances, |id, instance| {
        instance.filter(|i| is_present(i)).map(|i| MapOp::SetInstance(id, *i))
    });
    changes(&mut ops, &held.tables, &desired.tables, |slot, ids| {
        ids.map(|ids| MapOp::SetTable(slot, ids.clone()))
    });
    changes(&mut ops, &held.services, &desired.services, |addr, service| {
        service.map(|service| MapOp::SetService(addr, *service))
    });
    changes(&mut ops, &held.endpoints, &desired.endpoints, |addr, endpoint| {
        endpoint.map(|endpoint| MapOp::SetEndpoint(addr, *endpoint))
    });
    changes(&mut ops, &held.published, &desired.published, |port, published| {
        published.map(|published| MapOp::SetPublished(port, *published))
    });
    changes(&mut ops, &held.peers, &desired.peers, |peer, node| {
        node.map(|node| MapOp::SetPeer(peer, *node))
    });

    // … and goes after it.
    changes(&mut ops, &held.peers, &desired.peers, |peer, node| {
        node.is_none().then_some(MapOp::RemovePeer(peer))
    });
    changes(&mut ops, &held.published, &desired.published, |port, published| {
        published.is_none().then_some(MapOp::RemovePublished(port))
    });
    changes(&mut ops, &held.endpoints, &desired.endpoints, |addr, endpoint| {
        endpoint.is_none().then_some(MapOp::RemoveEndpoint(addr))
    });
    changes(&mut ops, &held.services, &desired.services, |addr, service| {
        service.is_none().then_some(MapOp::RemoveService(addr))
    });
    changes(&mut ops, &held.tables, &desired.tables, |slot, ids| {
        ids.is_none().then_some(MapOp::ClearTable(slot))
    });
    changes(&mut ops, &held.instances, &desired.instances, |id, instance| {
        match instance {
            Some(instance) if is_present(instance) => None,
            Some(tombstone) => Some(MapOp::SetInstance(id, *tombstone)),
            // Never planned: who removes an instance leaves its generation.
            None => None,
        }
    });
    changes(&mut ops, &held.names, &desired.names, |slot, name| {
        name.is_none().then_some(MapOp::RemoveName(slot))
    });
    changes(&mut ops, &held.nodes, &desired.nodes, |id, node| match node {
        Some(node) if is_known(node) => None,
        Some(_) | None => Some(MapOp::SetNode(id, Node::default())),
    });
    ops
}

fn changes<K: Copy + Ord, V: PartialEq>(
    ops: &mut Vec<MapOp>,
    held: &Entries<K, V>,
    desired: &Entries<K, V>,
    op: impl Fn(K, Option<&V>) -> Option<MapOp>,
) {
    for key in desired.touched() {
        let wanted = desired.get(key);
        if held.get(key) != wanted {
            ops.extend(op(key, wanted));
        }
    }
}

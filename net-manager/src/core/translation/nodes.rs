//! Other nodes: those that the cluster announced, and the hosts of known instances.

use net_common::{Node, NodeKind, NodeState};
use xylem_types::mqtt::{Peer, PeerKind};

use super::{MapFull, Translation};
use crate::core::{
    ids::NoIdLeft,
    ipam::PREFIX_V4,
    tables::{NodeId, PeerAddr},
};

impl Translation {
    /// The cluster announced everybody from whom tunnel packets are accepted. Hosts of known
    /// instances are accepted as well.
    ///
    /// # Errors
    /// The map `nodes` has no room for all of them; those that fit are taken over.
    pub fn set_peers(&mut self, peers: &[Peer]) -> Result<(), MapFull> {
        self.unannounced = NodeKind::Xylem;
        self.announced.clear();
        let mut full = None;
        for peer in peers {
            let addr =
                PeerAddr { addr: peer.endpoint.host_ip.into(), port: peer.endpoint.host_port };
            if addr == self.me {
                continue;
            }
            match self.node(addr) {
                Ok(id) => {
                    self.announced.insert(id);
                    self.desired.nodes.set(id, announced_node(peer, addr));
                }
                Err(error) => full = Some(error),
            }
        }
        self.drop_unused_nodes();
        full.map_or(Ok(()), Err)
    }

    /// The id of the node at this address, made if it is not there.
    pub(super) fn node(&mut self, addr: PeerAddr) -> Result<NodeId, MapFull> {
        if let Some(id) = self.nodes.get(&addr) {
            return Ok(*id);
        }
        let full = MapFull { map: "nodes", capacity: self.capacities.nodes };
        let id = self.node_ids.take().map_err(|NoIdLeft| full)?;
        self.nodes.insert(addr, id);
        self.residents.entry(id).or_default();
        self.desired.nodes.set(id, node(addr, self.unannounced));
        self.desired.peers.set(addr, id);
        Ok(id)
    }

    pub(super) fn leave_node(&mut self, id: NodeId) {
        if let Some(count) = self.residents.get_mut(&id) {
            *count = count.saturating_sub(1);
        }
    }

    /// Nodes that nobody announced and that have no instance of a known service.
    pub(super) fn drop_unused_nodes(&mut self) {
        let unused: Vec<NodeId> = self
            .residents
            .iter()
            .filter(|(id, count)| **id != 0 && **count == 0 && !self.announced.contains(id))
            .map(|(id, _)| *id)
            .collect();
        for id in unused {
            self.residents.remove(&id);
            if let Some(node) = self.desired.nodes.get(id) {
                let addr = peer_addr(node);
                self.nodes.remove(&addr);
                self.desired.peers.remove(addr);
                self.desired.nodes.remove(id);
                self.node_ids.give_back(id);
            }
        }
    }
}

pub(super) fn peer_addr(node: &Node) -> PeerAddr {
    PeerAddr { addr: node.addr, port: u16::from_be(node.port) }
}

pub(super) fn node(addr: PeerAddr, kind: NodeKind) -> Node {
    Node {
        addr: addr.addr,
        port: addr.port.to_be(),
        state: NodeState::Up as u32,
        kind: kind as u32,
        ..Node::default()
    }
}

fn announced_node(peer: &Peer, addr: PeerAddr) -> Node {
    let kind = match peer.kind {
        PeerKind::Xylem => NodeKind::Xylem,
        PeerKind::Oakestra => NodeKind::Oakestra,
    };
    let mask = u32::MAX << (32 - PREFIX_V4);
    let (subnet_net_v4, subnet_mask_v4) = match peer.subnet {
        Some(subnet) => ((u32::from(subnet) & mask).to_be(), mask.to_be()),
        None => (0, 0),
    };
    Node { subnet_net_v4, subnet_mask_v4, ..node(addr, kind) }
}

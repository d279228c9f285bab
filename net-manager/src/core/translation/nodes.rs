//! Other nodes: those that the cluster announced, and the hosts of known instances.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use net_common::{Node, NodeKind, NodeState};
use xylem_types::mqtt::{Peer, PeerKind};

use super::{MapFull, Translation};
use crate::core::{
    ids::NoIdLeft,
    ipam::PREFIX_V4,
    tables::{NodeId, PeerAddr},
};

/// A node whose path is of interest, because instances are there that can be dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub addr: PeerAddr,
    /// The cluster says that it runs Xylem, which answers probes.
    pub must_answer: bool,
}

/// The nodes whose paths are of interest.
pub type Targets = BTreeMap<NodeId, Target>;

/// What was measured of the path to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Who had the node's id when that was measured.
    pub addr: PeerAddr,
    pub is_up: bool,
    pub rtt: Option<Duration>,
}

/// Destination and source of a frame, as in [`Node::macs`].
pub type Macs = [u16; 6];

impl Translation {
    /// The nodes of interest, if they changed since this was last asked.
    pub fn changed_targets(&mut self) -> Option<Targets> {
        std::mem::take(&mut self.targets_changed).then(|| self.targets())
    }

    fn targets(&self) -> Targets {
        let of_interest = self.residents.iter().filter(|(id, count)| **id != 0 && **count != 0);
        let target = |(id, _): (&NodeId, &u32)| {
            let node = self.desired.nodes.get(*id)?;
            let must_answer = self.confirmed
                && self.announced.contains(id)
                && node.kind == NodeKind::Xylem as u32;
            Some((*id, Target { addr: peer_addr(node), must_answer }))
        };
        of_interest.filter_map(target).collect()
    }

    /// The path to a node was measured. What was measured before its id changed hands is ignored.
    pub fn set_path(&mut self, id: NodeId, path: &Path) {
        let Some(node) = self.desired.nodes.get(id).copied() else { return };
        let is_of_interest = self.residents.get(&id).is_some_and(|count| *count != 0);
        if id == 0 || !is_of_interest || peer_addr(&node) != path.addr {
            return;
        }
        let state = if path.is_up { NodeState::Up } else { NodeState::Down } as u32;
        // 0 stands for what was not measured.
        let micros = |rtt: Duration| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
        let rtt_us = path.rtt.map_or(0, micros);
        self.desired.nodes.set(id, Node { state, rtt_us, ..node });
        if node.state != state {
            self.unbalance_node(id);
        }
    }

    /// The frames to the nodes of interest that are neighbours, and those of others through their
    /// gateways, by underlay address; they hold until `until`, `CLOCK_MONOTONIC`. Of a node that is
    /// left out, the kernel is asked for each packet.
    pub fn set_next_hops(&mut self, next_hops: &BTreeMap<IpAddr, Macs>, until: Duration) {
        let until_ns = u64::try_from(until.as_nanos()).unwrap_or(u64::MAX);
        for (id, count) in self.residents.iter().filter(|(id, _)| **id != 0) {
            let Some(node) = self.desired.nodes.get(*id).copied() else { continue };
            let macs = next_hops.get(&node.addr.to_ip()).filter(|_| *count != 0);
            let (macs, next_hop_until_ns) = macs.map_or(([0; 6], 0), |macs| (*macs, until_ns));
            self.desired.nodes.set(*id, Node { macs, next_hop_until_ns, ..node });
        }
    }

    /// The cluster announced everybody from whom tunnel packets are accepted. Hosts of known
    /// instances are accepted as well.
    ///
    /// # Errors
    /// The map `nodes` has no room for all of them; those that fit are taken over.
    pub fn set_peers(&mut self, peers: &[Peer]) -> Result<(), MapFull> {
        self.unannounced = NodeKind::Xylem;
        self.confirmed = true;
        self.targets_changed = true;
        self.announced.clear();
        let mut full = None;
        let before = std::mem::take(&mut self.workers);
        for peer in peers {
            let addr =
                PeerAddr { addr: peer.endpoint.host_ip.into(), port: peer.endpoint.host_port };
            if addr == self.me {
                continue;
            }
            if let Some(before) = before.get(&peer.worker_id) {
                self.move_node(*before, addr);
            }
            self.workers.insert(peer.worker_id.clone(), addr);
            match self.node(addr) {
                Ok(id) => {
                    self.announced.insert(id);
                    let known = self.desired.nodes.get(id).copied().unwrap_or_default();
                    self.desired.nodes.set(id, announced_node(peer, known));
                }
                Err(error) => full = Some(error),
            }
        }
        self.drop_unused_nodes();
        full.map_or(Ok(()), Err)
    }

    /// This node has another address now.
    pub fn set_me(&mut self, me: PeerAddr) {
        self.me = me;
        self.desired.nodes.set(0, node(me, NodeKind::Xylem));
    }

    /// A node is at another address now. It keeps its id, so that flows to and from it go on; but
    /// not if somebody known is at that address already.
    fn move_node(&mut self, from: PeerAddr, to: PeerAddr) {
        if from == to || self.nodes.contains_key(&to) {
            return;
        }
        let Some(id) = self.nodes.remove(&from) else { return };
        self.nodes.insert(to, id);
        self.desired.peers.remove(from);
        self.desired.peers.set(to, id);
        self.mtus.forget(id);
        if let Some(known) = self.desired.nodes.get(id).copied() {
            let mtu = self.mtus.limit(&to.addr);
            let moved = Node { addr: to.addr, port: to.port.to_be(), mtu, ..known };
            self.desired.nodes.set(id, without_next_hop(moved));
        }
        self.targets_changed = true;
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
        let mtu = self.mtus.limit(&addr.addr);
        self.desired.nodes.set(id, Node { mtu, ..node(addr, self.unannounced) });
        self.desired.peers.set(addr, id);
        Ok(id)
    }

    /// An instance is on this node.
    pub(super) fn join_node(&mut self, id: NodeId) {
        let count = self.residents.entry(id).or_default();
        *count += 1;
        self.targets_changed |= *count == 1;
    }

    /// It is no more. The path to a node without any is of no interest: nobody looks after it, so
    /// nothing is held against it.
    pub(super) fn leave_node(&mut self, id: NodeId) {
        let Some(count) = self.residents.get_mut(&id) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 && id != 0 {
            self.targets_changed = true;
            if let Some(node) = self.desired.nodes.get(id).copied() {
                let idle = Node { state: NodeState::Up as u32, rtt_us: 0, ..node };
                self.desired.nodes.set(id, without_next_hop(idle));
            }
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
            self.mtus.forget(id);
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

/// What the cluster says of a peer, and what was known of it before.
fn announced_node(peer: &Peer, known: Node) -> Node {
    let kind = match peer.kind {
        PeerKind::Xylem => NodeKind::Xylem,
        PeerKind::Oakestra => NodeKind::Oakestra,
    };
    let mask = u32::MAX << (32 - PREFIX_V4);
    let (subnet_net_v4, subnet_mask_v4) = match peer.subnet {
        Some(subnet) => ((u32::from(subnet) & mask).to_be(), mask.to_be()),
        None => (0, 0),
    };
    Node { kind: kind as u32, subnet_net_v4, subnet_mask_v4, ..known }
}

fn without_next_hop(node: Node) -> Node {
    Node { next_hop_until_ns: 0, macs: [0; 6], ..node }
}

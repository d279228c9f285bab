//! `xylem net nodes`: this node, and those with whom it exchanges tunnel packets.

use std::{io, net::Ipv4Addr};

use net_common::{Addr, Config, Node, NodeKind, NodeState};
use serde::Serialize;

use super::snapshot::{Snapshot, endpoint};
use crate::{
    format,
    output::{self, Format},
    table::Table,
};

#[derive(Debug, Serialize)]
pub(crate) struct NodeView {
    /// In the maps; 0 is this node.
    id: u32,
    /// Underlay address and tunnel port.
    tunnel: String,
    state: String,
    kind: String,
    /// Smoothed round-trip time; absent if not measured.
    rtt_us: Option<u32>,
    /// Largest IP packet that the path to it carries inside the tunnel, bytes.
    mtu: u32,
    /// How long frames go to it without asking for its hardware address, milliseconds; absent if
    /// the kernel's neighbour table is asked for each.
    next_hop_cached_ms: Option<u64>,
    /// `address/prefix` that its instances have; absent if not announced.
    subnet: Option<String>,
    /// Outer senders that are taken for this node.
    accepted_from: Vec<String>,
    instances: usize,
}

/// This node's underlay address, if it has one: of IPv6, where it has nothing else.
pub(crate) fn own_address(config: &Config) -> Option<Addr> {
    [config.node_addr, config.node_addr_v6].into_iter().find(|own| !own.is_unspecified())
}

/// This node first, then the others by id.
pub(crate) fn views(snapshot: &Snapshot) -> Vec<NodeView> {
    let config = &snapshot.config;
    let own = own_address(config);
    let this = NodeView {
        id: 0,
        tunnel: own.map(|own| endpoint(own, config.tunnel_port)).unwrap_or_default(),
        state: if config.uplink_ifindex == 0 { "not attached" } else { "up" }.to_owned(),
        kind: kind_name(NodeKind::Xylem as u32),
        rtt_us: None,
        mtu: config.instance_mtu,
        next_hop_cached_ms: None,
        subnet: None,
        accepted_from: Vec::new(),
        instances: instances_on(snapshot, 0),
    };
    let others = snapshot
        .nodes
        .iter()
        .filter(|(id, node)| **id != 0 && node.state != NodeState::Absent as u32)
        .map(|(id, node)| view(snapshot, *id, node));
    std::iter::once(this).chain(others).collect()
}

fn view(snapshot: &Snapshot, id: u32, node: &Node) -> NodeView {
    let mut accepted_from: Vec<_> = snapshot
        .peers
        .iter()
        .filter(|(_, peer)| *peer == id)
        .map(|(key, _)| endpoint(key.addr, key.port))
        .collect();
    accepted_from.sort_unstable();
    NodeView {
        id,
        tunnel: endpoint(node.addr, node.port),
        state: state_name(node.state),
        kind: kind_name(node.kind),
        rtt_us: (node.rtt_us != 0).then_some(node.rtt_us),
        mtu: if node.mtu == 0 { snapshot.config.instance_mtu } else { node.mtu },
        next_hop_cached_ms: cached_ms(snapshot, node),
        subnet: subnet(node),
        accepted_from,
        instances: instances_on(snapshot, id),
    }
}

fn cached_ms(snapshot: &Snapshot, node: &Node) -> Option<u64> {
    let left_ns = node.next_hop_until_ns.checked_sub(snapshot.now_ns)?;
    (left_ns != 0).then_some(left_ns / 1_000_000)
}

fn instances_on(snapshot: &Snapshot, id: u32) -> usize {
    use net_common::InstanceState::Absent;
    let is_there = |known: &&super::snapshot::KnownInstance| known.entry.state != Absent as u32;
    snapshot.instances.values().filter(is_there).filter(|known| known.entry.node == id).count()
}

fn subnet(node: &Node) -> Option<String> {
    (node.subnet_mask_v4 != 0).then(|| {
        let net = Ipv4Addr::from(u32::from_be(node.subnet_net_v4));
        format!("{net}/{}", node.subnet_mask_v4.count_ones())
    })
}

fn state_name(raw: u32) -> String {
    match NodeState::from_raw(raw) {
        Some(NodeState::Absent) => "absent".to_owned(),
        Some(NodeState::Up) => "up".to_owned(),
        Some(NodeState::Down) => "down".to_owned(),
        None => raw.to_string(),
    }
}

fn kind_name(raw: u32) -> String {
    match NodeKind::from_raw(raw) {
        Some(NodeKind::Xylem) => "xylem".to_owned(),
        Some(NodeKind::Oakestra) => "oakestra".to_owned(),
        None => raw.to_string(),
    }
}

/// # Errors
/// Those of the writer.
pub(crate) fn render(
    out: &mut impl io::Write,
    format: Format,
    views: &[NodeView],
) -> io::Result<()> {
    output::list(out, format, views, |views| {
        let mut table = Table::new([
            "ID",
            "TUNNEL",
            "STATE",
            "KIND",
            "RTT",
            "MTU",
            "NEXT-HOP",
            "SUBNET",
            "INSTANCES",
            "ACCEPTED-FROM",
        ])
        .right_aligned(&[0, 4, 5, 8]);
        for view in views {
            table.row([
                view.id.to_string(),
                view.tunnel.clone(),
                view.state.clone(),
                view.kind.clone(),
                view.rtt_us.map_or(String::new(), |us| format!("{:.3}ms", f64::from(us) / 1e3)),
                view.mtu.to_string(),
                match view.next_hop_cached_ms {
                    _ if view.id == 0 => String::new(),
                    Some(ms) => format!("known {}", format::milliseconds(ms)),
                    None => "asked".to_owned(),
                },
                view.subnet.clone().unwrap_or_default(),
                view.instances.to_string(),
                if view.id == 0 { "(this node)".to_owned() } else { view.accepted_from.join(",") },
            ]);
        }
        table
    })
}

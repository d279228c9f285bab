//! `xylem net instances`: every instance that this node knows, its own and those of others.

use std::{io, net::IpAddr};

use net_common::InstanceState;
use serde::Serialize;

use super::snapshot::{KnownInstance, Snapshot, known};
use crate::{
    format,
    output::{self, Format},
    table::Table,
};

#[derive(Debug, Serialize)]
pub(crate) struct InstanceView {
    service: String,
    instance_number: u32,
    state: String,
    instance_ip: Option<IpAddr>,
    instance_ip_v6: Option<IpAddr>,
    namespace_ip: Option<IpAddr>,
    namespace_ip_v6: Option<IpAddr>,
    /// Underlay address and tunnel port, or `local`.
    node: String,
    generation: u32,
    new_flows: u64,
    egress_packets: u64,
    egress_bytes: u64,
    ingress_packets: u64,
    ingress_bytes: u64,
}

/// The instances, by service and number; ids that no instance has are left out.
pub(crate) fn views(snapshot: &Snapshot) -> Vec<InstanceView> {
    let mut views: Vec<_> = snapshot
        .instances
        .values()
        .filter(|known| known.entry.state != InstanceState::Absent as u32)
        .map(|known| view(snapshot, known))
        .collect();
    views.sort_by(|a, b| (&a.service, a.instance_number).cmp(&(&b.service, b.instance_number)));
    views
}

fn view(snapshot: &Snapshot, instance: &KnownInstance) -> InstanceView {
    let KnownInstance { entry, traffic } = instance;
    InstanceView {
        service: snapshot.name(entry.service).to_owned(),
        instance_number: entry.number,
        state: state_name(entry.state),
        instance_ip: known(entry.instance_ip_v4),
        instance_ip_v6: known(entry.instance_ip_v6),
        namespace_ip: known(entry.namespace_ip_v4),
        namespace_ip_v6: known(entry.namespace_ip_v6),
        node: snapshot.node_name(entry.node),
        generation: entry.generation,
        new_flows: traffic.new_flows,
        egress_packets: traffic.egress.packets,
        egress_bytes: traffic.egress.bytes,
        ingress_packets: traffic.ingress.packets,
        ingress_bytes: traffic.ingress.bytes,
    }
}

fn state_name(raw: u32) -> String {
    match InstanceState::from_raw(raw) {
        Some(InstanceState::Absent) => "absent".to_owned(),
        Some(InstanceState::Up) => "up".to_owned(),
        Some(InstanceState::Draining) => "draining".to_owned(),
        None => raw.to_string(),
    }
}

/// # Errors
/// Those of the writer.
pub(crate) fn render(
    out: &mut impl io::Write,
    format: Format,
    views: &[InstanceView],
) -> io::Result<()> {
    output::list(out, format, views, |views| {
        let mut table = Table::new([
            "SERVICE",
            "NUMBER",
            "STATE",
            "INSTANCE-IP",
            "NAMESPACE-IP",
            "NODE",
            "FLOWS",
            "EGRESS",
            "INGRESS",
        ])
        .right_aligned(&[1, 6]);
        for view in views {
            table.row([
                view.service.clone(),
                view.instance_number.to_string(),
                view.state.clone(),
                either(view.instance_ip, view.instance_ip_v6),
                either(view.namespace_ip, view.namespace_ip_v6),
                view.node.clone(),
                view.new_flows.to_string(),
                format::traffic(view.egress_packets, view.egress_bytes),
                format::traffic(view.ingress_packets, view.ingress_bytes),
            ]);
        }
        table
    })
}

fn either(v4: Option<IpAddr>, v6: Option<IpAddr>) -> String {
    v4.or(v6).map_or(String::new(), |ip| ip.to_string())
}

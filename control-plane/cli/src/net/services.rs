//! `xylem net services`: the translation table.

use std::{collections::BTreeMap, io, net::IpAddr};

use net_common::Service;
use serde::Serialize;

use super::snapshot::{Snapshot, policy_name};
use crate::{
    format,
    output::{self, Format},
    table::Table,
};

/// More backends than this are counted in the table and not named.
const BACKENDS_SHOWN: usize = 8;

#[derive(Debug, Serialize)]
pub(crate) struct ServiceView {
    address: IpAddr,
    name: String,
    policy: String,
    backends: Vec<Backend>,
    new_flows: u64,
    egress_packets: u64,
    egress_bytes: u64,
    ingress_packets: u64,
    ingress_bytes: u64,
    /// Since the last packet; absent if there was none.
    idle_ms: Option<u64>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Backend {
    instance_number: u32,
    /// How often the lookup table holds it.
    weight: usize,
    /// Of the new flows, where the policy chooses: 0 to 1.
    share: f64,
}

/// The known addresses, by service.
pub(crate) fn views(snapshot: &Snapshot) -> Vec<ServiceView> {
    let mut views: Vec<_> = snapshot
        .services
        .iter()
        .map(|(address, service)| view(snapshot, address.to_ip(), service))
        .collect();
    views.sort_by(|a, b| a.name.cmp(&b.name).then(a.address.cmp(&b.address)));
    views
}

fn view(snapshot: &Snapshot, address: IpAddr, service: &Service) -> ServiceView {
    let traffic = snapshot.service_traffic.get(&service.slot).copied().unwrap_or_default();
    ServiceView {
        address,
        name: snapshot.name(service.slot).to_owned(),
        policy: policy_name(service.policy),
        backends: backends(snapshot, service),
        new_flows: traffic.new_flows,
        egress_packets: traffic.egress.packets,
        egress_bytes: traffic.egress.bytes,
        ingress_packets: traffic.ingress.packets,
        ingress_bytes: traffic.ingress.bytes,
        idle_ms: snapshot.ms_since(traffic.last_used_ns),
    }
}

/// The one instance of an instance IP, else those of the lookup table.
fn backends(snapshot: &Snapshot, service: &Service) -> Vec<Backend> {
    let table = snapshot.tables.get(&service.slot).map_or(&[][..], Vec::as_slice);
    let ids = if service.instance == 0 { table } else { std::slice::from_ref(&service.instance) };
    let mut weights = BTreeMap::<u32, usize>::new();
    for instance in ids.iter().filter_map(|id| snapshot.instances.get(id)) {
        *weights.entry(instance.entry.number).or_default() += 1;
    }
    let places: usize = weights.values().sum();
    weights
        .into_iter()
        .map(|(instance_number, weight)| Backend {
            instance_number,
            weight,
            share: weight as f64 / places as f64,
        })
        .collect()
}

/// # Errors
/// Those of the writer.
pub(crate) fn render(
    out: &mut impl io::Write,
    format: Format,
    views: &[ServiceView],
) -> io::Result<()> {
    output::list(out, format, views, |views| {
        let mut table = Table::new([
            "ADDRESS",
            "SERVICE",
            "POLICY",
            "INSTANCES",
            "FLOWS",
            "SENT",
            "RECEIVED",
            "IDLE",
        ])
        .right_aligned(&[4]);
        for view in views {
            table.row([
                view.address.to_string(),
                view.name.clone(),
                view.policy.clone(),
                backend_list(&view.backends),
                view.new_flows.to_string(),
                format::traffic(view.egress_packets, view.egress_bytes),
                format::traffic(view.ingress_packets, view.ingress_bytes),
                view.idle_ms.map_or(String::new(), format::milliseconds),
            ]);
        }
        table
    })
}

fn backend_list(backends: &[Backend]) -> String {
    if backends.len() > BACKENDS_SHOWN {
        return format!("{} instances", backends.len());
    }
    let shown = |backend: &Backend| match backends.len() {
        1 => backend.instance_number.to_string(),
        _ => format!("{} {:.0}%", backend.instance_number, backend.share * 100.0),
    };
    backends.iter().map(shown).collect::<Vec<_>>().join(", ")
}

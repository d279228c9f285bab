//! `xylem net endpoints`: the instances that are attached to this node's data path.

use std::{collections::BTreeMap, io, net::IpAddr};

use serde::Serialize;

use super::snapshot::{Snapshot, known};
use crate::{
    output::{self, Format},
    table::Table,
};

#[derive(Debug, Serialize)]
pub(crate) struct EndpointView {
    namespace_ip: IpAddr,
    /// Absent until the cluster told it.
    instance_ip: Option<IpAddr>,
    /// Host end of the veth pair, in the network namespace of the net manager.
    ifindex: u32,
    /// Empty until the cluster told which instance this is.
    service: String,
    instance_number: Option<u32>,
    generation: u32,
}

/// One for each namespace IP, in order. The map has each endpoint by its instance IP as well.
pub(crate) fn views(snapshot: &Snapshot) -> Vec<EndpointView> {
    let by_namespace_ip: BTreeMap<IpAddr, _> = snapshot
        .endpoints
        .iter()
        .map(|(_, endpoint)| (endpoint.namespace_ip.to_ip(), endpoint))
        .collect();
    by_namespace_ip
        .into_iter()
        .map(|(namespace_ip, endpoint)| {
            let instance = snapshot.instances.get(&endpoint.instance);
            EndpointView {
                namespace_ip,
                instance_ip: known(endpoint.instance_ip),
                ifindex: endpoint.ifindex,
                service: instance
                    .map_or(String::new(), |known| snapshot.name(known.entry.service).to_owned()),
                instance_number: instance.map(|known| known.entry.number),
                generation: endpoint.generation,
            }
        })
        .collect()
}

/// # Errors
/// Those of the writer.
pub(crate) fn render(
    out: &mut impl io::Write,
    format: Format,
    views: &[EndpointView],
) -> io::Result<()> {
    output::list(out, format, views, |views| {
        let mut table = Table::new([
            "NAMESPACE-IP",
            "INSTANCE-IP",
            "SERVICE",
            "NUMBER",
            "IFINDEX",
            "GENERATION",
        ])
        .right_aligned(&[3, 4, 5]);
        for view in views {
            table.row([
                view.namespace_ip.to_string(),
                view.instance_ip.map_or(String::new(), |ip| ip.to_string()),
                view.service.clone(),
                view.instance_number.map_or(String::new(), |number| number.to_string()),
                view.ifindex.to_string(),
                view.generation.to_string(),
            ]);
        }
        table
    })
}

//! `xylem net published`: the ports of this node that lead to an instance.

use std::{io, net::IpAddr};

use serde::Serialize;

use super::snapshot::{Snapshot, known, proto_name};
use crate::{
    output::{self, Format},
    table::Table,
};

#[derive(Debug, Serialize)]
pub(crate) struct PublishedView {
    proto: String,
    /// Of this node.
    port: u16,
    /// Full name of the instance's service; empty if it is not known.
    service: String,
    instance_number: Option<u32>,
    namespace_ip: Option<IpAddr>,
    namespace_ip_v6: Option<IpAddr>,
    /// Of the instance.
    instance_port: u16,
    /// Whether the instance that the port was published for is still that one.
    is_current: bool,
}

/// By protocol and port.
pub(crate) fn views(snapshot: &Snapshot) -> Vec<PublishedView> {
    let mut views: Vec<_> = snapshot
        .published
        .iter()
        .map(|(key, to)| {
            let instance = snapshot.instances.get(&to.instance).map(|known| &known.entry);
            PublishedView {
                proto: proto_name(u32::from(key.proto)),
                port: u16::from_be(key.port),
                service: instance
                    .map_or(String::new(), |entry| snapshot.name(entry.service).to_owned()),
                instance_number: instance.map(|entry| entry.number),
                namespace_ip: known(to.namespace_ip_v4),
                namespace_ip_v6: known(to.namespace_ip_v6),
                instance_port: u16::from_be(to.port),
                is_current: instance.is_some_and(|entry| entry.generation == to.generation),
            }
        })
        .collect();
    views.sort_by(|a, b| (&a.proto, a.port).cmp(&(&b.proto, b.port)));
    views
}

/// # Errors
/// Those of the writer.
pub(crate) fn render(
    out: &mut impl io::Write,
    format: Format,
    views: &[PublishedView],
) -> io::Result<()> {
    output::list(out, format, views, |views| {
        let mut table = Table::new([
            "PROTO",
            "PORT",
            "SERVICE",
            "NUMBER",
            "NAMESPACE-IP",
            "INSTANCE-PORT",
            "INSTANCE",
        ])
        .right_aligned(&[1, 3, 5]);
        for view in views {
            let addresses: Vec<_> = [view.namespace_ip, view.namespace_ip_v6]
                .into_iter()
                .flatten()
                .map(|ip| ip.to_string())
                .collect();
            table.row([
                view.proto.clone(),
                view.port.to_string(),
                view.service.clone(),
                view.instance_number.map_or(String::new(), |number| number.to_string()),
                addresses.join(","),
                view.instance_port.to_string(),
                if view.is_current { "there" } else { "gone" }.to_owned(),
            ]);
        }
        table
    })
}

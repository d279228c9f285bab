//! `xylem net flows`: who talks to which instance.
//!
//! The flow table has two entries for a flow, one a direction; here they are one line. An entry
//! whose counterpart was evicted is shown with what it knows.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
};

use net_common::{
    Flow,
    flow::flags::{CLOSING, REPLY},
};
use serde::Serialize;

use super::{
    flow_ends::{Ends, ICMP, Pairing},
    flow_filter::{Filter, Order},
    snapshot::Snapshot,
};
use crate::{
    format,
    output::{self, Format},
    table::Table,
};

const TCP: u32 = 6;
const UDP: u32 = 17;

#[derive(Debug, Serialize)]
pub(crate) struct FlowView {
    pub(super) proto: String,
    /// The client's namespace IP if it runs here, else its instance IP. The port is the
    /// identifier for ICMP echo.
    pub(super) client: SocketAddr,
    /// The service or instance IP; absent where the client runs elsewhere, which alone knows it.
    pub(super) dialled: Option<SocketAddr>,
    /// The chosen instance's namespace IP.
    pub(super) backend: SocketAddr,
    /// Full name of the service that the chosen instance belongs to.
    pub(super) service: String,
    pub(super) instance_number: Option<u32>,
    /// Where the end that is not here runs; `local` if both are here.
    pub(super) peer: String,
    pub(super) sent_packets: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_packets: u64,
    pub(super) received_bytes: u64,
    /// A TCP FIN or RST went by.
    pub(super) is_closing: bool,
    pub(super) age_ms: u64,
    pub(super) idle_ms: u64,
}

impl FlowView {
    pub(super) fn bytes(&self) -> u64 {
        self.sent_bytes.saturating_add(self.received_bytes)
    }

    pub(super) fn packets(&self) -> u64 {
        self.sent_packets.saturating_add(self.received_packets)
    }
}

/// The flows that pass the filter, in the order asked for, `limit` of them at most.
pub(crate) fn views(
    snapshot: &Snapshot,
    filter: &Filter,
    order: Order,
    limit: Option<usize>,
) -> Vec<FlowView> {
    let mut flows = HashMap::<Pairing, Entries<'_>>::new();
    for (key, flow) in &snapshot.flows {
        let ends = Ends::of(key, flow);
        let entries = flows.entry(ends.pairing()).or_default();
        let entry = Some((ends, flow));
        if flow.flags & REPLY == 0 { entries.question = entry } else { entries.reply = entry }
    }
    let mut views: Vec<_> = flows
        .into_values()
        .filter_map(|entries| entries.view(snapshot))
        .filter(|view| filter.passes(view))
        .collect();
    order.sort(&mut views);
    views.truncate(limit.unwrap_or(usize::MAX));
    views
}

/// What the flow table has of one flow: one entry, or both.
#[derive(Default)]
struct Entries<'a> {
    question: Option<(Ends, &'a Flow)>,
    reply: Option<(Ends, &'a Flow)>,
}

impl Entries<'_> {
    fn view(&self, snapshot: &Snapshot) -> Option<FlowView> {
        let (ends, _) = self.question.or(self.reply)?;
        let (question, reply) = (self.question.map(|e| e.1), self.reply.map(|e| e.1));
        let entries = || question.into_iter().chain(reply);
        let instance = entries().find_map(|flow| snapshot.instances.get(&flow.instance));
        // What was dialled, or, where only the client's node knows that, what was reached.
        let dialled = entries().map(|flow| flow.service).find(|slot| *slot != 0);
        let slot = dialled.or(instance.map(|known| known.entry.service)).unwrap_or(0);
        let created = entries().map(|flow| flow.created_ns).min()?;
        let last_seen = entries().map(|flow| flow.last_seen_ns).max()?;
        let since = |then| snapshot.ms_since(then).unwrap_or(0);
        Some(FlowView {
            proto: proto_name(ends.proto),
            client: ends.client,
            dialled: ends.dialled,
            backend: ends.backend,
            service: snapshot.name(slot).to_owned(),
            instance_number: instance.map(|known| known.entry.number),
            peer: snapshot.node_name(ends.peer),
            sent_packets: question.map_or(0, |flow| flow.packets),
            sent_bytes: question.map_or(0, |flow| flow.bytes),
            received_packets: reply.map_or(0, |flow| flow.packets),
            received_bytes: reply.map_or(0, |flow| flow.bytes),
            is_closing: entries().any(|flow| flow.flags & CLOSING != 0),
            age_ms: since(created),
            idle_ms: since(last_seen),
        })
    }
}

fn proto_name(proto: u32) -> String {
    match proto {
        ICMP => "icmp".to_owned(),
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        other => other.to_string(),
    }
}

/// # Errors
/// Those of the writer.
pub(crate) fn render(
    out: &mut impl io::Write,
    format: Format,
    views: &[FlowView],
) -> io::Result<()> {
    output::list(out, format, views, |views| {
        let mut table = Table::new([
            "PROTO", "CLIENT", "DIALLED", "BACKEND", "SERVICE", "NUMBER", "PEER", "SENT",
            "RECEIVED", "AGE", "IDLE",
        ])
        .right_aligned(&[5]);
        for view in views {
            let icmp = view.proto == "icmp";
            let end = |end: SocketAddr| if icmp { end.ip().to_string() } else { end.to_string() };
            table.row([
                view.proto.clone(),
                if icmp { icmp_client(view.client) } else { view.client.to_string() },
                view.dialled.map_or(String::new(), end),
                end(view.backend),
                view.service.clone(),
                view.instance_number.map_or(String::new(), |number| number.to_string()),
                view.peer.clone(),
                format::traffic(view.sent_packets, view.sent_bytes),
                format::traffic(view.received_packets, view.received_bytes),
                format::milliseconds(view.age_ms),
                format::milliseconds(view.idle_ms),
            ]);
        }
        table
    })
}

fn icmp_client(client: SocketAddr) -> String {
    let ip: IpAddr = client.ip();
    format!("{ip} id {}", client.port())
}

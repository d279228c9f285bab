//! `xylem net flows`: who talks to which instance.
//!
//! The flow table has two entries for a flow, one a direction; here they are one line. An entry
//! whose counterpart was evicted is shown with what it knows.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use net_common::{Flow, FlowKey};
use serde::Serialize;

use super::{
    flow_ends::{End, Ends},
    flow_filter::{Filter, Order},
    flow_row::{Row, Rows, State},
    snapshot::{Snapshot, proto_name},
};
use crate::{
    format,
    output::{self, Format},
    table::Columns,
};

#[derive(Debug, Serialize)]
pub(crate) struct FlowView {
    pub(super) proto: String,
    pub(super) state: State,
    /// The client's namespace IP if it runs here, else its instance IP or its address outside of
    /// the overlay. The port is the identifier for ICMP echo.
    pub(super) client: SocketAddr,
    /// The service or instance IP, the published port, or the host outside; absent where the
    /// client runs elsewhere, which alone knows it.
    pub(super) dialled: Option<SocketAddr>,
    /// The chosen instance's namespace IP, or the host outside.
    pub(super) backend: SocketAddr,
    /// Full name of the service that the chosen instance belongs to; of a flow to the outside,
    /// that of the client.
    pub(super) service: String,
    pub(super) instance_number: Option<u32>,
    /// Where the end that is not here runs; `local` if both are here, `outside` if it is no
    /// instance.
    pub(super) peer: String,
    pub(super) sent_packets: u64,
    pub(super) sent_bytes: u64,
    pub(super) received_packets: u64,
    pub(super) received_bytes: u64,
    pub(super) age_ms: u64,
    pub(super) idle_ms: u64,
}

/// The flows to be shown. They are put into words one by one, as they are written.
#[derive(Debug)]
pub(crate) struct Flows<'a> {
    snapshot: &'a Snapshot,
    rows: Vec<Row>,
}

impl<'a> Flows<'a> {
    /// Those that pass the filter, in the order asked for, `limit` of them at most, of the entries
    /// that `read` gives.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) fn choose<E>(
        snapshot: &'a Snapshot,
        filter: &Filter,
        order: Order,
        limit: Option<usize>,
        read: impl FnOnce(&mut dyn FnMut(&FlowKey, &Flow)) -> Result<(), E>,
    ) -> Result<Self, E> {
        let matcher = filter.matcher(snapshot);
        let mut rows = Rows::default();
        read(&mut |key, flow| {
            let ends = Ends::of(key, flow);
            if matcher.may_pass(&ends) {
                rows.add(ends, flow);
            }
        })?;
        let mut rows = rows.into_vec();
        rows.retain(|row| matcher.passes(snapshot, row));
        order.first(&mut rows, limit);
        Ok(Self { snapshot, rows })
    }

    pub(crate) fn views(&self) -> impl Iterator<Item = FlowView> {
        self.rows.iter().map(|row| view(self.snapshot, row))
    }

    /// # Errors
    /// Those of the writer.
    pub(crate) fn render(&self, out: &mut impl io::Write, format: Format) -> io::Result<()> {
        if format == Format::Json {
            return output::json_each(out, self.views());
        }
        const HEADERS: [&str; 12] = [
            "PROTO", "STATE", "CLIENT", "DIALLED", "BACKEND", "SERVICE", "NUMBER", "PEER", "SENT",
            "RECEIVED", "AGE", "IDLE",
        ];
        Columns::new(&HEADERS, &[6]).write(out, || self.views().map(cells))
    }
}

fn view(snapshot: &Snapshot, row: &Row) -> FlowView {
    let instance = row.instance().and_then(|id| snapshot.instances.get(&id));
    let since = |then| snapshot.ms_since(then).unwrap_or(0);
    let ((sent_packets, sent_bytes), (received_packets, received_bytes)) =
        (row.sent(), row.received());
    FlowView {
        proto: proto_name(row.ends.proto),
        state: row.state(),
        client: row.ends.client.socket(),
        dialled: row.ends.dialled.map(End::socket),
        backend: row.ends.backend.socket(),
        service: snapshot.name(row.slot(snapshot)).to_owned(),
        instance_number: instance.map(|known| known.entry.number),
        peer: snapshot.node_name(row.ends.peer),
        sent_packets,
        sent_bytes,
        received_packets,
        received_bytes,
        age_ms: since(row.created_ns()),
        idle_ms: since(row.last_seen_ns()),
    }
}

fn cells(view: FlowView) -> [String; 12] {
    let icmp = view.proto.starts_with("icmp");
    let end = |end: SocketAddr| if icmp { end.ip().to_string() } else { end.to_string() };
    [
        view.proto,
        view.state.name().to_owned(),
        if icmp { icmp_client(view.client) } else { view.client.to_string() },
        view.dialled.map_or(String::new(), end),
        end(view.backend),
        view.service,
        view.instance_number.map_or(String::new(), |number| number.to_string()),
        view.peer,
        format::traffic(view.sent_packets, view.sent_bytes),
        format::traffic(view.received_packets, view.received_bytes),
        format::milliseconds(view.age_ms),
        format::milliseconds(view.idle_ms),
    ]
}

fn icmp_client(client: SocketAddr) -> String {
    let ip: IpAddr = client.ip();
    format!("{ip} id {}", client.port())
}

//! Which flows are shown, and in which order.

use std::{cmp::Reverse, collections::BTreeSet, net::IpAddr};

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::{
    flow_ends::{End, Ends},
    flow_row::{Row, State},
    snapshot::Snapshot,
};

#[derive(Args, Debug, Default)]
pub(crate) struct Filter {
    /// Flows to this service: its full name, its service name, or the IP that was dialled
    #[arg(long, value_name = "SERVICE")]
    pub(super) service: Option<String>,
    #[arg(long, value_name = "PROTOCOL")]
    pub(super) proto: Option<Proto>,
    /// Flows of clients with this address or in this network
    #[arg(long, value_name = "IP[/PREFIX]", value_parser = network)]
    pub(super) src: Option<IpNet>,
    /// Flows that dialled or reached this address or network
    #[arg(long, value_name = "IP[/PREFIX]", value_parser = network)]
    pub(super) dst: Option<IpNet>,
    /// Flows that have come this far
    #[arg(long, value_name = "STATE")]
    pub(super) state: Option<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proto {
    Tcp,
    Udp,
    /// Echo, of either family
    Icmp,
}

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// The most bytes in both directions
    #[default]
    Bytes,
    /// The most packets in both directions
    Packets,
    /// The oldest
    Age,
    /// The youngest
    New,
    /// The longest without a packet
    Idle,
    /// By the client's address
    Client,
}

/// A filter that has looked up what it names.
pub(super) struct Matcher<'a> {
    filter: &'a Filter,
    /// Slots of the services that are meant, and the address, if one is.
    service: Option<(BTreeSet<u32>, Option<IpAddr>)>,
}

impl Filter {
    pub(super) fn matcher<'a>(&'a self, snapshot: &Snapshot) -> Matcher<'a> {
        let service = self.service.as_deref().map(|service| {
            let is_meant = |name: &str| is_name_of(name, service);
            let slots = snapshot.names.iter().filter(|(_, name)| is_meant(name));
            (slots.map(|(slot, _)| *slot).collect(), service.parse().ok())
        });
        Matcher { filter: self, service }
    }
}

/// Whether `wanted` is the full name `name` or the service's own part of it.
pub(super) fn is_name_of(name: &str, wanted: &str) -> bool {
    // app.appns.service.servicens
    name == wanted || name.split('.').nth(2) == Some(wanted)
}

impl Matcher<'_> {
    /// Whether the flow of an entry may pass, as far as both its entries say the same of it.
    pub(super) fn may_pass(&self, ends: &Ends) -> bool {
        self.filter.proto.is_none_or(|proto| proto.is(ends.proto))
            && self.filter.src.is_none_or(|net| net.contains(&ends.client.ip()))
    }

    /// Whether a flow passes whose entries may.
    pub(super) fn passes(&self, snapshot: &Snapshot, row: &Row) -> bool {
        let filter = self.filter;
        let ends = &row.ends;
        let reached = [ends.dialled, Some(ends.backend)];
        filter.state.is_none_or(|state| row.state() == state)
            && filter
                .dst
                .is_none_or(|net| reached.into_iter().flatten().any(|end| net.contains(&end.ip())))
            && self.service.as_ref().is_none_or(|(slots, address)| {
                slots.contains(&row.slot(snapshot))
                    || address.is_some_and(|ip| ends.dialled.is_some_and(|end| end.ip() == ip))
            })
    }
}

impl Proto {
    fn is(self, proto: u32) -> bool {
        match self {
            Self::Tcp => proto == 6,
            Self::Udp => proto == 17,
            Self::Icmp => super::flow_ends::is_echo(proto),
        }
    }
}

impl Order {
    /// The first `limit` flows in this order. Flows that are equal in what counts are in the order
    /// of their ends, so that the same table is shown in the same order.
    pub(super) fn first(self, rows: &mut Vec<Row>, limit: Option<usize>) {
        let key = |row: &Row| {
            let first = match self {
                Self::Bytes => u64::MAX - row.bytes(),
                Self::Packets => u64::MAX - row.packets(),
                Self::Age => row.created_ns(),
                Self::New => u64::MAX - row.created_ns(),
                Self::Idle => row.last_seen_ns(),
                Self::Client => 0,
            };
            let Ends { client, backend, dialled, proto, .. } = row.ends;
            let dialled = dialled.map(End::socket);
            (first, client.socket(), backend.socket(), dialled, Reverse(proto))
        };
        if let Some(limit) = limit
            && limit < rows.len()
        {
            rows.select_nth_unstable_by_key(limit, key);
            rows.truncate(limit);
        }
        rows.sort_unstable_by_key(key);
    }
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let whole = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| whole()).map_err(|_| {
        format!("{text:?} is neither an IP address nor a network such as 10.18.0.0/26")
    })
}

//! Which flows are shown, and in which order.

use std::{cmp::Reverse, net::IpAddr};

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::flows::FlowView;

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proto {
    Tcp,
    Udp,
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
    /// The longest without a packet
    Idle,
}

impl Filter {
    pub(super) fn passes(&self, flow: &FlowView) -> bool {
        let reached = [flow.dialled, Some(flow.backend)];
        self.service.as_deref().is_none_or(|service| names(flow, service))
            && self.proto.is_none_or(|proto| flow.proto == proto.name())
            && self.src.is_none_or(|net| net.contains(&flow.client.ip()))
            && self
                .dst
                .is_none_or(|net| reached.into_iter().flatten().any(|end| net.contains(&end.ip())))
    }
}

fn names(flow: &FlowView, service: &str) -> bool {
    // app.appns.service.servicens
    flow.service == service
        || flow.service.split('.').nth(2) == Some(service)
        || flow.dialled.is_some_and(|end| end.ip().to_string() == service)
}

impl Proto {
    fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

impl Order {
    /// Flows that are equal in what counts are in the order of their ends, so that the same
    /// table is shown in the same order.
    pub(super) fn sort(self, flows: &mut [FlowView]) {
        flows.sort_by_key(|flow| {
            let largest_first = match self {
                Self::Bytes => flow.bytes(),
                Self::Packets => flow.packets(),
                Self::Age => flow.age_ms,
                Self::Idle => flow.idle_ms,
            };
            (Reverse(largest_first), flow.client, flow.backend, flow.dialled)
        });
    }
}

fn network(text: &str) -> Result<IpNet, String> {
    let whole = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| whole()).map_err(|_| {
        format!("{text:?} is neither an IP address nor a network such as 10.18.0.0/26")
    })
}

//! What the maps held at one moment: plain data between reading them and showing them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use net_common::{
    Addr, Config, Counter, DropReason, Endpoint, Instance, Node, PeerKey, Policy, Published,
    PublishedKey, Service, Traffic, flow::OUTSIDE,
};

#[derive(Clone, Copy, Debug)]
pub(crate) struct KnownInstance {
    pub(crate) entry: Instance,
    pub(crate) traffic: Traffic,
}

#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// `CLOCK_MONOTONIC`, nanoseconds: the clock of the times in the maps.
    pub(crate) now_ns: u64,
    pub(crate) config: Config,
    /// Full names, `app.appns.service.servicens`, by slot.
    pub(crate) names: BTreeMap<u32, String>,
    /// By address. The IPv4 and the IPv6 address of a policy may share a slot.
    pub(crate) services: Vec<(Addr, Service)>,
    /// Lookup tables by slot: an instance id stands there once for each unit of weight.
    pub(crate) tables: BTreeMap<u32, Vec<u32>>,
    /// By slot.
    pub(crate) service_traffic: BTreeMap<u32, Traffic>,
    /// By id.
    pub(crate) instances: BTreeMap<u32, KnownInstance>,
    /// By id.
    pub(crate) nodes: BTreeMap<u32, Node>,
    pub(crate) peers: Vec<(PeerKey, u32)>,
    pub(crate) endpoints: Vec<(Addr, Endpoint)>,
    pub(crate) published: Vec<(PublishedKey, Published)>,
    pub(crate) drops: Vec<(DropReason, Counter)>,
}

impl Snapshot {
    /// Milliseconds since `then_ns`; `None` for 0, which is never.
    pub(crate) fn ms_since(&self, then_ns: u64) -> Option<u64> {
        (then_ns != 0).then(|| self.now_ns.saturating_sub(then_ns) / 1_000_000)
    }

    /// Full name of the service of a slot, empty if there is none.
    pub(crate) fn name(&self, slot: u32) -> &str {
        self.names.get(&slot).map_or("", String::as_str)
    }

    /// An instance by its id, `app.appns.service.servicens.2`, or what is known of it.
    pub(crate) fn instance_name(&self, id: u32) -> String {
        let Some(KnownInstance { entry, .. }) = self.instances.get(&id) else {
            return format!("instance {id}, not known");
        };
        match self.name(entry.service) {
            "" => format!("instance {id}, of a service without name"),
            name => format!("{name}.{}", entry.number),
        }
    }

    /// Where a node's tunnel ends: `address:port`, `local` for this node, `outside` for no node.
    pub(crate) fn node_name(&self, id: u32) -> String {
        if id == 0 {
            return "local".to_owned();
        }
        if id == OUTSIDE {
            return "outside".to_owned();
        }
        match self.nodes.get(&id) {
            Some(node) => endpoint(node.addr, node.port),
            None => format!("node {id}, not known"),
        }
    }
}

/// `address:port`, the port as it stands in the maps, in network byte order.
pub(crate) fn endpoint(address: Addr, port: u16) -> String {
    SocketAddr::new(address.to_ip(), u16::from_be(port)).to_string()
}

/// The address, or nothing where none is known.
pub(crate) fn known(address: Addr) -> Option<IpAddr> {
    (!address.is_unspecified()).then(|| address.to_ip())
}

/// The policy as tables name it; a number from a newer layout stays a number.
pub(crate) fn policy_name(raw: u32) -> String {
    Policy::from_raw(raw).map_or_else(|| raw.to_string(), |policy| policy.name().to_owned())
}

/// The protocol as tables name it; others stay numbers.
pub(crate) fn proto_name(proto: u32) -> String {
    match proto {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => other.to_string(),
    }
}

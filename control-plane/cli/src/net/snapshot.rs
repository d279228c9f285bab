//! What the maps held at one moment: plain data between reading them and showing them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use net_common::{
    Addr, Config, Counter, DropReason, Endpoint, Flow, FlowKey, Instance, Node, PeerKey, Policy,
    Service, Traffic,
};

/// One address of the translation table.
#[derive(Clone, Debug)]
pub(crate) struct KnownService {
    pub(crate) address: Addr,
    pub(crate) entry: Service,
    /// `app.appns.service.servicens`
    pub(crate) name: String,
    /// Instance ids of the lookup table, in its order: an id stands there once for each unit of
    /// weight. Empty for the address of one instance.
    pub(crate) table: Vec<u32>,
    pub(crate) traffic: Traffic,
}

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
    /// By slot, which belongs to one address.
    pub(crate) services: BTreeMap<u32, KnownService>,
    /// By id.
    pub(crate) instances: BTreeMap<u32, KnownInstance>,
    /// By id.
    pub(crate) nodes: BTreeMap<u32, Node>,
    pub(crate) peers: Vec<(PeerKey, u32)>,
    pub(crate) endpoints: Vec<(Addr, Endpoint)>,
    pub(crate) flows: Vec<(FlowKey, Flow)>,
    pub(crate) drops: Vec<(DropReason, Counter)>,
}

impl Snapshot {
    /// Milliseconds since `then_ns`; `None` for 0, which is never.
    pub(crate) fn ms_since(&self, then_ns: u64) -> Option<u64> {
        (then_ns != 0).then(|| self.now_ns.saturating_sub(then_ns) / 1_000_000)
    }

    /// Full name of the service that an instance belongs to.
    pub(crate) fn name_of(&self, instance: &Instance) -> &str {
        self.services.get(&instance.service).map_or("", |service| &service.name)
    }

    /// Where a node's tunnel ends: `address:port`, `local` for this node.
    pub(crate) fn node_name(&self, id: u32) -> String {
        if id == 0 {
            return "local".to_owned();
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

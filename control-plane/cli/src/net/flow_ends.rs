//! The ends of a flow, read from either of its two entries.
//!
//! The two entries of a flow have different keys, and the key of the one cannot always be told
//! from the other; but both name the same ends, and so they find one another.

use std::net::SocketAddr;

use net_common::{
    Addr, Flow, FlowKey,
    flow::{
        flags::{REMOTE_CLIENT, REPLY},
        from_node,
    },
};

pub(super) const ICMP: u32 = 1;

/// Who talks to whom. Ports are 0 for ICMP echo, but for the client's, which is the identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) proto: u32,
    /// Namespace IP of a client that runs here, else its instance IP.
    pub(super) client: SocketAddr,
    /// The service or instance IP; only the client's node knows it.
    pub(super) dialled: Option<SocketAddr>,
    /// Namespace IP of the chosen instance. Answers from another node come from its instance IP,
    /// and this is that one if their entry is the only one.
    pub(super) backend: SocketAddr,
    /// The other node, in its id; 0 = both ends are here.
    pub(super) peer: u32,
}

/// What is equal in both entries of a flow and in no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pairing {
    proto: u32,
    client: SocketAddr,
    server: SocketAddr,
    is_remote_client: bool,
}

impl Ends {
    pub(super) fn of(key: &FlowKey, flow: &Flow) -> Self {
        let is_reply = flow.flags & REPLY != 0;
        let is_remote_client = flow.flags & REMOTE_CLIENT != 0;
        let is_from_tunnel = key.origin >= from_node(0);
        let (client, dialled, backend) = match (is_reply, is_remote_client) {
            (false, false) => (key.local, Some(key.remote), flow.dst),
            (true, false) if is_from_tunnel => (flow.dst, Some(flow.src), key.remote),
            (true, false) => (flow.dst, Some(flow.src), key.local),
            (false, true) => (flow.src, None, flow.dst),
            (true, true) => (key.remote, None, key.local),
        };
        // The client is the local end of what it sends, and of answers that the tunnel brings it.
        let is_client_local = !is_remote_client && is_reply == is_from_tunnel;
        let (client_port, server_port) = match (key.proto, is_client_local) {
            (ICMP, _) => (key.local_port, 0),
            (_, true) => (key.local_port, key.remote_port),
            (_, false) => (key.remote_port, key.local_port),
        };
        let socket = |address: Addr, port| SocketAddr::new(address.to_ip(), u16::from_be(port));
        Self {
            peer: if is_from_tunnel { key.origin - from_node(0) } else { flow.node },
            proto: key.proto,
            client: socket(client, client_port),
            dialled: dialled.map(|address| socket(address, server_port)),
            backend: socket(backend, server_port),
        }
    }

    pub(super) fn pairing(&self) -> Pairing {
        Pairing {
            proto: self.proto,
            client: self.client,
            server: self.dialled.unwrap_or(self.backend),
            is_remote_client: self.dialled.is_none(),
        }
    }
}

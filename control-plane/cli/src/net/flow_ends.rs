//! The ends of a flow, read from either of its two entries.
//!
//! The two entries of a flow have different keys, and the key of the one cannot always be told
//! from the other; but both name the same ends, and so they find one another.

use std::net::{IpAddr, SocketAddr};

use net_common::{
    Addr, Flow, FlowKey,
    flow::{
        OUTSIDE,
        flags::{REMOTE_CLIENT, REPLY},
        from_node,
    },
};

const ICMP: u32 = 1;
const ICMPV6: u32 = 58;

/// Whether a flow is one of echo requests and replies, which have an identifier for ports.
pub(super) fn is_echo(proto: u32) -> bool {
    proto == ICMP || proto == ICMPV6
}

/// An address and a port, in little room: there may be millions of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct End {
    addr: Addr,
    port: u16,
}

impl End {
    pub(super) fn ip(self) -> IpAddr {
        self.addr.to_ip()
    }

    pub(super) fn socket(self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.port)
    }
}

/// Who talks to whom. Ports are 0 for ICMP echo, but for the client's, which is the identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) proto: u32,
    /// Namespace IP of a client that runs here, instance IP of one that runs elsewhere, and the
    /// address of one outside of the overlay.
    pub(super) client: End,
    /// The service IP, the instance IP, or this node's published port; of a client on another
    /// node, that node alone knows it.
    pub(super) dialled: Option<End>,
    /// Namespace IP of the chosen instance, or the host outside. Answers from another node come
    /// from its instance IP, and this is that one if their entry is the only one.
    pub(super) backend: End,
    /// The other node, in its id; 0 = both ends are here, [`OUTSIDE`] = one is no instance.
    pub(super) peer: u32,
}

/// What is equal in both entries of a flow and in no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pairing {
    proto: u32,
    client: End,
    server: End,
    is_remote_client: bool,
}

impl Ends {
    pub(super) fn of(key: &FlowKey, flow: &Flow) -> Self {
        let is_reply = flow.flags & REPLY != 0;
        let is_remote_client = flow.flags & REMOTE_CLIENT != 0;
        let is_from_node = key.origin >= from_node(0);
        let peer = if is_from_node { key.origin - from_node(0) } else { flow.node };
        // What the key says of either end, and what the packet leaves with.
        let local = (key.local, key.local_port);
        let remote = (key.remote, key.remote_port);
        let (src, dst) = ((flow.src, flow.sport), (flow.dst, flow.dport));
        let (client, dialled, backend) = match (is_reply, is_remote_client) {
            (false, false) => (local, Some(remote), dst),
            (true, false) => (dst, Some(src), if is_from_node { remote } else { local }),
            (false, true) => (src, (peer == OUTSIDE).then_some(local), dst),
            (true, true) => (remote, (peer == OUTSIDE).then_some(src), local),
        };
        let is_echo = is_echo(key.proto);
        // A masqueraded question has another identifier outside, and so has its answer.
        let identifier = if is_reply && !is_remote_client { flow.sport } else { key.local_port };
        let client = if is_echo { (client.0, identifier) } else { client };
        let end = |(addr, port): (Addr, u16)| {
            let port = if is_echo { 0 } else { u16::from_be(port) };
            End { addr, port }
        };
        Self {
            proto: key.proto,
            client: End { addr: client.0, port: u16::from_be(client.1) },
            dialled: dialled.map(end),
            backend: end(backend),
            peer,
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

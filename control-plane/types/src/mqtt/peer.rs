//! Workers that exchange tunnel packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// Where a worker's tunnel is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TunnelEndpoint {
    pub host_ip: IpAddr,
    pub host_port: u16,
}

/// `net/peers`, down, ours: everybody from whom the worker accepts tunnel packets, itself left
/// out. The list replaces the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    pub peers: Vec<Peer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    pub worker_id: String,
    #[serde(flatten)]
    pub endpoint: TunnelEndpoint,
    /// Network address of the worker's /26.
    pub subnet: Option<Ipv4Addr>,
    /// Network address of the worker's /120.
    #[serde(default)]
    pub subnet_v6: Option<Ipv6Addr>,
    pub kind: PeerKind,
}

/// `net/peers/request`, up, ours: tunnel packets come from this address and nobody has announced
/// it; who is that? Where the cluster knows it as a peer of the worker, it sends [`Peers`] again;
/// else it is a stranger, and there is no answer. The worker limits how often it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersRequest {
    /// The outer source of the packets.
    #[serde(flatten)]
    pub sender: TunnelEndpoint,
}

/// Which proxy the peer runs: it decides the destination of answers in the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    Xylem,
    Oakestra,
}

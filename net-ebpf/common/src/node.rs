//! Nodes: where the tunnel to them ends, and from whom tunnel packets are accepted.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Value of the map `nodes`. Id 0 is this node.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Node {
    /// Underlay address.
    pub addr: Addr,
    /// UDP port of its tunnel, network byte order.
    pub port: u16,
    pub _pad: u16,
    /// [`NodeState`].
    pub state: u32,
    /// [`NodeKind`].
    pub kind: u32,
    /// Smoothed round-trip time, microseconds; 0 = not measured.
    pub rtt_us: u32,
    /// Inner sources from this node must satisfy `addr & mask == net` or be instance IPs; IPv4,
    /// network byte order; mask 0 = not announced, not checked.
    pub subnet_net_v4: u32,
    pub subnet_mask_v4: u32,
    /// Largest IP packet that the path to it carries inside the tunnel, bytes; 0 = as large as an
    /// instance may send.
    pub mtu: u32,
    pub _pad2: u32,
    /// Until then (`CLOCK_MONOTONIC`, nanoseconds) frames to it go out with these addresses; later
    /// the kernel's own neighbour table is asked.
    pub next_hop_until_ns: u64,
    /// Destination and source of those frames, as they stand in the Ethernet header.
    pub macs: [u16; 6],
    pub _pad3: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeState {
    Absent = 0,
    Up = 1,
    Down = 2,
}

impl NodeState {
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::Absent),
            1 => Some(Self::Up),
            2 => Some(Self::Down),
            _ => None,
        }
    }
}

/// Which proxy the node runs. It decides what an answer in the tunnel is addressed to: the
/// client's instance IP (Xylem) or its namespace IP (Oakestra).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeKind {
    Xylem = 0,
    Oakestra = 1,
}

impl NodeKind {
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::Xylem),
            1 => Some(Self::Oakestra),
            _ => None,
        }
    }
}

/// Key of the map `peers`, whose value is a node id (`u32`): the outer source of a tunnel packet.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PeerKey {
    pub addr: Addr,
    /// Network byte order.
    pub port: u16,
    pub _pad: u16,
}

crate::map_type!(Node, PeerKey);

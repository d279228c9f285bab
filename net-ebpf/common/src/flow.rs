//! The flow table: what was decided for a 5-tuple, so that it is decided once.
//!
//! Each flow has two entries, one a direction, and each packet costs one look-up:
//!
//! * packets that a local instance sends are keyed as the instance sees them
//!   (`origin` = its veth, `local` = its namespace IP, `remote` = what it dialled or answers to);
//! * packets that arrive through the tunnel are keyed as the peer wrote them
//!   (`origin` = the peer, `local` = the inner destination, `remote` = the inner source).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowKey {
    pub local: Addr,
    pub remote: Addr,
    /// Network byte order; the identifier for ICMP echo.
    pub local_port: u16,
    /// Network byte order; type and code for ICMP echo, so that a request and its answer differ.
    pub remote_port: u16,
    /// Where the packet entered: the host end of the sending instance's veth, or
    /// [`from_node`] of the peer whose tunnel it came through. A packet with another's source
    /// therefore never meets the other's flow.
    pub origin: u32,
    /// IANA protocol number, one byte used.
    pub proto: u32,
}

/// [`FlowKey::origin`] of packets from the tunnel of node `id`. Interface indices are below 2³¹.
#[inline(always)]
pub const fn from_node(id: u32) -> u32 {
    0x8000_0000 | id
}

#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Flow {
    /// Exact also when a flow's packets run on several CPUs.
    pub packets: u64,
    /// Bytes of the IP packets.
    pub bytes: u64,
    /// `CLOCK_MONOTONIC` (coarse), nanoseconds.
    pub created_ns: u64,
    pub last_seen_ns: u64,
    /// Addresses that the packet leaves with.
    pub src: Addr,
    pub dst: Addr,
    /// Deliver to the instance behind this veth, when `node` is 0.
    pub ifindex: u32,
    /// Send to this node through the tunnel; 0 = this node.
    pub node: u32,
    /// Slot of the service IP that was dialled; 0 = the flow was opened by a remote client.
    pub service: u32,
    /// The instance that was chosen; of a flow opened by a remote client, the local instance that
    /// it reached. 0 = not known to this node.
    pub instance: u32,
    /// Generation of that instance when the flow was placed.
    pub generation: u32,
    /// [`flags`].
    pub flags: u32,
}

/// Bits of [`Flow::flags`].
pub mod flags {
    /// The packets of this entry are the answers of the flow, not its questions.
    pub const REPLY: u32 = 1;
    /// The flow was opened by a client on another node.
    pub const REMOTE_CLIENT: u32 = 2;
    /// A TCP FIN or RST went by in this direction: the entry is of no use once it is quiet, and a
    /// SYN on the same ports is a new connection.
    pub const CLOSING: u32 = 4;
}

crate::map_type!(FlowKey, Flow);

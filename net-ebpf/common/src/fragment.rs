//! Which flow the later fragments of a datagram belong to: they have no ports of their own.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Key of the map `fragments`: what all fragments of a datagram share (RFC 791, 3.2; RFC 8200,
/// 4.5), and where they entered, as in [`crate::FlowKey::origin`].
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FragmentKey {
    pub src: Addr,
    pub dst: Addr,
    /// Identification, as it stands in the packet.
    pub id: u32,
    pub origin: u32,
    pub proto: u32,
}

/// Ports of the first fragment, as [`crate::packet::Packet`] has them.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FragmentPorts {
    pub sport: u16,
    pub dport: u16,
}

crate::map_type!(FragmentKey, FragmentPorts);

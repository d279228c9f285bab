//! Published ports: what reaches an instance of this node from outside, without a tunnel.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Key of the map `published`: a port of the node's underlay address.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct PublishedKey {
    /// Network byte order.
    pub port: u16,
    /// IANA number: TCP or UDP.
    pub proto: u16,
}

/// Value of the map `published`.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Published {
    pub namespace_ip_v4: Addr,
    pub namespace_ip_v6: Addr,
    /// Host end of the instance's veth pair.
    pub ifindex: u32,
    /// Id in the map `instances`, and its generation.
    pub instance: u32,
    pub generation: u32,
    /// The instance's own port, network byte order.
    pub port: u16,
    pub _pad: u16,
}

crate::map_type!(PublishedKey, Published);

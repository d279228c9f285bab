//! The instances of this node, by any address under which a packet for them may arrive.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Value of the map `endpoints`: keyed by the instance's namespace IP and, once it is known, by
/// its instance IP as well.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Endpoint {
    pub namespace_ip: Addr,
    /// Source of what the instance sends; unspecified until the cluster told it, and its first
    /// packets are parked so long.
    pub instance_ip: Addr,
    /// Host end of the instance's veth pair, in the node's namespace.
    pub ifindex: u32,
    /// Id in the map `instances`; 0 until known.
    pub instance: u32,
    /// [`crate::Instance::generation`] of that entry.
    pub generation: u32,
    pub _pad: u32,
}

crate::map_type!(Endpoint);

//! What the programs must know of their node. One entry, index 0 of the map `config`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Config {
    /// This node's underlay address: source of the tunnel packets it sends, destination of those
    /// it accepts.
    pub node_addr: Addr,
    /// Interface of the underlay; 0 = not attached yet, nothing is sent.
    pub uplink_ifindex: u32,
    /// UDP port of the tunnel, network byte order.
    pub tunnel_port: u16,
    pub _pad: u16,
    /// Service and instance IPv4 addresses are those with `addr & mask == net` (network byte
    /// order). Anything else that an instance dials is outside of the overlay.
    pub service_net_v4: u32,
    pub service_mask_v4: u32,
}

crate::map_type!(Config);

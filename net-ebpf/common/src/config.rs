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
    /// The same for IPv6, of the address's first four bytes.
    pub service_net_v6: u32,
    pub service_mask_v6: u32,
    /// [`features`] of the kernel that runs the programs.
    pub features: u32,
    pub _pad2: u32,
}

impl Config {
    /// Whether `addr` can be a service IP or an instance IP at all.
    #[inline(always)]
    pub fn is_service_address(&self, addr: &Addr) -> bool {
        if addr.is_v4() {
            addr.v4_word() & self.service_mask_v4 == self.service_net_v4
        } else {
            addr.words()[0] & self.service_mask_v6 == self.service_net_v6
        }
    }
}

/// Bits of [`Config::features`].
pub mod features {
    /// `bpf_l4_csum_replace` knows `BPF_F_IPV6` (kernel 6.16, commit ead7f9b8de65): without it a
    /// checksum that the network card has summed up goes wrong when IPv6 addresses change.
    pub const L4_CHECKSUM_IPV6: u32 = 1;
}

crate::map_type!(Config);

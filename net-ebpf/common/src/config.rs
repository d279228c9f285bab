//! What the programs must know of their node. One entry, index 0 of the map `config`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Config {
    /// This node's IPv4 underlay address: source of the tunnel packets it sends to peers that have
    /// one, destination of those it accepts, and address of its published ports; unspecified
    /// without.
    pub node_addr: Addr,
    /// Its IPv6 underlay address, for the same.
    pub node_addr_v6: Addr,
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
    /// Namespace IPs of all nodes, IPv4: never dialled, and never let out.
    pub namespace_net_v4: u32,
    pub namespace_mask_v4: u32,
    /// Largest IP packet that an instance takes, bytes.
    pub instance_mtu: u32,
    /// [`features`] of the kernel that runs the programs, and what the operator allows.
    pub features: u32,
    /// Ports that stand for those of instances that talk to the outside, host byte order; a count
    /// of 0 forbids it.
    pub masquerade_first: u16,
    pub masquerade_count: u16,
    /// Ports to reach outside of the overlay are watched only when there are any.
    pub published_count: u32,
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

    /// The node's own address of the family of `like`.
    #[inline(always)]
    pub fn node_addr_like(&self, like: &Addr) -> Addr {
        if like.is_v4() { self.node_addr } else { self.node_addr_v6 }
    }

    /// Whether instances may talk to what is outside of the overlay.
    #[inline(always)]
    pub fn masquerades(&self) -> bool {
        self.masquerade_count != 0
    }

    /// Whether a packet to the node's own address can be for an instance.
    #[inline(always)]
    pub fn watches_uplink(&self) -> bool {
        self.masquerade_count != 0 || self.published_count != 0
    }

    /// Whether `addr` is a host outside of the overlay that an instance may talk to: unicast, not
    /// this link's, not this node's and no namespace IP.
    #[inline(always)]
    pub fn is_outside_host(&self, addr: &Addr) -> bool {
        if *addr == self.node_addr || *addr == self.node_addr_v6 || self.is_service_address(addr) {
            return false;
        }
        let [first, second, ..] = addr.words();
        if !addr.is_v4() {
            let [high, low, ..] = first.to_ne_bytes();
            // ff00::/8, fe80::/10, fc00::/7, and ::/32 with loopback and the v4-mapped.
            return high != 0xff
                && !(high == 0xfe && low & 0xc0 == 0x80)
                && high & 0xfe != 0xfc
                && (first, second) != (0, 0);
        }
        let word = addr.v4_word();
        let [high, low, ..] = word.to_ne_bytes();
        // RFC 6890: this network, loopback, link-local, multicast and reserved.
        high != 0
            && high != 127
            && !(high == 169 && low == 254)
            && high < 224
            && word & self.namespace_mask_v4 != self.namespace_net_v4
    }
}

/// Bits of [`Config::features`].
pub mod features {
    /// `bpf_l4_csum_replace` knows `BPF_F_IPV6` (kernel 6.16, commit ead7f9b8de65): without it a
    /// checksum that the network card has summed up goes wrong when IPv6 addresses change.
    pub const L4_CHECKSUM_IPV6: u32 = 1;
    /// Events of new and ended flows and of drops go to the ring `observations`: somebody reads.
    pub const OBSERVE: u32 = 2;
}

crate::map_type!(Config);

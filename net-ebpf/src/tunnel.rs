//! The tunnel: the bare IP packet as the payload of a UDP datagram.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, BPF_F_ADJ_ROOM_NO_CSUM_RESET,
        bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_ktime_get_coarse_ns, bpf_redirect, bpf_redirect_neigh},
    programs::TcContext,
};
use net_common::{
    DropReason, Node, Packet, ProgramCounter,
    packet::{ETH_LEN, ETH_P_IP, ETH_P_IPV6, Ipv4Header, TUNNEL_LEN, UDP, UDP_LEN},
};

use crate::{
    maps::CONFIG,
    packet,
    verdict::{Verdict, count},
};

const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct UdpHeader {
    pub sport: u16,
    pub dport: u16,
    pub len: u16,
    pub checksum: u16,
}

#[repr(C)]
struct Outer {
    ip: Ipv4Header,
    udp: UdpHeader,
}

/// Largest IP packet that the path to `peer` carries inside the tunnel.
#[inline(always)]
pub fn mtu(peer: &Node) -> u32 {
    if peer.mtu == 0 { instance_mtu() } else { peer.mtu }
}

#[inline(always)]
fn instance_mtu() -> u32 {
    match CONFIG.get(0) {
        Some(config) if config.instance_mtu != 0 => config.instance_mtu,
        _ => u32::MAX,
    }
}

/// Refuses what the path to `peer` does not carry. What will be cut into segments counts as one
/// of them.
#[inline(always)]
pub fn check_size(ctx: &TcContext, packet: &mut Packet, peer: &Node) -> Result<(), DropReason> {
    // Most paths carry what an instance may send: then there is nothing to check.
    if peer.mtu == 0 { Ok(()) } else { check(ctx, packet, peer.mtu) }
}

/// Refuses what an instance does not take: packets from outside of the overlay may be larger.
#[inline(always)]
pub fn check_instance_mtu(ctx: &TcContext, packet: &mut Packet) -> Result<(), DropReason> {
    check(ctx, packet, instance_mtu())
}

#[inline(always)]
fn check(ctx: &TcContext, packet: &mut Packet, mtu: u32) -> Result<(), DropReason> {
    if packet.len > mtu {
        // SAFETY: a field of the context that the kernel passed.
        let gso_size = unsafe { (*ctx.skb.skb).gso_size };
        if packet.segment_len(gso_size) > mtu {
            packet.mtu = mtu;
            return Err(DropReason::TooBig);
        }
    }
    Ok(())
}

/// Encapsulates the packet and sends it to the tunnel of `peer`.
///
/// A large GSO packet stays whole: `FIXED_GSO` keeps the size of its segments and the
/// encapsulation flags tell the kernel where the inner headers begin. The outer UDP checksum is 0
/// (RFC 768: none); the inner packet has its own.
#[inline(always)]
pub fn send(ctx: &TcContext, packet: &Packet, peer: &Node) -> Result<Verdict, DropReason> {
    let config = CONFIG.get(0).ok_or(DropReason::NotConfigured)?;
    if config.uplink_ifindex == 0 {
        return Err(DropReason::NotConfigured);
    }
    const FLAGS: u32 = BPF_F_ADJ_ROOM_FIXED_GSO
        | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4
        | BPF_F_ADJ_ROOM_ENCAP_L4_UDP
        | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
    ctx.adjust_room(TUNNEL_LEN as i32, BPF_ADJ_ROOM_MAC, u64::from(FLAGS))
        .map_err(|_| DropReason::RewriteFailed)?;

    let mut ip = Ipv4Header {
        version_ihl: 0x45,
        // DSCP and ECN go along (RFC 6040, 4.1, normal mode).
        tos: packet.tos as u8,
        total_len: ((packet.len + TUNNEL_LEN as u32) as u16).to_be(),
        // Never fragmented, so no identification is needed (RFC 6864, 4.1).
        id: 0,
        fragment: DONT_FRAGMENT.to_be(),
        ttl: TTL,
        proto: UDP,
        checksum: 0,
        src: config.node_addr.v4_word(),
        dst: peer.addr.v4_word(),
    };
    ip.checksum = ip.sum();
    let udp = UdpHeader {
        sport: config.tunnel_port,
        dport: peer.port,
        len: ((packet.len + UDP_LEN as u32) as u16).to_be(),
        checksum: 0,
    };

    let start = ctx.data() + ETH_LEN;
    if start + TUNNEL_LEN > ctx.data_end() {
        return Err(DropReason::RewriteFailed);
    }
    // SAFETY: a helper call without arguments.
    let is_neighbour_known = peer.next_hop_until_ns != 0
        && peer.next_hop_until_ns > unsafe { bpf_ktime_get_coarse_ns() };
    // SAFETY: the bytes are inside the packet, as just checked, and aligned as in `packet::at`.
    unsafe {
        if !packet.src.is_v4() {
            // The kernel has changed the buffer's protocol, but not the Ethernet header's.
            *((start - 2) as *mut u16) = ETH_P_IP.to_be();
        }
        *(start as *mut Outer) = Outer { ip, udp };
        if is_neighbour_known {
            *((start - ETH_LEN) as *mut [u16; 6]) = peer.macs;
        }
    }

    count(ProgramCounter::Encapsulated, packet.len);
    let action = if is_neighbour_known {
        // SAFETY: a helper call without pointers.
        unsafe { bpf_redirect(config.uplink_ifindex, 0) }
    } else {
        // SAFETY: no next hop is given: the kernel looks route and neighbour up, and resolves it.
        unsafe { bpf_redirect_neigh(config.uplink_ifindex, core::ptr::null_mut(), 0, 0) }
    };
    Ok(Verdict::Redirect(action as i32))
}

/// Takes the outer headers off a packet whose inner one is of either family.
#[inline(always)]
pub fn decapsulate(ctx: &TcContext, is_v4: bool) -> Result<(), DropReason> {
    let family = if is_v4 { BPF_F_ADJ_ROOM_DECAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_DECAP_L3_IPV6 };
    let flags = BPF_F_ADJ_ROOM_FIXED_GSO | family;
    ctx.adjust_room(-(TUNNEL_LEN as i32), BPF_ADJ_ROOM_MAC, u64::from(flags))
        .map_err(|_| DropReason::RewriteFailed)?;
    if !is_v4 {
        let ethertype = packet::at::<u16>(ctx, ETH_LEN - 2).ok_or(DropReason::RewriteFailed)?;
        // SAFETY: inside the packet and aligned, as `at` says.
        unsafe { *ethertype = ETH_P_IPV6.to_be() };
    }
    Ok(())
}

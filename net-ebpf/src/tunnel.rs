//! The tunnel: the bare IP packet as the payload of a UDP datagram, over IPv4 or IPv6.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_DECAP_L3_IPV4, BPF_F_ADJ_ROOM_DECAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_ADJ_ROOM_NO_CSUM_RESET, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{bpf_ktime_get_coarse_ns, bpf_redirect, bpf_redirect_neigh},
    programs::TcContext,
};
use net_common::{
    Config, DropReason, Node, Packet, ProgramCounter,
    packet::{
        ETH_LEN, ETH_P_IP, ETH_P_IPV6, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, TUNNEL_LEN,
        TUNNEL_LEN_V6, UDP, UDP_LEN,
    },
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
struct Outer<Ip> {
    ip: Ip,
    udp: UdpHeader,
}

/// What the kernel is told of every encapsulation: a large GSO packet stays whole, with the size
/// of its segments, and its inner headers begin behind a UDP header.
const ENCAPSULATION: u32 =
    BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_NO_CSUM_RESET;

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

/// Encapsulates the packet and sends it to the tunnel of `peer`, over the family of its address.
///
/// The outer UDP checksum is 0: none, over IPv4 (RFC 768) and for tunnels over IPv6 (RFC 6935); the
/// inner packet has its own.
#[inline(always)]
pub fn send(ctx: &TcContext, packet: &Packet, peer: &Node) -> Result<Verdict, DropReason> {
    let config = CONFIG.get(0).ok_or(DropReason::NotConfigured)?;
    if config.uplink_ifindex == 0 {
        return Err(DropReason::NotConfigured);
    }
    let udp = UdpHeader {
        sport: config.tunnel_port,
        dport: peer.port,
        len: ((packet.len + UDP_LEN as u32) as u16).to_be(),
        checksum: 0,
    };
    if peer.addr.is_v4() {
        over_ipv4(ctx, packet, peer, config, udp)?;
    } else {
        over_ipv6(ctx, packet, peer, config, udp)?;
    }

    // SAFETY: a helper call without arguments.
    let is_neighbour_known = peer.next_hop_until_ns != 0
        && peer.next_hop_until_ns > unsafe { bpf_ktime_get_coarse_ns() };
    count(ProgramCounter::Encapsulated, packet.len);
    let action = if is_neighbour_known {
        let macs = packet::at::<[u16; 6]>(ctx, 0).ok_or(DropReason::RewriteFailed)?;
        // One by one: as a whole they would be copied byte by byte.
        let [a, b, c, d, e, f] = peer.macs;
        // SAFETY: inside the packet and aligned, as `at` says; a helper call without pointers.
        unsafe {
            let [to_a, to_b, to_c, to_d, to_e, to_f] = &mut *macs;
            (*to_a, *to_b, *to_c) = (a, b, c);
            (*to_d, *to_e, *to_f) = (d, e, f);
            bpf_redirect(config.uplink_ifindex, 0)
        }
    } else {
        // SAFETY: no next hop is given: the kernel looks route and neighbour up, and resolves it.
        unsafe { bpf_redirect_neigh(config.uplink_ifindex, core::ptr::null_mut(), 0, 0) }
    };
    Ok(Verdict::Redirect(action as i32))
}

#[inline(always)]
fn over_ipv4(
    ctx: &TcContext,
    packet: &Packet,
    peer: &Node,
    config: &Config,
    udp: UdpHeader,
) -> Result<(), DropReason> {
    if config.node_addr.is_unspecified() {
        return Err(DropReason::NotConfigured);
    }
    ctx.adjust_room(
        TUNNEL_LEN as i32,
        BPF_ADJ_ROOM_MAC,
        u64::from(ENCAPSULATION | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4),
    )
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
    let outer = packet::at::<Outer<Ipv4Header>>(ctx, ETH_LEN).ok_or(DropReason::RewriteFailed)?;
    // SAFETY: inside the packet and aligned, as `at` says.
    unsafe { *outer = Outer { ip, udp } };
    if packet.src.is_v4() { Ok(()) } else { set_ethertype(ctx, ETH_P_IP) }
}

#[inline(never)]
fn over_ipv6(
    ctx: &TcContext,
    packet: &Packet,
    peer: &Node,
    config: &Config,
    udp: UdpHeader,
) -> Result<(), DropReason> {
    if config.node_addr_v6.is_unspecified() {
        return Err(DropReason::NotConfigured);
    }
    ctx.adjust_room(
        TUNNEL_LEN_V6 as i32,
        BPF_ADJ_ROOM_MAC,
        u64::from(ENCAPSULATION | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6),
    )
    .map_err(|_| DropReason::RewriteFailed)?;
    let first_word = 6 << 28 | (packet.tos & 0xff) << 20 | packet.flow_label();
    let ip = Ipv6Header {
        version_class_flow: first_word.to_be_bytes(),
        payload_len: udp.len,
        next_header: UDP,
        hop_limit: TTL,
        src: config.node_addr_v6.words(),
        dst: peer.addr.words(),
    };
    let outer = packet::at::<Outer<Ipv6Header>>(ctx, ETH_LEN).ok_or(DropReason::RewriteFailed)?;
    // SAFETY: inside the packet and aligned, as `at` says.
    unsafe { *outer = Outer { ip, udp } };
    if packet.src.is_v4() { set_ethertype(ctx, ETH_P_IPV6) } else { Ok(()) }
}

/// The kernel changes the buffer's protocol with the outer header, but not the Ethernet header's.
#[inline(always)]
fn set_ethertype(ctx: &TcContext, ethertype: u16) -> Result<(), DropReason> {
    let field = packet::at::<u16>(ctx, ETH_LEN - 2).ok_or(DropReason::RewriteFailed)?;
    // SAFETY: inside the packet and aligned, as `at` says.
    unsafe { *field = ethertype.to_be() };
    Ok(())
}

/// Makes a tunnel packet over IPv6 as long as one over IPv4: what is done with it from here on is
/// done in one place. Of the outer IP header only a part is left, of which nothing is read.
#[inline(always)]
pub fn shorten(ctx: &TcContext) -> Result<(), DropReason> {
    ctx.adjust_room(
        IPV4_LEN as i32 - IPV6_LEN as i32,
        BPF_ADJ_ROOM_MAC,
        u64::from(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET),
    )
    .map_err(|_| DropReason::TunnelMalformed)
}

/// Takes the outer headers off a packet whose inner one is of either family.
#[inline(always)]
pub fn decapsulate(ctx: &TcContext, is_v4: bool) -> Result<(), DropReason> {
    let family = if is_v4 { BPF_F_ADJ_ROOM_DECAP_L3_IPV4 } else { BPF_F_ADJ_ROOM_DECAP_L3_IPV6 };
    let flags = BPF_F_ADJ_ROOM_FIXED_GSO | family;
    ctx.adjust_room(-(TUNNEL_LEN as i32), BPF_ADJ_ROOM_MAC, u64::from(flags))
        .map_err(|_| DropReason::RewriteFailed)?;
    set_ethertype(ctx, if is_v4 { ETH_P_IP } else { ETH_P_IPV6 })
}

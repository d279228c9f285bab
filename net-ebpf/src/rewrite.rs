//! Changes the addresses and ports of a packet.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use net_common::{
    Addr, DropReason, Flow, Packet, checksum,
    config::features,
    packet::{ETH_LEN, ICMP, ICMP_LEN, ICMPV6, Ipv4Header, Ipv6Header, TCP, UDP},
};

use crate::{maps::CONFIG, packet::at};

const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMP_CHECKSUM: usize = 2;
const ICMP_ID: usize = 4;
const DPORT: usize = 2;

/// Not in the bindings, which are of an older kernel.
const BPF_F_IPV6: u32 = 1 << 7;

/// What the change from one source and destination to others adds to a checksum over them.
#[inline(always)]
pub fn address_delta(old: (&Addr, &Addr), new: (&Addr, &Addr)) -> u32 {
    if new.0.is_v4() {
        return checksum::fold32(
            checksum::delta(old.0.v4_word(), new.0.v4_word())
                + checksum::delta(old.1.v4_word(), new.1.v4_word()),
        );
    }
    let (old_src, old_dst) = (old.0.words(), old.1.words());
    let (new_src, new_dst) = (new.0.words(), new.1.words());
    let mut sum = 0;
    for word in 0..4 {
        sum += checksum::delta(old_src[word], new_src[word])
            + checksum::delta(old_dst[word], new_dst[word]);
    }
    checksum::fold32(sum)
}

/// Puts the flow's addresses and ports, of the packet's family, into the headers behind the
/// Ethernet header and mends the checksums.
///
/// The IPv4 header's own sum is written directly. The transport sum goes through the helper: it
/// may be unfinished (`CHECKSUM_PARTIAL`), which a program cannot see. A later fragment has no
/// transport header.
#[inline(always)]
pub fn packet(ctx: &TcContext, packet: &Packet, flow: &Flow) -> Result<(), DropReason> {
    let delta = checksum::fold32(u64::from(flow.address_delta) + u64::from(packet.key_delta));
    let family_flags = if packet.src.is_v4() {
        ipv4(ctx, flow.src.v4_word(), flow.dst.v4_word(), delta)?;
        0
    } else {
        ipv6(ctx, &flow.src, &flow.dst)?;
        ipv6_flags()
    };
    if packet.fragment == net_common::packet::Fragment::Later as u32 {
        return Ok(());
    }
    let transport = ETH_LEN + packet.transport_at();
    let (offset, flags) = match packet.proto as u8 {
        TCP => (TCP_CHECKSUM, BPF_F_PSEUDO_HDR),
        UDP => (UDP_CHECKSUM, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0),
        ICMPV6 => (ICMP_CHECKSUM, BPF_F_PSEUDO_HDR),
        // ICMP's sum does not cover the addresses (RFC 792).
        _ => return ports(ctx, packet, flow, transport),
    };
    ctx.l4_csum_replace(transport + offset, 0, u64::from(delta), u64::from(flags | family_flags))
        .map_err(|_| DropReason::RewriteFailed)?;
    ports(ctx, packet, flow, transport)
}

/// Only flows that enter or leave the overlay change ports.
#[inline(always)]
fn ports(
    ctx: &TcContext,
    packet: &Packet,
    flow: &Flow,
    transport: usize,
) -> Result<(), DropReason> {
    let is_echo = packet.proto == u32::from(ICMP) || packet.proto == u32::from(ICMPV6);
    if packet.sport == flow.sport && (is_echo || packet.dport == flow.dport) {
        return Ok(());
    }
    changed_ports(ctx, packet, flow, transport).ok_or(DropReason::RewriteFailed)
}

#[inline(never)]
fn changed_ports(ctx: &TcContext, packet: &Packet, flow: &Flow, transport: usize) -> Option<()> {
    let (checksum, flags) = match packet.proto as u8 {
        TCP => (TCP_CHECKSUM, 0),
        UDP => (UDP_CHECKSUM, BPF_F_MARK_MANGLED_0),
        _ => (ICMP_CHECKSUM, 0),
    };
    let replace = |offset: usize, old: u16, new: u16| {
        ctx.store(transport + offset, &new, 0).ok()?;
        let flags = u64::from(2 | flags);
        ctx.l4_csum_replace(transport + checksum, u64::from(old), u64::from(new), flags).ok()
    };
    if packet.proto == u32::from(ICMP) || packet.proto == u32::from(ICMPV6) {
        return replace(ICMP_ID, packet.sport, flow.sport);
    }
    if packet.sport != flow.sport {
        replace(0, packet.sport, flow.sport)?;
    }
    if packet.dport != flow.dport {
        replace(DPORT, packet.dport, flow.dport)?;
    }
    Some(())
}

/// Translates an ICMP error, outer and inner. `flow` is the flow of the packet that answers the
/// quoted one, so what it puts in as source is what the quoted packet was sent to.
///
/// An error from a host outside of the overlay keeps its source when `keeps_source`: that is
/// what traceroute shows. The checksum of a quoted transport header stays as it is: it is rarely
/// quoted at all, and nobody looks at it.
#[inline(never)]
pub fn error(
    ctx: &TcContext,
    packet: &Packet,
    flow: &Flow,
    keeps_source: bool,
) -> Result<(), DropReason> {
    let keeps_source = keeps_source && packet.outer_src != packet.src;
    let src = if keeps_source { packet.outer_src } else { flow.src };
    let quote = ETH_LEN + packet.quote_at();
    let icmp = ETH_LEN + packet.transport_at();
    let delta = checksum::fold32(u64::from(flow.address_delta) + u64::from(packet.key_delta));
    // What is put into the quote changes the sum over the message …
    let mut sum = 0;
    if src.is_v4() {
        let outer = address_delta((&packet.outer_src, &packet.outer_dst), (&src, &flow.dst));
        ipv4(ctx, src.v4_word(), flow.dst.v4_word(), outer)?;
        // … but a header with its own sum mended adds up to what it did before.
        let header = at::<Ipv4Header>(ctx, quote).ok_or(DropReason::Truncated)?;
        // SAFETY: inside the packet and aligned, as `at` says.
        unsafe {
            (*header).checksum = checksum::update((*header).checksum, delta);
            (*header).src = flow.dst.v4_word();
            (*header).dst = flow.src.v4_word();
        }
    } else {
        ipv6(ctx, &src, &flow.dst)?;
        let header = at::<Ipv6Header>(ctx, quote).ok_or(DropReason::Truncated)?;
        // SAFETY: inside the packet and aligned, as `at` says.
        unsafe {
            (*header).src = flow.dst.words();
            (*header).dst = flow.src.words();
        }
        let outer = address_delta((&packet.outer_src, &packet.outer_dst), (&src, &flow.dst));
        sum += u64::from(delta) + u64::from(outer);
    }
    let ports = ETH_LEN + packet.quoted_transport_at();
    let is_echo = packet.proto == u32::from(ICMP) || packet.proto == u32::from(ICMPV6);
    if is_echo {
        if packet.sport != flow.sport {
            ctx.store(ports + ICMP_ID, &flow.sport, 0).map_err(|_| DropReason::RewriteFailed)?;
            sum += checksum::delta(u32::from(packet.sport), u32::from(flow.sport));
        }
    } else if packet.sport != flow.sport || packet.dport != flow.dport {
        // The quoted packet went the other way.
        ctx.store(ports, &flow.dport, 0).map_err(|_| DropReason::RewriteFailed)?;
        ctx.store(ports + DPORT, &flow.sport, 0).map_err(|_| DropReason::RewriteFailed)?;
        sum += checksum::delta(u32::from(packet.sport), u32::from(flow.sport))
            + checksum::delta(u32::from(packet.dport), u32::from(flow.dport));
    }
    if sum != 0 {
        // An error's checksum is never left to the network card, so it is written directly.
        let field = at::<[u16; ICMP_LEN / 2]>(ctx, icmp).ok_or(DropReason::Truncated)?;
        // SAFETY: inside the packet and aligned, as `at` says.
        unsafe { (*field)[1] = checksum::update((*field)[1], checksum::fold32(sum)) };
    }
    Ok(())
}

/// On the way out of the overlay this node is a router (RFC 1812, 5.3.1).
#[inline(always)]
pub fn decrement_ttl(ctx: &TcContext, packet: &Packet) -> Result<(), DropReason> {
    if packet.src.is_v4() {
        let header = at::<Ipv4Header>(ctx, ETH_LEN).ok_or(DropReason::Truncated)?;
        // SAFETY: inside the packet and aligned, as `at` says.
        unsafe {
            let old = u16::from_ne_bytes([(*header).ttl, (*header).proto]);
            (*header).ttl = (*header).ttl.saturating_sub(1);
            let new = u16::from_ne_bytes([(*header).ttl, (*header).proto]);
            let delta = checksum::delta(u32::from(old), u32::from(new));
            (*header).checksum = checksum::update((*header).checksum, checksum::fold32(delta));
        }
    } else {
        let header = at::<Ipv6Header>(ctx, ETH_LEN).ok_or(DropReason::Truncated)?;
        // SAFETY: as above.
        unsafe { (*header).hop_limit = (*header).hop_limit.saturating_sub(1) };
    }
    Ok(())
}

#[inline(always)]
fn ipv4(ctx: &TcContext, src: u32, dst: u32, delta: u32) -> Result<(), DropReason> {
    let header = at::<Ipv4Header>(ctx, ETH_LEN).ok_or(DropReason::Truncated)?;
    // SAFETY: inside the packet and aligned, as `at` says.
    unsafe {
        (*header).checksum = checksum::update((*header).checksum, delta);
        (*header).src = src;
        (*header).dst = dst;
    }
    Ok(())
}

#[inline(always)]
fn ipv6(ctx: &TcContext, src: &Addr, dst: &Addr) -> Result<(), DropReason> {
    let header = at::<Ipv6Header>(ctx, ETH_LEN).ok_or(DropReason::Truncated)?;
    // SAFETY: inside the packet and aligned, as `at` says.
    unsafe {
        (*header).src = src.words();
        (*header).dst = dst.words();
    }
    Ok(())
}

#[inline(always)]
fn ipv6_flags() -> u32 {
    let known = CONFIG.get(0).is_some_and(|c| c.features & features::L4_CHECKSUM_IPV6 != 0);
    if known { BPF_F_IPV6 } else { 0 }
}

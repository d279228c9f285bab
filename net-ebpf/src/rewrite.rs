//! Changes the addresses of a packet.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use net_common::{Addr, DropReason, checksum, config::features};

use crate::{
    maps::CONFIG,
    packet::{self, ETH_LEN, ICMPV6, Ipv4Header, Ipv6Header, Packet, TCP, UDP},
};

const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const ICMPV6_CHECKSUM: usize = 2;

/// Not in the bindings, which are of an older kernel.
const BPF_F_IPV6: u32 = 1 << 7;

/// Puts `src` and `dst`, of the packet's family, into the IP header behind the Ethernet header and
/// mends the checksums.
///
/// The IPv4 header's own sum is written directly. The transport sum goes through the helper: it
/// may be unfinished (`CHECKSUM_PARTIAL`), which a program cannot see.
#[inline(always)]
pub fn addresses(
    ctx: &TcContext,
    packet: &Packet,
    src: &Addr,
    dst: &Addr,
) -> Result<(), DropReason> {
    if packet.src == *src && packet.dst == *dst {
        return Ok(());
    }
    let (delta, family_flags) = if src.is_v4() {
        (ipv4(ctx, packet, src.v4_word(), dst.v4_word())?, 0)
    } else {
        (ipv6(ctx, packet, src, dst)?, ipv6_flags())
    };
    let (offset, flags) = match packet.proto as u8 {
        TCP => (TCP_CHECKSUM, BPF_F_PSEUDO_HDR),
        UDP => (UDP_CHECKSUM, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0),
        ICMPV6 => (ICMPV6_CHECKSUM, BPF_F_PSEUDO_HDR),
        // ICMP's sum does not cover the addresses (RFC 792).
        _ => return Ok(()),
    };
    let offset = ETH_LEN + packet.header_len as usize + offset;
    ctx.l4_csum_replace(offset, 0, u64::from(delta), u64::from(flags | family_flags))
        .map_err(|_| DropReason::RewriteFailed)
}

#[inline(always)]
fn ipv4(ctx: &TcContext, packet: &Packet, src: u32, dst: u32) -> Result<u32, DropReason> {
    let delta = checksum::fold32(
        checksum::delta(packet.src.v4_word(), src) + checksum::delta(packet.dst.v4_word(), dst),
    );
    let header = packet::at::<Ipv4Header>(ctx, ETH_LEN).ok_or(DropReason::Truncated)?;
    // SAFETY: inside the packet and aligned, as `at` says.
    unsafe {
        (*header).checksum = checksum::update((*header).checksum, delta);
        (*header).src = src;
        (*header).dst = dst;
    }
    Ok(delta)
}

#[inline(always)]
fn ipv6(ctx: &TcContext, packet: &Packet, src: &Addr, dst: &Addr) -> Result<u32, DropReason> {
    let header = packet::at::<Ipv6Header>(ctx, ETH_LEN).ok_or(DropReason::Truncated)?;
    let (old_src, old_dst) = (packet.src.words(), packet.dst.words());
    let (src, dst) = (src.words(), dst.words());
    let mut sum = 0;
    for word in 0..4 {
        sum +=
            checksum::delta(old_src[word], src[word]) + checksum::delta(old_dst[word], dst[word]);
    }
    // SAFETY: inside the packet and aligned, as `at` says.
    unsafe {
        (*header).src = src;
        (*header).dst = dst;
    }
    Ok(checksum::fold32(sum))
}

#[inline(always)]
fn ipv6_flags() -> u32 {
    let known = CONFIG.get(0).is_some_and(|c| c.features & features::L4_CHECKSUM_IPV6 != 0);
    if known { BPF_F_IPV6 } else { 0 }
}

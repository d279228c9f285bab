//! Tells a sender why its packet goes no further: the packet becomes a TCP RST (RFC 9293, 3.5.2) or
//! an ICMP error (RFC 792, RFC 4443) that comes from the address it was sent to.

use aya_ebpf::{
    helpers::{bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use net_common::{
    Addr, DropReason, Packet, checksum, limits,
    packet::{
        ETH_LEN, Fragment, ICMP, ICMP_LEN, ICMPV6, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, TCP,
    },
};

use crate::{
    maps::{ANSWER, CONFIG, PACKET},
    packet::read,
};

const TCP_LEN: usize = 20;
const TTL: u8 = 64;
/// Offset 5 and the flags, as they stand in the packet.
const RST: u16 = 0x5004;
const RST_ACK: u16 = 0x5014;

/// An answer as it is put together: the IP header ends where the transport header begins.
#[repr(C, align(8))]
pub struct Answer {
    /// An IPv6 header, or 20 bytes of nothing and an IPv4 header.
    ip: [u16; IPV6_LEN / 2],
    /// TCP, or ICMP and what it quotes.
    transport: [u16; (ICMP_LEN + limits::QUOTED_BYTES) / 2],
}

/// Whether a packet that is dropped for this reason is answered.
#[inline(always)]
pub fn is_told(reason: u32) -> bool {
    reason == NO_INSTANCE
        || reason == INSTANCE_GONE
        || reason == DropReason::Unresolved as u32
        || reason == TOO_BIG
        || reason == TTL_EXCEEDED
}

const NO_INSTANCE: u32 = DropReason::NoInstance as u32;
const INSTANCE_GONE: u32 = DropReason::InstanceGone as u32;
const TOO_BIG: u32 = DropReason::TooBig as u32;
const TTL_EXCEEDED: u32 = DropReason::TtlExceeded as u32;

/// Makes the packet the answer to itself; its Ethernet header stays as it is.
#[inline(never)]
pub fn answer(ctx: &TcContext, reason: u32) -> Option<()> {
    let packet = PACKET.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element, filled by `packet::parse` before any of these reasons.
    let packet = unsafe { &*packet };
    let answer = ANSWER.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element; the program is not interrupted by another of ours.
    let answer = unsafe { &mut *answer };
    // Nobody is told about an error or a later fragment (RFC 1122, 3.2.2).
    if packet.dry_run != 0 || packet.is_error() || packet.fragment == Fragment::Later as u32 {
        return None;
    }
    answer.transport = [0; _];
    let is_reset = packet.is_tcp() && matches!(reason, NO_INSTANCE | INSTANCE_GONE);
    let len =
        if is_reset { reset(ctx, packet, answer)? } else { quote(ctx, packet, answer, reason)? };
    let from = if reason == TTL_EXCEEDED {
        CONFIG.get(0)?.node_addr_like(&packet.src)
    } else {
        packet.dst
    };
    let proto = if is_reset {
        TCP
    } else if packet.src.is_v4() {
        ICMP
    } else {
        ICMPV6
    };
    write(ctx, packet, answer, &from, proto, len)
}

/// The TCP header of a reset; its length.
#[inline(always)]
fn reset(ctx: &TcContext, packet: &Packet, answer: &mut Answer) -> Option<usize> {
    if packet.is_reset() {
        return None;
    }
    let header: [u16; 6] = read(ctx, ETH_LEN + packet.transport_at())?;
    let word = |at: usize| {
        u32::from(u16::from_be(header[at])) << 16 | u32::from(u16::from_be(header[at + 1]))
    };
    let (seq, ack, flags) = if packet.tcp_flags & 0x10 != 0 {
        (word(4), 0, RST)
    } else {
        let payload = packet.len - packet.header_len - packet.transport_len;
        let counted = payload + (packet.tcp_flags & 1) + (packet.tcp_flags >> 1 & 1);
        (0, word(2).wrapping_add(counted), RST_ACK)
    };
    let tcp = &mut answer.transport;
    (tcp[0], tcp[1]) = (packet.dport, packet.sport);
    (tcp[2], tcp[3]) = (((seq >> 16) as u16).to_be(), (seq as u16).to_be());
    (tcp[4], tcp[5]) = (((ack >> 16) as u16).to_be(), (ack as u16).to_be());
    tcp[6] = flags.to_be();
    Some(TCP_LEN)
}

/// The ICMP header of an error and as much as it quotes; their length.
#[inline(always)]
fn quote(ctx: &TcContext, packet: &Packet, answer: &mut Answer, reason: u32) -> Option<usize> {
    let is_v4 = packet.src.is_v4();
    let host = if is_v4 { [3, 1] } else { [1, 3] };
    let port = if is_v4 { [3, 3] } else { [1, 4] };
    let type_and_code: [u8; 2] = match reason {
        TOO_BIG => {
            if is_v4 {
                [3, 4]
            } else {
                [2, 0]
            }
        }
        TTL_EXCEEDED => {
            if is_v4 {
                [11, 0]
            } else {
                [3, 0]
            }
        }
        // Nobody answers there (RFC 1122, 3.2.2.1).
        NO_INSTANCE | INSTANCE_GONE if packet.proto == 17 => port,
        _ => host,
    };
    answer.transport[0] = u16::from_ne_bytes(type_and_code);
    if reason == TOO_BIG {
        // The low half of ICMPv6's 32 bits is where ICMP has its 16 (RFC 1191, 4; RFC 4443, 3.2).
        answer.transport[3] = (packet.mtu as u16).to_be();
    }
    let len = packet.len as usize;
    let len = if len > limits::QUOTED_BYTES { limits::QUOTED_BYTES } else { len };
    if len < IPV4_LEN {
        return None;
    }
    let room = answer.transport[ICMP_LEN / 2..].as_mut_ptr();
    // SAFETY: there is room for `QUOTED_BYTES`, which `len` does not exceed.
    let copied =
        unsafe { bpf_skb_load_bytes(ctx.skb.skb.cast(), ETH_LEN as u32, room.cast(), len as u32) };
    (copied == 0).then_some(ICMP_LEN + len)
}

/// Puts the IP header in front, sums up, and replaces the packet.
#[inline(always)]
fn write(
    ctx: &TcContext,
    packet: &Packet,
    answer: &mut Answer,
    from: &Addr,
    proto: u8,
    len: usize,
) -> Option<()> {
    let is_v4 = packet.src.is_v4();
    // The pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1), which ICMP does without.
    let mut sum = 0_u64;
    if proto != ICMP {
        for word in 0..4 {
            if !is_v4 || word == 3 {
                sum += u64::from(from.words()[word]) + u64::from(packet.src.words()[word]);
            }
        }
        sum += u64::from((len as u16).to_be()) + u64::from(u16::from(proto).to_be());
    }
    for word in answer.transport {
        sum += u64::from(word);
    }
    let field = if proto == TCP { 8 } else { 1 };
    answer.transport[field] = !checksum::fold16(checksum::fold32(sum));

    let ip = answer.ip.as_mut_ptr();
    let ip_len = if is_v4 { IPV4_LEN } else { IPV6_LEN };
    if is_v4 {
        let mut header = Ipv4Header {
            version_ihl: 0x45,
            tos: 0,
            total_len: ((IPV4_LEN + len) as u16).to_be(),
            id: 0,
            fragment: 0x4000_u16.to_be(),
            ttl: TTL,
            proto,
            checksum: 0,
            src: from.v4_word(),
            dst: packet.src.v4_word(),
        };
        header.checksum = header.sum();
        // SAFETY: the second half of 40 bytes, at an even address.
        unsafe { *ip.add((IPV6_LEN - IPV4_LEN) / 2).cast::<Ipv4Header>() = header };
    } else {
        let header = Ipv6Header {
            version_class_flow: [0x60, 0, 0, 0],
            payload_len: (len as u16).to_be(),
            next_header: proto,
            hop_limit: TTL,
            src: from.words(),
            dst: packet.src.words(),
        };
        // SAFETY: 40 bytes, at an even address.
        unsafe { *ip.cast::<Ipv6Header>() = header };
    }
    let start = (IPV6_LEN - ip_len) / 2;
    let skb = ctx.skb.skb;
    let total = (ip_len + len) as u32;
    if total as usize > IPV6_LEN + ICMP_LEN + limits::QUOTED_BYTES {
        return None;
    }
    // SAFETY: the context that the kernel passed; `total` bytes from `start` are inside the
    // answer, because it ends `len` bytes behind the IP header.
    unsafe {
        if bpf_skb_change_tail(skb, ETH_LEN as u32 + total, 0) != 0 {
            return None;
        }
        let bytes = answer.ip.as_ptr().add(start);
        let stored = if is_v4 {
            store(skb, bytes.cast(), total, IPV4_LEN)
        } else {
            store(skb, bytes.cast(), total, IPV6_LEN)
        };
        (stored == 0).then_some(())
    }
}

/// # Safety
///
/// As for the helper.
#[inline(always)]
unsafe fn store(
    skb: *mut aya_ebpf::bindings::__sk_buff,
    bytes: *const core::ffi::c_void,
    total: u32,
    ip_len: usize,
) -> i64 {
    // For the verifier, which does not connect the length with the address family.
    if total as usize > ip_len + ICMP_LEN + limits::QUOTED_BYTES || total == 0 {
        return -1;
    }
    // SAFETY: as the caller promises.
    unsafe { bpf_skb_store_bytes(skb.cast(), ETH_LEN as u32, bytes, total, 0) as i64 }
}

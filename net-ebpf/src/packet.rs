//! Reads the headers of an IP packet, checking every bound once. What differs between IPv4 and
//! IPv6 ends here and in `rewrite`.

use aya_ebpf::{helpers::bpf_skb_pull_data, programs::TcContext};
use net_common::{Addr, DropReason, FlowKey, flow::from_node, limits};

use crate::maps::PACKET;

pub const ETH_LEN: usize = 14;
pub const IPV4_LEN: usize = 20;
pub const IPV6_LEN: usize = 40;
pub const UDP_LEN: usize = 8;
/// What the tunnel adds between the Ethernet header and the inner packet.
pub const TUNNEL_LEN: usize = IPV4_LEN + UDP_LEN;

pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_ARP: u16 = 0x0806;
pub const ETH_P_IPV6: u16 = 0x86dd;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;

/// IPv6 extension headers (RFC 8200, 4).
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// More-fragments flag and offset of the IPv4 header.
const FRAGMENT_MASK: u16 = 0x3fff;

const ICMP_ECHO: u8 = 8;
const ICMP_ECHO_REPLY: u8 = 0;
const ICMPV6_ECHO: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

const TCP_FIN: u32 = 0x01;
const TCP_SYN: u32 = 0x02;
const TCP_RST: u32 = 0x04;
const TCP_ACK: u32 = 0x10;

/// Headers that the programs look at: Ethernet, a tunnel, IPv6 with some extension headers or
/// IPv4 with options, TCP.
const HEADERS_LEN: u32 = (ETH_LEN + TUNNEL_LEN + 80 + 20) as u32;

/// What the programs need of a packet. Ports are in network byte order; for ICMP echo `sport` is
/// the identifier and `dport` the type and code.
#[repr(C)]
pub struct Packet {
    pub src: Addr,
    pub dst: Addr,
    /// From the IP header to the transport header.
    pub header_len: u32,
    /// IANA number.
    pub proto: u32,
    pub sport: u16,
    pub dport: u16,
    /// Type of service or traffic class.
    pub tos: u32,
    pub tcp_flags: u32,
    /// Length of the IP packet as its header says it, checked against the buffer.
    pub len: u32,
}

impl Packet {
    #[inline(always)]
    pub fn is_closing(&self) -> bool {
        self.tcp_flags & (TCP_FIN | TCP_RST) != 0
    }

    /// A connection is opened: SYN without ACK.
    #[inline(always)]
    pub fn is_opening(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    #[inline(always)]
    fn is_echo(&self) -> bool {
        self.proto == u32::from(ICMP) || self.proto == u32::from(ICMPV6)
    }

    /// An answer to a ping; it never opens a flow.
    #[inline(always)]
    pub fn is_echo_reply(&self) -> bool {
        self.is_echo() && self.dport == self.echo_reply()
    }

    /// What stands for a port in the answer to a ping.
    #[inline(always)]
    fn echo_reply(&self) -> u16 {
        echo_port(if self.proto == u32::from(ICMP) { ICMP_ECHO_REPLY } else { ICMPV6_ECHO_REPLY })
    }

    /// As the flow table keys a packet that a local instance sends.
    #[inline(always)]
    pub fn egress_key(&self, ifindex: u32) -> FlowKey {
        FlowKey {
            local: self.src,
            remote: self.dst,
            local_port: self.sport,
            remote_port: self.dport,
            origin: ifindex,
            proto: self.proto,
        }
    }

    /// As the flow table keys a packet that the tunnel of node `peer` brings.
    #[inline(always)]
    pub fn tunnel_key(&self, peer: u32) -> FlowKey {
        let (local_port, remote_port) =
            if self.is_echo() { (self.sport, self.dport) } else { (self.dport, self.sport) };
        FlowKey {
            local: self.dst,
            remote: self.src,
            local_port,
            remote_port,
            origin: from_node(peer),
            proto: self.proto,
        }
    }

    /// Ports of the answers to this packet, as seen by whoever sends them.
    #[inline(always)]
    pub fn ports_answered(&self) -> (u16, u16) {
        if self.is_echo() { (self.sport, self.echo_reply()) } else { (self.dport, self.sport) }
    }

    /// Ports of the answers to this packet, as seen by whoever receives them.
    #[inline(always)]
    pub fn ports_awaited(&self) -> (u16, u16) {
        if self.is_echo() { (self.sport, self.echo_reply()) } else { (self.sport, self.dport) }
    }
}

const fn echo_port(icmp_type: u8) -> u16 {
    u16::from_ne_bytes([icmp_type, 0])
}

/// Makes the headers directly readable: a buffer may hold its first bytes elsewhere.
#[inline(always)]
pub fn pull_headers(ctx: &TcContext) {
    let wanted = if ctx.len() < HEADERS_LEN { ctx.len() } else { HEADERS_LEN };
    if ctx.data() + wanted as usize > ctx.data_end() {
        // SAFETY: `skb` is the context that the kernel passed. A failure shows as a short packet.
        unsafe { bpf_skb_pull_data(ctx.skb.skb, wanted) };
    }
}

/// Where a `T` stands at an even `offset`, if the packet is that long.
///
/// Drivers align the IP header, so every even offset from the Ethernet header's beginning is at
/// an even address. Nothing that is read is aligned to more: the compiler reads a larger number
/// as its halves, and not byte by byte. Fields are read through the pointer one by one: a copy of
/// the whole would be taken through the stack.
#[inline(always)]
pub fn at<T>(ctx: &TcContext, offset: usize) -> Option<*mut T> {
    const { assert!(align_of::<T>() <= 2) };
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}

/// Reads a `T` at an even `offset`, if the packet is that long.
#[inline(always)]
pub fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    // SAFETY: inside the packet and aligned, as `at` says; `T` is plain bytes.
    at::<T>(ctx, offset).map(|start| unsafe { *start })
}

/// An IPv4 header without options, as it stands in the packet, at an even address.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Ipv4Header {
    pub version_ihl: u8,
    pub tos: u8,
    pub total_len: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub proto: u8,
    pub checksum: u16,
    pub src: u32,
    pub dst: u32,
}

impl Ipv4Header {
    /// Of a fragment field, in network byte order.
    #[inline(always)]
    pub fn is_fragment(field: u16) -> bool {
        u16::from_be(field) & FRAGMENT_MASK != 0
    }
}

/// An IPv6 header as it stands in the packet, at an even address.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Ipv6Header {
    pub version_class_flow: [u8; 4],
    pub payload_len: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub src: [u32; 4],
    pub dst: [u32; 4],
}

/// Whether an IPv6 packet is for everybody on its link only, ff02::/16 (RFC 4291, 2.7).
#[inline(always)]
pub fn is_link_multicast(ctx: &TcContext) -> bool {
    const DESTINATION: usize = ETH_LEN + 24;
    read::<u16>(ctx, DESTINATION) == Some(u16::from_ne_bytes([0xff, 0x02]))
}

/// Parses the IP packet at `l3`, of the version that its first byte says; whoever calls has
/// called [`pull_headers`].
#[inline(always)]
pub fn parse(ctx: &TcContext, l3: usize, is_v4: bool) -> Result<&'static Packet, DropReason> {
    let packet = PACKET.get_ptr_mut(0).ok_or(DropReason::Truncated)?;
    // SAFETY: this CPU's own element; the program is not interrupted by another of ours, and no
    // other reference to it exists before it is returned.
    let packet = unsafe { &mut *packet };
    let available = ctx.len().wrapping_sub(l3 as u32);
    let (proto, header_len) =
        if is_v4 { ipv4(ctx, l3, available, packet)? } else { ipv6(ctx, l3, available, packet)? };
    packet.proto = u32::from(proto);
    packet.header_len = header_len as u32;
    packet.tcp_flags = 0;
    transport(ctx, l3, is_v4, packet)?;
    Ok(packet)
}

#[inline(always)]
fn ipv4(
    ctx: &TcContext,
    l3: usize,
    available: u32,
    packet: &mut Packet,
) -> Result<(u8, usize), DropReason> {
    let header = at::<Ipv4Header>(ctx, l3).ok_or(DropReason::Truncated)?;
    // SAFETY: inside the packet and aligned, as `at` says.
    let header = unsafe { &*header };
    let header_len = usize::from(header.version_ihl & 0x0f) * 4;
    let len = u32::from(u16::from_be(header.total_len));
    if header.version_ihl >> 4 != 4 || header_len < IPV4_LEN || (len as usize) < header_len {
        return Err(DropReason::BadHeader);
    }
    if len > available {
        return Err(DropReason::Truncated);
    }
    if Ipv4Header::is_fragment(header.fragment) {
        return Err(DropReason::Fragment);
    }
    packet.src = Addr::from_v4_word(header.src);
    packet.dst = Addr::from_v4_word(header.dst);
    packet.tos = u32::from(header.tos);
    packet.len = len;
    Ok((header.proto, header_len))
}

#[inline(always)]
fn ipv6(
    ctx: &TcContext,
    l3: usize,
    available: u32,
    packet: &mut Packet,
) -> Result<(u8, usize), DropReason> {
    let header = at::<Ipv6Header>(ctx, l3).ok_or(DropReason::Truncated)?;
    // SAFETY: inside the packet and aligned, as `at` says.
    let header = unsafe { &*header };
    let len = IPV6_LEN as u32 + u32::from(u16::from_be(header.payload_len));
    let [first, second, ..] = header.version_class_flow;
    if first >> 4 != 6 {
        return Err(DropReason::BadHeader);
    }
    if len > available {
        return Err(DropReason::Truncated);
    }
    let (src, dst) = (Addr::from_words(header.src), Addr::from_words(header.dst));
    // A v4-mapped address on the wire would pass for an IPv4 one (RFC 4942, 2.2).
    if src.is_v4() || dst.is_v4() {
        return Err(DropReason::BadHeader);
    }
    let (proto, header_len) = skip_extensions(ctx, l3, header.next_header)?;
    if (len as usize) < header_len {
        return Err(DropReason::ExtensionHeaders);
    }
    (packet.src, packet.dst) = (src, dst);
    packet.tos = u32::from(first << 4 | second >> 4);
    packet.len = len;
    Ok((proto, header_len))
}

/// The first header that is no extension, and its distance from the IPv6 header.
#[inline(always)]
fn skip_extensions(ctx: &TcContext, l3: usize, first: u8) -> Result<(u8, usize), DropReason> {
    let (mut header, mut distance) = (first, IPV6_LEN);
    for _ in 0..limits::EXTENSION_HEADERS {
        match header {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {}
            FRAGMENT => return Err(DropReason::Fragment),
            _ => return Ok((header, distance)),
        }
        let Some([next, units]) = read::<[u8; 2]>(ctx, l3 + distance) else {
            return Err(DropReason::ExtensionHeaders);
        };
        header = next;
        distance += (usize::from(units) + 1) * 8;
    }
    match header {
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => Err(DropReason::ExtensionHeaders),
        FRAGMENT => Err(DropReason::Fragment),
        _ => Ok((header, distance)),
    }
}

/// The longest distance from the IP header to the transport header: four extension headers of
/// 2048 bytes.
const HEADER_LEN_MASK: usize = 0x3fff;

#[inline(always)]
fn transport(
    ctx: &TcContext,
    l3: usize,
    is_v4: bool,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    // Read back from the map, so that it is any length to the verifier, and masked, so that it is
    // no longer than a packet.
    let header_len = read_back(&packet.header_len) as usize & HEADER_LEN_MASK;
    let proto = read_back(&packet.proto) as u8;
    let l4 = l3 + header_len;
    let payload = packet.len - header_len as u32;
    match proto {
        TCP => {
            if payload < 20 {
                return Err(DropReason::Truncated);
            }
            let words: [u16; 7] = read(ctx, l4).ok_or(DropReason::Truncated)?;
            packet.tcp_flags = u32::from(u16::from_be(words[6]) & 0xff);
            (packet.sport, packet.dport) = (words[0], words[1]);
        }
        UDP => {
            if payload < UDP_LEN as u32 {
                return Err(DropReason::Truncated);
            }
            let ports: [u16; 4] = read(ctx, l4).ok_or(DropReason::Truncated)?;
            (packet.sport, packet.dport) = (ports[0], ports[1]);
        }
        ICMP | ICMPV6 => {
            if payload < 8 {
                return Err(DropReason::Truncated);
            }
            let words: [u16; 4] = read(ctx, l4).ok_or(DropReason::Truncated)?;
            let (request, reply) = if proto == ICMP {
                (echo_port(ICMP_ECHO), echo_port(ICMP_ECHO_REPLY))
            } else {
                (echo_port(ICMPV6_ECHO), echo_port(ICMPV6_ECHO_REPLY))
            };
            if is_v4 != (proto == ICMP) || (words[0] != request && words[0] != reply) {
                return Err(DropReason::UnsupportedIcmp);
            }
            (packet.sport, packet.dport) = (words[2], words[0]);
        }
        _ => return Err(DropReason::UnsupportedProtocol),
    }
    Ok(())
}

#[inline(always)]
fn read_back(value: &u32) -> u32 {
    // SAFETY: a reference is valid; volatile keeps the compiler from using what it just wrote.
    unsafe { core::ptr::read_volatile(value) }
}

//! Reads the headers of an IP packet, checking every bound once.
//!
//! The kernel programs and the tests read packets with the same code: over the memory of a packet
//! there, over a slice of bytes here. Nothing is allocated and nothing can panic.

use crate::{Addr, DropReason, FlowKey, checksum, flow::from_node, limits};

pub const ETH_LEN: usize = 14;
pub const IPV4_LEN: usize = 20;
pub const IPV6_LEN: usize = 40;
pub const UDP_LEN: usize = 8;
/// An ICMP header (RFC 792, RFC 4443), in front of what an error quotes.
pub const ICMP_LEN: usize = 8;
/// What the tunnel adds between the Ethernet header and the inner packet, over IPv4 …
pub const TUNNEL_LEN: usize = IPV4_LEN + UDP_LEN;
/// … and over IPv6.
pub const TUNNEL_LEN_V6: usize = IPV6_LEN + UDP_LEN;

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

/// Of the IPv4 header's fragment field: more-fragments flag, and the offset.
const V4_MORE: u16 = 0x2000;
const V4_OFFSET: u16 = 0x1fff;
const V4_DONT_FRAGMENT: u16 = 0x4000;
/// The same of the IPv6 fragment header's.
const V6_MORE: u16 = 0x0001;
const V6_OFFSET: u16 = 0xfff8;

const ICMP_ECHO: u8 = 8;
const ICMP_ECHO_REPLY: u8 = 0;
const ICMPV6_ECHO: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

const TCP_FIN: u32 = 0x01;
const TCP_SYN: u32 = 0x02;
const TCP_RST: u32 = 0x04;
const TCP_ACK: u32 = 0x10;

/// The bytes of a packet.
pub trait Frame {
    /// Where a `T` stands at an even `offset`, if the packet is that long.
    ///
    /// Drivers align the IP header, so every even offset from the Ethernet header's beginning is
    /// at an even address. Nothing that is read is aligned to more: the compiler reads a larger
    /// number as its halves, and not byte by byte. Fields are read through the pointer one by
    /// one: a copy of the whole would be taken through a program's stack.
    fn at<T>(&self, offset: usize) -> Option<*mut T>;

    /// Length of the whole packet, with what is not directly readable.
    fn len(&self) -> u32;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads a `T` at an even `offset`, if the packet is that long.
    #[inline(always)]
    fn read<T: Copy>(&self, offset: usize) -> Option<T> {
        // SAFETY: inside the packet and aligned, as `at` says; whoever calls reads plain bytes.
        self.at::<T>(offset).map(|start| unsafe { *start })
    }
}

/// A packet that a test or a tool holds: bytes at an even address.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a>(&'a [u16], usize);

impl<'a> Bytes<'a> {
    /// The first `len` bytes of these pairs of bytes.
    pub fn new(pairs: &'a [u16], len: usize) -> Self {
        Self(pairs, len.min(pairs.len() * 2))
    }
}

impl Frame for Bytes<'_> {
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() <= 2) };
        let end = offset.checked_add(size_of::<T>())?;
        if !offset.is_multiple_of(2) || end > self.1 {
            return None;
        }
        Some(self.0.as_ptr().cast::<u8>().wrapping_add(offset).cast::<T>().cast_mut())
    }

    fn len(&self) -> u32 {
        self.1 as u32
    }
}

/// An IPv4 header without options, as it stands in the packet, at an even address.
#[repr(C, packed(2))]
#[derive(Clone, Copy, Debug)]
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
        u16::from_be(field) & (V4_MORE | V4_OFFSET) != 0
    }

    /// The header's checksum, over a checksum field of 0.
    #[inline(always)]
    pub fn sum(&self) -> u16 {
        let sum = u64::from(u16::from_ne_bytes([self.version_ihl, self.tos]))
            + u64::from(self.total_len)
            + u64::from(self.id)
            + u64::from(self.fragment)
            + u64::from(u16::from_ne_bytes([self.ttl, self.proto]))
            + u64::from(self.src)
            + u64::from(self.dst);
        !checksum::fold16(checksum::fold32(sum))
    }
}

/// An IPv6 header as it stands in the packet, at an even address.
#[repr(C, packed(2))]
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Header {
    pub version_class_flow: [u8; 4],
    pub payload_len: u16,
    pub next_header: u8,
    pub hop_limit: u8,
    pub src: [u32; 4],
    pub dst: [u32; 4],
}

#[repr(C, packed(2))]
#[derive(Clone, Copy, Debug)]
struct FragmentHeader {
    next_header: u8,
    _reserved: u8,
    offset: u16,
    id: [u16; 2],
}

/// What part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// The whole.
    Whole = 0,
    /// The first fragment, which has the transport header.
    First = 1,
    /// A later one, without ports of its own.
    Later = 2,
}

/// What the programs need of a packet. Ports are in network byte order; for ICMP echo `sport` is
/// the identifier and `dport` the type and code.
///
/// Of an ICMP error the addresses and ports are those of the packet that *answers* the quoted
/// one: that packet's flow is the error's flow too. What the error itself is addressed from and to
/// stands in `outer_src` and `outer_dst`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Packet {
    pub src: Addr,
    pub dst: Addr,
    /// From the IP header to the transport header.
    pub header_len: u32,
    /// IANA number; of an ICMP error, that of the quoted packet.
    pub proto: u32,
    pub sport: u16,
    pub dport: u16,
    /// Type of service or traffic class.
    pub tos: u32,
    pub tcp_flags: u32,
    /// Length of the IP packet as its header says it, checked against the buffer.
    pub len: u32,
    /// Hop limit, or time to live.
    pub ttl: u32,
    /// Length of the TCP header in bytes, with options; 8 for UDP and ICMP.
    pub transport_len: u32,
    /// [`Fragment`].
    pub fragment: u32,
    /// The datagram's identification; only of a fragment.
    pub fragment_id: u32,
    /// IPv4: the sender forbids fragments.
    pub dont_fragment: u32,
    /// Not 0: an ICMP error. Then from the error's own IP header to the quoted one.
    pub quoted: u32,
    /// Of an error, the length of the quoted packet's IP header.
    pub quoted_header_len: u32,
    pub outer_src: Addr,
    pub outer_dst: Addr,
    /// Not 0: the packet is looked at only, nothing is to change.
    pub dry_run: u32,
    /// Of a packet that is too big, how large it may be.
    pub mtu: u32,
    /// What the difference between the packet's addresses and those of its flow's key adds to a
    /// checksum: an answer may carry either of its client's addresses.
    pub key_delta: u32,
    /// Where the programs keep an intermediate result while [`read_back`] forgets its origin.
    pub kept: u32,
}

impl Packet {
    #[inline(always)]
    pub fn is_closing(&self) -> bool {
        self.tcp_flags & (TCP_FIN | TCP_RST) != 0
    }

    #[inline(always)]
    pub fn is_fin(&self) -> bool {
        self.tcp_flags & TCP_FIN != 0
    }

    /// Whether its acknowledgement number counts.
    #[inline(always)]
    pub fn acknowledges(&self) -> bool {
        self.tcp_flags & TCP_ACK != 0
    }

    /// Of a TCP segment that begins at `sequence`, the number behind its data and its FIN.
    #[inline(always)]
    pub fn sequence_end(&self, sequence: u32) -> u32 {
        let data = self.len.wrapping_sub(self.header_len + self.transport_len);
        sequence.wrapping_add(data).wrapping_add(u32::from(self.is_fin()))
    }

    #[inline(always)]
    pub fn is_reset(&self) -> bool {
        self.tcp_flags & TCP_RST != 0
    }

    /// A connection is opened: SYN without ACK.
    #[inline(always)]
    pub fn is_opening(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// Either side's SYN: the segment that announces the largest segment.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.tcp_flags & TCP_SYN != 0
    }

    /// Whether its sender has seen what the other side sends: of TCP, an acknowledgement that is
    /// not the answer to a SYN; anything of another protocol.
    #[inline(always)]
    pub fn confirms(&self) -> bool {
        self.proto != TCP as u32 || self.tcp_flags & (TCP_SYN | TCP_RST | TCP_ACK) == TCP_ACK
    }

    #[inline(always)]
    pub fn is_tcp(&self) -> bool {
        self.proto == TCP as u32
    }

    #[inline(always)]
    pub fn is_error(&self) -> bool {
        self.quoted != 0
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

    /// As the flow table keys a packet that the tunnel of node `peer` brings, or, with
    /// [`crate::flow::OUTSIDE`], the uplink without a tunnel.
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

    /// What a tunnel over IPv6 writes into its flow label, 20 bits: paths and receive queues are
    /// chosen by it, and it is one for all packets of a flow (RFC 6438, 3). The finaliser of
    /// MurmurHash3.
    #[inline(always)]
    pub fn flow_label(&self) -> u32 {
        let ports = u32::from(self.sport) << 16 | u32::from(self.dport);
        let [.., src] = self.src.words();
        let [.., dst] = self.dst.words();
        let mut hash = src ^ dst.rotate_left(16) ^ ports;
        hash ^= hash >> 16;
        hash = hash.wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 13;
        hash = hash.wrapping_mul(0xc2b2_ae35);
        hash >> 12
    }

    /// From the IP header to the transport header, bounded for the verifier.
    #[inline(always)]
    pub fn transport_at(&self) -> usize {
        self.header_len as usize & HEADER_LEN_MASK
    }

    /// From the IP header of an error to the quoted one, bounded likewise.
    #[inline(always)]
    pub fn quote_at(&self) -> usize {
        self.quoted as usize & HEADER_LEN_MASK
    }

    /// From there to the quoted transport header.
    #[inline(always)]
    pub fn quoted_transport_at(&self) -> usize {
        self.quote_at() + (self.quoted_header_len as usize & 0x3c)
    }

    /// Bytes of the segments that this packet will be cut into, each with its headers.
    #[inline(always)]
    pub fn segment_len(&self, gso_size: u32) -> u32 {
        if gso_size == 0 { self.len } else { self.header_len + self.transport_len + gso_size }
    }
}

const fn echo_port(icmp_type: u8) -> u16 {
    u16::from_ne_bytes([icmp_type, 0])
}

/// Whether an IPv6 packet is for everybody on its link only, ff02::/16 (RFC 4291, 2.7).
#[inline(always)]
pub fn is_link_multicast(frame: &impl Frame) -> bool {
    const DESTINATION: usize = ETH_LEN + 24;
    frame.read::<u16>(DESTINATION) == Some(u16::from_ne_bytes([0xff, 0x02]))
}

/// Parses the IP packet at `l3` into `packet`.
///
/// Of a later fragment the ports stay 0: whoever calls knows them from the first.
///
/// # Errors
/// The packet is not one that the overlay carries.
#[inline(always)]
pub fn parse(
    frame: &impl Frame,
    l3: usize,
    is_v4: bool,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let available = frame.len().wrapping_sub(l3 as u32);
    (packet.tcp_flags, packet.fragment, packet.quoted) = (0, Fragment::Whole as u32, 0);
    (packet.sport, packet.dport, packet.transport_len) = (0, 0, UDP_LEN as u32);
    packet.key_delta = 0;
    let (proto, header_len) = if is_v4 {
        ipv4(frame, l3, available, packet)?
    } else {
        ipv6(frame, l3, available, packet)?
    };
    packet.proto = u32::from(proto);
    packet.header_len = header_len as u32;
    transport(frame, l3, is_v4, packet)
}

#[inline(always)]
fn ipv4(
    frame: &impl Frame,
    l3: usize,
    available: u32,
    packet: &mut Packet,
) -> Result<(u8, usize), DropReason> {
    let header = frame.at::<Ipv4Header>(l3).ok_or(DropReason::Truncated)?;
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
    let fragment = u16::from_be(header.fragment);
    if fragment & (V4_MORE | V4_OFFSET) != 0 {
        packet.fragment = part(fragment & V4_OFFSET == 0);
        packet.fragment_id = u32::from(header.id);
    }
    packet.dont_fragment = u32::from(fragment & V4_DONT_FRAGMENT != 0);
    packet.src = Addr::from_v4_word(header.src);
    packet.dst = Addr::from_v4_word(header.dst);
    packet.tos = u32::from(header.tos);
    packet.ttl = u32::from(header.ttl);
    packet.len = len;
    Ok((header.proto, header_len))
}

#[inline(always)]
fn part(is_first: bool) -> u32 {
    if is_first { Fragment::First as u32 } else { Fragment::Later as u32 }
}

#[inline(always)]
fn ipv6(
    frame: &impl Frame,
    l3: usize,
    available: u32,
    packet: &mut Packet,
) -> Result<(u8, usize), DropReason> {
    let header = frame.at::<Ipv6Header>(l3).ok_or(DropReason::Truncated)?;
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
    let (proto, header_len) = skip_extensions(frame, l3, header.next_header, packet)?;
    if (len as usize) < header_len {
        return Err(DropReason::ExtensionHeaders);
    }
    (packet.src, packet.dst) = (src, dst);
    packet.tos = u32::from(first << 4 | second >> 4);
    packet.ttl = u32::from(header.hop_limit);
    packet.dont_fragment = 1;
    packet.len = len;
    Ok((proto, header_len))
}

/// The first header that is no extension, and its distance from the IPv6 header. The headers of a
/// later fragment are looked through no further than to its fragment header.
#[inline(always)]
fn skip_extensions(
    frame: &impl Frame,
    l3: usize,
    first: u8,
    packet: &mut Packet,
) -> Result<(u8, usize), DropReason> {
    let (mut header, mut distance) = (first, IPV6_LEN);
    for _ in 0..limits::EXTENSION_HEADERS {
        match header {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                let Some([next, units]) = frame.read::<[u8; 2]>(l3 + distance) else {
                    return Err(DropReason::ExtensionHeaders);
                };
                header = next;
                distance += (usize::from(units) + 1) * 8;
            }
            FRAGMENT => {
                let Some(fragment) = frame.at::<FragmentHeader>(l3 + distance) else {
                    return Err(DropReason::ExtensionHeaders);
                };
                // SAFETY: inside the packet and aligned, as `at` says.
                let fragment = unsafe { &*fragment };
                let offset = u16::from_be(fragment.offset);
                header = fragment.next_header;
                distance += 8;
                // An "atomic" fragment is a whole packet (RFC 6946).
                if offset & (V6_OFFSET | V6_MORE) != 0 {
                    packet.fragment = part(offset & V6_OFFSET == 0);
                    let [high, low] = fragment.id;
                    packet.fragment_id = u32::from(high) | u32::from(low) << 16;
                    if offset & V6_OFFSET != 0 {
                        return Ok((header, distance));
                    }
                }
            }
            _ => return Ok((header, distance)),
        }
    }
    match header {
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT => Err(DropReason::ExtensionHeaders),
        _ => Ok((header, distance)),
    }
}

/// The longest distance from the IP header to the transport header: four extension headers of
/// 2048 bytes.
const HEADER_LEN_MASK: usize = 0x3fff;

#[inline(always)]
fn transport(
    frame: &impl Frame,
    l3: usize,
    is_v4: bool,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    // Read back from the map, so that it is any length to the verifier, and masked, so that it is
    // no longer than a packet.
    let header_len = read_back(&packet.header_len) as usize & HEADER_LEN_MASK;
    let proto = read_back(&packet.proto) as u8;
    if packet.fragment == Fragment::Later as u32 {
        return match proto {
            TCP | UDP => Ok(()),
            ICMP | ICMPV6 if is_v4 == (proto == ICMP) => Ok(()),
            _ => Err(DropReason::UnsupportedProtocol),
        };
    }
    let l4 = l3 + header_len;
    let payload = packet.len - header_len as u32;
    match proto {
        TCP => {
            let words: [u16; 7] = frame.read(l4).ok_or(DropReason::Truncated)?;
            let offset_flags = u16::from_be(words[6]);
            let transport_len = u32::from(offset_flags >> 12) * 4;
            if payload < 20 {
                return Err(DropReason::Truncated);
            }
            if transport_len < 20 || transport_len > payload {
                return Err(DropReason::BadHeader);
            }
            packet.tcp_flags = u32::from(offset_flags & 0xff);
            packet.transport_len = transport_len;
            (packet.sport, packet.dport) = (words[0], words[1]);
        }
        UDP => {
            if payload < UDP_LEN as u32 {
                return Err(DropReason::Truncated);
            }
            let ports: [u16; 4] = frame.read(l4).ok_or(DropReason::Truncated)?;
            (packet.sport, packet.dport) = (ports[0], ports[1]);
        }
        ICMP | ICMPV6 => {
            if payload < ICMP_LEN as u32 {
                return Err(DropReason::Truncated);
            }
            let words: [u16; 4] = frame.read(l4).ok_or(DropReason::Truncated)?;
            if is_v4 != (proto == ICMP) {
                return Err(DropReason::UnsupportedIcmp);
            }
            if is_echo(proto, words[0]) {
                (packet.sport, packet.dport) = (words[2], words[0]);
            } else if is_error(proto, words[0]) {
                if packet.fragment != Fragment::Whole as u32 {
                    return Err(DropReason::UnsupportedIcmp);
                }
                return quoted(frame, l3, header_len + ICMP_LEN, is_v4, packet);
            } else {
                return Err(DropReason::UnsupportedIcmp);
            }
        }
        _ => return Err(DropReason::UnsupportedProtocol),
    }
    Ok(())
}

/// Type and code as they stand in the packet.
#[inline(always)]
fn is_echo(proto: u8, type_and_code: u16) -> bool {
    let (request, reply) = if proto == ICMP {
        (echo_port(ICMP_ECHO), echo_port(ICMP_ECHO_REPLY))
    } else {
        (echo_port(ICMPV6_ECHO), echo_port(ICMPV6_ECHO_REPLY))
    };
    type_and_code == request || type_and_code == reply
}

/// Destination unreachable, time exceeded, parameter problem; of ICMPv6 packet too big as well
/// (RFC 792; RFC 4443, 3). Source quench and redirect are not forwarded (RFC 6633; RFC 1812, 5.2.7.2).
#[inline(always)]
fn is_error(proto: u8, type_and_code: u16) -> bool {
    let [icmp_type, _] = type_and_code.to_ne_bytes();
    if proto == ICMP { matches!(icmp_type, 3 | 11 | 12) } else { (1..=4).contains(&icmp_type) }
}

/// Reads the packet that an ICMP error quotes, and turns it round.
#[inline(always)]
fn quoted(
    frame: &impl Frame,
    l3: usize,
    distance: usize,
    is_v4: bool,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let inner = l3 + distance;
    (packet.outer_src, packet.outer_dst) = (packet.src, packet.dst);
    let (proto, header_len) = if is_v4 {
        let header = frame.at::<Ipv4Header>(inner).ok_or(DropReason::BadQuote)?;
        // SAFETY: inside the packet and aligned, as `at` says.
        let header = unsafe { &*header };
        let header_len = usize::from(header.version_ihl & 0x0f) * 4;
        if header.version_ihl >> 4 != 4
            || header_len < IPV4_LEN
            || u16::from_be(header.fragment) & V4_OFFSET != 0
        {
            return Err(DropReason::BadQuote);
        }
        packet.src = Addr::from_v4_word(header.dst);
        packet.dst = Addr::from_v4_word(header.src);
        (header.proto, header_len)
    } else {
        let header = frame.at::<Ipv6Header>(inner).ok_or(DropReason::BadQuote)?;
        // SAFETY: inside the packet and aligned, as `at` says.
        let header = unsafe { &*header };
        let [first, ..] = header.version_class_flow;
        let (src, dst) = (Addr::from_words(header.src), Addr::from_words(header.dst));
        if first >> 4 != 6 || src.is_v4() || dst.is_v4() {
            return Err(DropReason::BadQuote);
        }
        (packet.src, packet.dst) = (dst, src);
        // What was quoted with extension headers is not looked through.
        (header.next_header, IPV6_LEN)
    };
    packet.quoted = distance as u32;
    packet.quoted_header_len = header_len as u32;
    packet.proto = u32::from(proto);
    let l4 = l3
        + (read_back(&packet.quoted) as usize & HEADER_LEN_MASK)
        + (read_back(&packet.quoted_header_len) as usize & 0x3c);
    let words: [u16; 4] = frame.read(l4).ok_or(DropReason::BadQuote)?;
    match proto {
        TCP | UDP => (packet.sport, packet.dport) = (words[1], words[0]),
        ICMP | ICMPV6 if is_v4 == (proto == ICMP) && is_echo(proto, words[0]) => {
            packet.sport = words[2];
            packet.dport = answered(proto, words[0]);
        }
        _ => return Err(DropReason::BadQuote),
    }
    Ok(())
}

/// The other of echo and echo reply.
#[inline(always)]
fn answered(proto: u8, type_and_code: u16) -> u16 {
    let (request, reply) = if proto == ICMP {
        (echo_port(ICMP_ECHO), echo_port(ICMP_ECHO_REPLY))
    } else {
        (echo_port(ICMPV6_ECHO), echo_port(ICMPV6_ECHO_REPLY))
    };
    if type_and_code == request { reply } else { request }
}

/// The value as if somebody else had written it: the compiler and the verifier forget where it
/// came from, so that what follows is looked at once and not once for each way that leads there.
#[inline(always)]
pub fn read_back(value: &u32) -> u32 {
    // SAFETY: a reference is valid; volatile keeps the compiler from using what it just wrote.
    unsafe { core::ptr::read_volatile(value) }
}

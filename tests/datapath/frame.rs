//! Frames put together by hand: what a builder of well-formed packets does not offer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net_common::packet::{ICMP, ICMPV6, IPV4_LEN, IPV6_LEN, TCP, UDP};

use crate::{
    harness::{NODE_IP, TUNNEL_PORT},
    packets::{ETH_LEN, MACS, TUNNEL_LEN, sum},
    world::NODE_IP6,
};

/// Transports that are balanced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proto {
    Tcp,
    Udp,
    Echo,
}

pub const PROTOS: [Proto; 3] = [Proto::Tcp, Proto::Udp, Proto::Echo];

/// An address and a port; of echo, the identifier.
pub type End = (IpAddr, u16);

/// An IP packet of any protocol in a frame: no options, a hop limit of 64, right checksums.
pub fn frame(src: IpAddr, dst: IpAddr, proto: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = [MACS.1, MACS.0].concat();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(((IPV4_LEN + payload.len()) as u16).to_be_bytes());
            frame.extend([0, 0, 0x40, 0, 64, proto, 0, 0]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((payload.len() as u16).to_be_bytes());
            frame.extend([proto, 64]);
            frame.extend(src.octets());
            frame.extend(dst.octets());
        }
        (src, dst) => panic!("{src} and {dst} are of two families"),
    }
    frame.extend_from_slice(payload);
    summed(frame)
}

pub fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == [0x08, 0x00]
}

/// Where the transport header of a frame without extension headers is, and its protocol.
pub fn transport(frame: &[u8]) -> (usize, u8) {
    if is_v4(frame) {
        (ETH_LEN + usize::from(frame[ETH_LEN] & 0xf) * 4, frame[ETH_LEN + 9])
    } else {
        (ETH_LEN + IPV6_LEN, frame[ETH_LEN + 6])
    }
}

/// Where the checksum of a transport header is.
fn checksum_at(proto: u8) -> Option<usize> {
    match proto {
        TCP => Some(16),
        UDP => Some(6),
        ICMP | ICMPV6 => Some(2),
        _ => None,
    }
}

/// Gives a frame right checksums, of the IP header and of the transport.
pub fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    let (at, proto) = transport(&frame);
    if is_v4(&frame) {
        frame[ETH_LEN + 10..ETH_LEN + 12].fill(0);
        let header = sum(&frame[ETH_LEN..at]);
        frame[ETH_LEN + 10..ETH_LEN + 12].copy_from_slice(&header.to_be_bytes());
    }
    let Some(field) = checksum_at(proto).map(|offset| at + offset) else { return frame };
    if frame.len() < field + 2 {
        return frame;
    }
    frame[field..field + 2].fill(0);
    let mut bytes = Vec::new();
    if proto != ICMP {
        let addresses = if is_v4(&frame) { ETH_LEN + 12..ETH_LEN + 20 } else { 22..54 };
        bytes.extend_from_slice(&frame[addresses]);
        bytes.extend(((frame.len() - at) as u32).to_be_bytes());
        bytes.extend([0, 0, 0, proto]);
    }
    bytes.extend_from_slice(&frame[at..]);
    let mut total = sum(&bytes);
    if proto == UDP && total == 0 {
        total = 0xffff;
    }
    frame[field..field + 2].copy_from_slice(&total.to_be_bytes());
    frame
}

/// What a client sends first. Of TCP a SYN.
pub fn question(proto: Proto, src: End, dst: End) -> Vec<u8> {
    match proto {
        Proto::Tcp => segment(src, dst, (1000, 0), 0x02, b""),
        Proto::Udp => datagram(src, dst, b"question"),
        Proto::Echo => echo(true, src.0, dst.0, src.1),
    }
}

/// What a server answers to [`question`]. Of TCP a SYN and ACK.
pub fn answer(proto: Proto, src: End, dst: End) -> Vec<u8> {
    match proto {
        Proto::Tcp => segment(src, dst, (7000, 1001), 0x12, b""),
        Proto::Udp => datagram(src, dst, b"an answer"),
        Proto::Echo => echo(false, src.0, dst.0, dst.1),
    }
}

/// What a client sends when it has had the answer.
pub fn further(proto: Proto, src: End, dst: End) -> Vec<u8> {
    match proto {
        Proto::Tcp => segment(src, dst, (1001, 7001), 0x10, b"data"),
        _ => question(proto, src, dst),
    }
}

pub fn datagram(src: End, dst: End, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() + 8) as u16;
    let mut bytes = [src.1.to_be_bytes(), dst.1.to_be_bytes(), len.to_be_bytes(), [0, 0]].concat();
    bytes.extend_from_slice(payload);
    frame(src.0, dst.0, UDP, &bytes)
}

pub fn segment(src: End, dst: End, (seq, ack): (u32, u32), flags: u8, payload: &[u8]) -> Vec<u8> {
    segment_with_options(src, dst, (seq, ack), flags, &[], payload)
}

pub fn segment_with_options(
    src: End,
    dst: End,
    (seq, ack): (u32, u32),
    flags: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    assert!(options.len().is_multiple_of(4));
    let mut bytes = [src.1.to_be_bytes(), dst.1.to_be_bytes()].concat();
    bytes.extend(seq.to_be_bytes());
    bytes.extend(ack.to_be_bytes());
    bytes.extend([((20 + options.len()) as u8) << 2, flags, 0xfa, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(options);
    bytes.extend_from_slice(payload);
    frame(src.0, dst.0, TCP, &bytes)
}

/// A ping or its answer.
pub fn echo(is_request: bool, src: IpAddr, dst: IpAddr, id: u16) -> Vec<u8> {
    let (proto, icmp_type) = match (src, is_request) {
        (IpAddr::V4(_), true) => (ICMP, 8),
        (IpAddr::V4(_), false) => (ICMP, 0),
        (IpAddr::V6(_), true) => (ICMPV6, 128),
        (IpAddr::V6(_), false) => (ICMPV6, 129),
    };
    let [high, low] = id.to_be_bytes();
    frame(src, dst, proto, &[&[icmp_type, 0, 0, 0, high, low, 0, 1][..], b"ping"].concat())
}

/// An ICMP error: type and code, the four bytes behind the checksum, and what it quotes, which is
/// the beginning of the IP packet of a frame.
pub fn error(
    src: IpAddr,
    dst: IpAddr,
    type_and_code: [u8; 2],
    rest: [u8; 4],
    quoted: &[u8],
) -> Vec<u8> {
    let proto = if src.is_ipv4() { ICMP } else { ICMPV6 };
    let head = [&type_and_code[..], &[0, 0], &rest, quoted].concat();
    frame(src, dst, proto, &head)
}

/// The first bytes of a frame's IP packet, as an error quotes them: its header and `transport`
/// bytes behind.
pub fn quote(of: &[u8], transport_bytes: usize) -> Vec<u8> {
    let (at, _) = transport(of);
    of[ETH_LEN..of.len().min(at + transport_bytes)].to_vec()
}

/// As [`quote`], with the transport's checksum of another frame: it is not translated.
pub fn quote_summed_as(of: &[u8], summed_as: &[u8], transport_bytes: usize) -> Vec<u8> {
    let (at, proto) = transport(of);
    let (other_at, _) = transport(summed_as);
    let mut of = of.to_vec();
    if let Some(field) = checksum_at(proto) {
        let sum = &summed_as[other_at + field..other_at + field + 2];
        of[at + field..at + field + 2].copy_from_slice(sum);
    }
    quote(&of, transport_bytes)
}

/// The frame as this node sends it through the tunnel to a peer.
pub fn encapsulated(to: Ipv4Addr, inner: &[u8]) -> Vec<u8> {
    let packet = &inner[ETH_LEN..];
    let tos = if is_v4(inner) { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
    let mut bytes = [TUNNEL_PORT.to_be_bytes(), TUNNEL_PORT.to_be_bytes()].concat();
    bytes.extend(((8 + packet.len()) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend_from_slice(packet);
    let mut outer = frame(NODE_IP.into(), to.into(), UDP, &bytes);
    outer[ETH_LEN + 1] = tos;
    let mut outer = summed(outer);
    outer[ETH_LEN + 26..ETH_LEN + TUNNEL_LEN].fill(0);
    outer
}

/// As [`encapsulated`], over IPv6, from [`NODE_IP6`], of a packet that was sent as `sent`.
pub fn encapsulated_v6(to: Ipv6Addr, sent: &[u8], inner: &[u8]) -> Vec<u8> {
    let packet = &inner[ETH_LEN..];
    let parsed = crate::opinion::parse(sent, ETH_LEN, is_v4(sent)).expect("a good packet");
    let mut bytes = [TUNNEL_PORT.to_be_bytes(), TUNNEL_PORT.to_be_bytes()].concat();
    bytes.extend(((8 + packet.len()) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend_from_slice(packet);
    let mut outer = frame(NODE_IP6.into(), to.into(), UDP, &bytes);
    let first = 6 << 28 | parsed.tos << 20 | parsed.flow_label();
    outer[ETH_LEN..ETH_LEN + 4].copy_from_slice(&first.to_be_bytes());
    outer[ETH_LEN + 40 + 6..ETH_LEN + 48].fill(0);
    outer
}

/// The frame with one hop less to live, as a router sends it on.
pub fn forwarded(mut frame: Vec<u8>) -> Vec<u8> {
    if is_v4(&frame) {
        frame[ETH_LEN + 8] -= 1;
        crate::packets::with_header_checksum(frame)
    } else {
        frame[ETH_LEN + 7] -= 1;
        frame
    }
}

pub fn with_ttl(mut frame: Vec<u8>, ttl: u8) -> Vec<u8> {
    let at = if is_v4(&frame) { 8 } else { 7 };
    frame[ETH_LEN + at] = ttl;
    if is_v4(&frame) { crate::packets::with_header_checksum(frame) } else { frame }
}

/// A reset as the programs send it: no window.
pub fn reset(src: End, dst: End, numbers: (u32, u32), flags: u8) -> Vec<u8> {
    let mut frame = segment(src, dst, numbers, flags, b"");
    let (at, _) = transport(&frame);
    frame[at + 14..at + 16].fill(0);
    summed(frame)
}

//! Packets as bytes, with right checksums, and what a receiver makes of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpHeaders, IpNumber, NetSlice, PacketBuilder,
    PacketBuilderStep, SlicedPacket, TransportSlice,
};

use crate::harness::{NODE_IP, PEER_IP, TUNNEL_PORT};

pub const ETH_LEN: usize = 14;
pub const TUNNEL_LEN: usize = 28;

pub const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

/// TCP flags of a test's packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flags {
    pub syn: bool,
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
}

pub const SYN: Flags = Flags { syn: true, ack: false, fin: false, rst: false };
pub const SYN_ACK: Flags = Flags { syn: true, ack: true, fin: false, rst: false };
pub const ACK: Flags = Flags { syn: false, ack: true, fin: false, rst: false };
pub const FIN: Flags = Flags { syn: false, ack: true, fin: true, rst: false };
pub const RST: Flags = Flags { syn: false, ack: false, fin: false, rst: true };

/// The headers below the transport. Both addresses are of one family.
fn network(src: impl Into<IpAddr>, dst: impl Into<IpAddr>) -> PacketBuilderStep<IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(MACS.0, MACS.1);
    match (src.into(), dst.into()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), 64),
        (src, dst) => panic!("{src} and {dst} are of two families"),
    }
}

pub fn tcp(
    (src, sport): (impl Into<IpAddr>, u16),
    (dst, dport): (impl Into<IpAddr>, u16),
    flags: Flags,
    payload: &[u8],
) -> Vec<u8> {
    let mut builder = network(src, dst).tcp(sport, dport, 1, 65_000);
    if flags.syn {
        builder = builder.syn();
    }
    if flags.ack {
        builder = builder.ack(1);
    }
    if flags.fin {
        builder = builder.fin();
    }
    if flags.rst {
        builder = builder.rst();
    }
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).expect("memory takes it");
    packet
}

pub fn udp(
    (src, sport): (impl Into<IpAddr>, u16),
    (dst, dport): (impl Into<IpAddr>, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    network(src, dst).udp(sport, dport).write(&mut packet, payload).expect("memory takes it");
    packet
}

pub fn echo_request(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Vec<u8> {
    icmp(src, dst, Icmpv4Type::EchoRequest(IcmpEchoHeader { id, seq: 1 }))
}

pub fn echo_reply(src: Ipv4Addr, dst: Ipv4Addr, id: u16) -> Vec<u8> {
    icmp(src, dst, Icmpv4Type::EchoReply(IcmpEchoHeader { id, seq: 1 }))
}

pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: Icmpv4Type) -> Vec<u8> {
    let mut packet = Vec::new();
    network(src, dst).icmpv4(kind).write(&mut packet, b"ping").expect("memory takes it");
    packet
}

pub fn icmpv6(src: Ipv6Addr, dst: Ipv6Addr, kind: Icmpv6Type) -> Vec<u8> {
    let mut packet = Vec::new();
    network(src, dst).icmpv6(kind).write(&mut packet, b"ping").expect("memory takes it");
    packet
}

/// Any IP protocol, with a payload of zeros.
pub fn ip(src: impl Into<IpAddr>, dst: impl Into<IpAddr>, proto: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    network(src, dst).write(&mut packet, IpNumber(proto), &[0; 32]).expect("memory takes it");
    packet
}

/// The frame's IP packet in a tunnel packet from [`PEER_IP`] to [`NODE_IP`].
pub fn tunnelled(frame: &[u8]) -> Vec<u8> {
    tunnelled_from((PEER_IP, TUNNEL_PORT), frame)
}

pub fn tunnelled_from(sender: (Ipv4Addr, u16), frame: &[u8]) -> Vec<u8> {
    udp(sender, (NODE_IP, TUNNEL_PORT), &frame[ETH_LEN..])
}

/// Replaces bytes of a packet.
pub fn patched(mut packet: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
    packet[offset..offset + bytes.len()].copy_from_slice(bytes);
    packet
}

/// Gives the IPv4 header of a frame a right checksum again.
pub fn with_header_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    let ihl = usize::from(packet[ETH_LEN] & 0xf) * 4;
    packet[ETH_LEN + 10..ETH_LEN + 12].fill(0);
    let sum = sum(&packet[ETH_LEN..ETH_LEN + ihl]);
    packet[ETH_LEN + 10..ETH_LEN + 12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Addresses and ports of a packet whose every checksum has been found right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen<A = Ipv4Addr> {
    pub src: (A, u16),
    pub dst: (A, u16),
}

/// What a receiver of an IPv4 packet sees. Panics on a wrong checksum, as a receiver would drop
/// the packet. For ICMP echo the ports are the identifier.
#[track_caller]
pub fn seen(frame: &[u8]) -> Seen {
    match received(frame) {
        Seen { src: (IpAddr::V4(src), sport), dst: (IpAddr::V4(dst), dport) } => {
            Seen { src: (src, sport), dst: (dst, dport) }
        }
        other => panic!("not IPv4: {other:?}"),
    }
}

/// As [`seen`], of an IPv6 packet.
#[track_caller]
pub fn seen_v6(frame: &[u8]) -> Seen<Ipv6Addr> {
    match received(frame) {
        Seen { src: (IpAddr::V6(src), sport), dst: (IpAddr::V6(dst), dport) } => {
            Seen { src: (src, sport), dst: (dst, dport) }
        }
        other => panic!("not IPv6: {other:?}"),
    }
}

#[track_caller]
fn received(frame: &[u8]) -> Seen<IpAddr> {
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed packet");
    let (src, dst, payload): (IpAddr, IpAddr, _) = match &packet.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            let sum = header.calc_header_checksum();
            assert_eq!(header.header_checksum, sum, "IP header checksum");
            (
                Ipv4Addr::from(header.source).into(),
                Ipv4Addr::from(header.destination).into(),
                ip.payload().payload,
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), ip.payload().payload)
        }
        _ => panic!("not IP: {packet:?}"),
    };
    // The pseudo-header (RFC 793, RFC 8200 8.1) and everything behind the IP header.
    let transport_sum = |proto: u8| {
        let mut bytes = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
            (IpAddr::V6(src), IpAddr::V6(dst)) => [src.octets(), dst.octets()].concat(),
            _ => unreachable!("of one header"),
        };
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, proto]);
        bytes.extend(payload);
        sum(&bytes)
    };
    let (sport, dport) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(transport_sum(6), 0, "TCP checksum");
            (tcp.source_port(), tcp.destination_port())
        }
        Some(TransportSlice::Udp(udp)) => {
            if udp.checksum() != 0 {
                assert_eq!(transport_sum(17), 0, "UDP checksum");
            }
            (udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Icmpv4(_)) => {
            assert_eq!(sum(payload), 0, "ICMP checksum");
            let id = u16::from_be_bytes([payload[4], payload[5]]);
            (id, id)
        }
        Some(TransportSlice::Icmpv6(_)) => {
            assert_eq!(transport_sum(58), 0, "ICMPv6 checksum");
            let id = u16::from_be_bytes([payload[4], payload[5]]);
            (id, id)
        }
        other => panic!("no transport header: {other:?}"),
    };
    Seen { src: (src, sport), dst: (dst, dport) }
}

/// The Internet checksum (RFC 1071): 0 over bytes that carry their right checksum.
pub fn sum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Checks the outer headers and returns the tunnel's ends and the inner packet as a frame.
#[track_caller]
pub fn unwrapped(frame: &[u8]) -> (Seen, Vec<u8>) {
    let outer = seen(frame);
    let mut inner = frame[..ETH_LEN - 2].to_vec();
    let packet = &frame[ETH_LEN + TUNNEL_LEN..];
    inner.extend(if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    inner.extend_from_slice(packet);
    (outer, inner)
}

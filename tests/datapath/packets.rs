//! Packets as bytes, with right checksums, and what a receiver makes of them.

use std::net::Ipv4Addr;

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, IpNumber, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};

use crate::harness::{NODE_IP, PEER_IP, TUNNEL_PORT};

pub const ETH_LEN: usize = 14;
pub const TUNNEL_LEN: usize = 28;

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

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

pub fn tcp(
    (src, sport): (Ipv4Addr, u16),
    (dst, dport): (Ipv4Addr, u16),
    flags: Flags,
    payload: &[u8],
) -> Vec<u8> {
    let mut builder = PacketBuilder::ethernet2(MACS.0, MACS.1)
        .ipv4(src.octets(), dst.octets(), 64)
        .tcp(sport, dport, 1, 65_000);
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
    (src, sport): (Ipv4Addr, u16),
    (dst, dport): (Ipv4Addr, u16),
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(MACS.0, MACS.1)
        .ipv4(src.octets(), dst.octets(), 64)
        .udp(sport, dport)
        .write(&mut packet, payload)
        .expect("memory takes it");
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
    PacketBuilder::ethernet2(MACS.0, MACS.1)
        .ipv4(src.octets(), dst.octets(), 64)
        .icmpv4(kind)
        .write(&mut packet, b"ping")
        .expect("memory takes it");
    packet
}

/// Any IP protocol, with a payload of zeros.
pub fn ip(src: Ipv4Addr, dst: Ipv4Addr, proto: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ethernet2(MACS.0, MACS.1)
        .ipv4(src.octets(), dst.octets(), 64)
        .write(&mut packet, IpNumber(proto), &[0; 32])
        .expect("memory takes it");
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
    let sum: u32 = packet[ETH_LEN..ETH_LEN + ihl]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[ETH_LEN + 10..ETH_LEN + 12].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Addresses and ports of a packet whose every checksum has been found right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    pub src: (Ipv4Addr, u16),
    pub dst: (Ipv4Addr, u16),
}

/// What a receiver sees. Panics on a wrong checksum, as a receiver would drop the packet. For
/// ICMP echo the ports are the identifier.
#[track_caller]
pub fn seen(frame: &[u8]) -> Seen {
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed packet");
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { panic!("not IPv4: {packet:?}") };
    let header = ip.header().to_header();
    assert_eq!(header.header_checksum, header.calc_header_checksum(), "IP header checksum");
    let payload = ip.payload().payload;
    let (sport, dport) = match &packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let expected = tcp.calc_checksum_ipv4(header.source, header.destination);
            assert_eq!(Ok(tcp.checksum()), expected, "TCP checksum");
            (tcp.source_port(), tcp.destination_port())
        }
        Some(TransportSlice::Udp(udp)) => {
            if udp.checksum() != 0 {
                let expected = udp.to_header().calc_checksum_ipv4_raw(
                    header.source,
                    header.destination,
                    udp.payload(),
                );
                assert_eq!(Ok(udp.checksum()), expected, "UDP checksum");
            }
            (udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let id = u16::from_be_bytes([payload[4], payload[5]]);
            let expected = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(icmp.checksum(), expected, "ICMP checksum");
            (id, id)
        }
        other => panic!("no transport header: {other:?}"),
    };
    Seen { src: (header.source.into(), sport), dst: (header.destination.into(), dport) }
}

/// Checks the outer headers and returns the tunnel's ends and the inner packet as a frame.
#[track_caller]
pub fn unwrapped(frame: &[u8]) -> (Seen, Vec<u8>) {
    let outer = seen(frame);
    let mut inner = frame[..ETH_LEN].to_vec();
    inner.extend_from_slice(&frame[ETH_LEN + TUNNEL_LEN..]);
    (outer, inner)
}

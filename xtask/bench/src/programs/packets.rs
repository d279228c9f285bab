//! The packets that the programs are run on.

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;

/// The node that packets come to by the tunnel.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const TUNNEL_PORT: u16 = 50103;

pub(super) const ETH_LEN: usize = 14;

/// The 64 bytes of the floods.
const PAYLOAD: [u8; 64] = [7; 64];

#[derive(Clone, Copy)]
pub(super) enum Segment {
    Syn,
    SynAck,
    Ack,
}

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

pub(super) fn udp((src, sport): (Ipv4Addr, u16), (dst, dport): (Ipv4Addr, u16)) -> Vec<u8> {
    udp_with((src, sport), (dst, dport), &PAYLOAD)
}

fn udp_with(
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

pub(super) fn tcp(
    (src, sport): (Ipv4Addr, u16),
    (dst, dport): (Ipv4Addr, u16),
    segment: Segment,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(MACS.0, MACS.1)
        .ipv4(src.octets(), dst.octets(), 64)
        .tcp(sport, dport, 1, 65_000);
    let (builder, payload) = match segment {
        Segment::Syn => (builder.syn(), &[][..]),
        Segment::SynAck => (builder.syn().ack(1), &[][..]),
        Segment::Ack => (builder.ack(1), &PAYLOAD[..]),
    };
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).expect("memory takes it");
    packet
}

/// The frame's IP packet in the tunnel from `sender`.
pub(super) fn tunnelled(sender: Ipv4Addr, frame: &[u8]) -> Vec<u8> {
    udp_with((sender, TUNNEL_PORT), (NODE, TUNNEL_PORT), &frame[ETH_LEN..])
}

pub(super) fn patched(packet: &[u8], at: usize, bytes: [u8; 2]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at..at + 2].copy_from_slice(&bytes);
    packet
}

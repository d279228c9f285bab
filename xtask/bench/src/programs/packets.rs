//! The packets that the programs are run on.

use std::net::{IpAddr, Ipv4Addr};

use etherparse::{IpHeaders, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep, ip_number};

/// The node that packets come to by the tunnel.
pub(super) const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(super) const TUNNEL_PORT: u16 = 50103;

pub(super) const ETH_LEN: usize = 14;

/// The 64 bytes of the floods.
const PAYLOAD: [u8; 64] = [7; 64];

/// An address and a port.
pub(super) type End = (IpAddr, u16);

#[derive(Clone, Copy)]
pub(super) enum Segment {
    Syn,
    SynAck,
    Ack,
}

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
const HOP_LIMIT: u8 = 64;

pub(super) fn udp(src: End, dst: End) -> Vec<u8> {
    udp_with(src, dst, &PAYLOAD)
}

fn udp_with(src: End, dst: End, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ip(src.0, dst.0).udp(src.1, dst.1).write(&mut packet, payload).expect("memory takes it");
    packet
}

pub(super) fn tcp(src: End, dst: End, segment: Segment) -> Vec<u8> {
    let builder = ip(src.0, dst.0).tcp(src.1, dst.1, 1, 65_000);
    let (builder, payload) = match segment {
        Segment::Syn => (builder.syn(), &[][..]),
        Segment::SynAck => (builder.syn().ack(1), &[][..]),
        Segment::Ack => (builder.ack(1), &PAYLOAD[..]),
    };
    let mut packet = Vec::new();
    builder.write(&mut packet, payload).expect("memory takes it");
    packet
}

/// Length and protocol are filled in when it is written.
fn ip(src: IpAddr, dst: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let headers = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = Ipv4Header::new(0, HOP_LIMIT, ip_number::UDP, src.octets(), dst.octets());
            IpHeaders::Ipv4(header.expect("nothing is too long"), Default::default())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = Ipv6Header {
                hop_limit: HOP_LIMIT,
                source: src.octets(),
                destination: dst.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(header, Default::default())
        }
        (src, dst) => unreachable!("{src} and {dst} are of two families"),
    };
    PacketBuilder::ethernet2(MACS.0, MACS.1).ip(headers)
}

/// The frame's IP packet in the tunnel from `sender`.
pub(super) fn tunnelled(sender: Ipv4Addr, frame: &[u8]) -> Vec<u8> {
    udp_with((sender.into(), TUNNEL_PORT), (NODE.into(), TUNNEL_PORT), &frame[ETH_LEN..])
}

pub(super) fn patched(packet: &[u8], at: usize, bytes: [u8; 2]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[at..at + 2].copy_from_slice(&bytes);
    packet
}

//! The packet as the instance would send it.

use std::net::IpAddr;

use anyhow::Context;
use etherparse::{PacketBuilder, PacketBuilderStep};

use super::Proto;
use crate::failure::Usage;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TTL: u8 = 64;
const WINDOW: u16 = 64_240;

/// An Ethernet frame: a SYN, a datagram or an echo request.
///
/// # Errors
/// The addresses are of two families.
pub(super) fn build(
    proto: Proto,
    (src, sport): (IpAddr, u16),
    (dst, dport): (IpAddr, u16),
) -> anyhow::Result<Vec<u8>> {
    let ethernet = PacketBuilder::ethernet2(MAC, MAC);
    let ip: PacketBuilderStep<_> = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), TTL),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), TTL),
        _ => return Err(Usage(format!("{src} and {dst} are of two families")).into()),
    };
    let mut frame = Vec::new();
    let payload = b"xylem net explain";
    let written = match proto {
        Proto::Tcp => ip.tcp(sport, dport, 1, WINDOW).syn().write(&mut frame, &[]),
        Proto::Udp => ip.udp(sport, dport).write(&mut frame, payload),
        Proto::Icmp if src.is_ipv4() => ip.icmpv4_echo_request(sport, 1).write(&mut frame, payload),
        Proto::Icmp => ip.icmpv6_echo_request(sport, 1).write(&mut frame, payload),
    };
    written.context("cannot put the packet together")?;
    Ok(frame)
}

//! What the underlay's routers say of tunnel packets that are too large.

use aya_ebpf::programs::TcContext;
use net_common::{
    Addr, Config, EventKind, PeerKey,
    flow::from_node,
    packet::{ETH_LEN, ICMP_LEN, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, UDP},
};

use crate::{
    event,
    maps::PEERS,
    packet::{at, read},
    tunnel::UdpHeader,
};

/// A router cannot forward a tunnel packet that is too large (RFC 1191): user space notes how large
/// one to that peer may be. The kernel's own stack sees the packet as well.
#[inline(always)]
pub fn learn(ctx: &TcContext, config: &Config) {
    const QUOTE: usize = ETH_LEN + IPV4_LEN + ICMP_LEN;
    let Some(icmp) = at::<[u16; 4]>(ctx, ETH_LEN + IPV4_LEN) else { return };
    // SAFETY: inside the packet and aligned, as `at` says.
    let (type_and_code, mtu) = unsafe { ((*icmp)[0], (*icmp)[3]) };
    if type_and_code != u16::from_ne_bytes([3, 4]) {
        return;
    }
    let Some(quote) = at::<Ipv4Header>(ctx, QUOTE) else { return };
    // SAFETY: as above.
    let quote = unsafe { &*quote };
    if quote.version_ihl != 0x45 || quote.proto != UDP || quote.src != config.node_addr.v4_word() {
        return;
    }
    let to = quote.dst;
    let Some(udp) = read::<UdpHeader>(ctx, QUOTE + IPV4_LEN) else { return };
    if udp.sport != config.tunnel_port {
        return;
    }
    tell(&PeerKey { addr: Addr::from_v4_word(to), port: udp.dport, _pad: 0 }, mtu);
}

/// As [`learn`], over IPv6 (RFC 8201).
#[inline(always)]
pub fn learn_v6(ctx: &TcContext, config: &Config) {
    const QUOTE: usize = ETH_LEN + IPV6_LEN + ICMP_LEN;
    let Some(icmp) = at::<[u16; 4]>(ctx, ETH_LEN + IPV6_LEN) else { return };
    // SAFETY: inside the packet and aligned, as `at` says.
    let (type_and_code, mtu) = unsafe { ((*icmp)[0], (*icmp)[3]) };
    if type_and_code != u16::from_ne_bytes([2, 0]) {
        return;
    }
    let Some(quote) = at::<Ipv6Header>(ctx, QUOTE) else { return };
    // SAFETY: as above.
    let quote = unsafe { &*quote };
    if quote.next_header != UDP || Addr::from_words(quote.src) != config.node_addr_v6 {
        return;
    }
    let to = Addr::from_words(quote.dst);
    let Some(udp) = read::<UdpHeader>(ctx, QUOTE + IPV6_LEN) else { return };
    if udp.sport == config.tunnel_port {
        tell(&PeerKey { addr: to, port: udp.dport, _pad: 0 }, mtu);
    }
}

#[inline(never)]
fn tell(peer: &PeerKey, mtu: u16) {
    // SAFETY: read at once.
    let Some(node) = (unsafe { PEERS.get(peer) }) else { return };
    let node = *node;
    if event::is_within_budget(from_node(0)) {
        event::send(EventKind::PathMtu, |event| {
            event.src = peer.addr;
            event.sport = peer.port;
            event.packet_len = u32::from(u16::from_be(mtu));
            event.value = node;
        });
    }
}

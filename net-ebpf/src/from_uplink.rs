//! What arrives by the uplink: tunnel packets of known peers, and packets to published ports.

use aya_ebpf::programs::TcContext;
use net_common::{
    Addr, Config, DropReason, EventKind, Flow, FlowKey, NodeKind, Packet, PeerKey, Policy,
    ProgramCounter,
    flow::{OUTSIDE, from_node},
    packet::{
        ETH_LEN, ETH_P_IP, ETH_P_IPV6, ICMP, ICMPV6, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header,
        TUNNEL_LEN, TUNNEL_LEN_V6, UDP,
    },
};

use crate::{
    early, event,
    flow::{self, Found},
    maps::{CONFIG, ENDPOINTS, INSTANCES, NODES, PEERS, SERVICES},
    outside,
    packet::{self, Keys, at, ethertype, keys, read},
    path_mtu, place, probe, rewrite,
    tunnel::{self, UdpHeader},
    verdict::{Verdict, count, pass},
};

#[inline(always)]
pub fn run(ctx: &TcContext) -> Result<Verdict, DropReason> {
    if let Some(ifindex) = early::noted(ctx) {
        count(ProgramCounter::Delivered, ctx.len() - ETH_LEN as u32);
        return Ok(Verdict::Redirect(crate::into_instance(ifindex)));
    }
    let Some(config) = CONFIG.get(0) else { return pass(ctx) };
    let is_v4 = match ethertype(ctx) {
        ETH_P_IP => true,
        ETH_P_IPV6 if !config.node_addr_v6.is_unspecified() => false,
        _ => return pass(ctx),
    };
    packet::pull_tunnelled_headers(ctx, is_v4);
    let arrival = if is_v4 { arrived(ctx, config)? } else { arrived_v6(ctx, config)? };
    match arrival {
        Arrival::Tunnelled { is_v4, peer } => from_tunnel(ctx, is_v4, peer),
        Arrival::Probe(verdict) => Ok(verdict),
        Arrival::Bare if config.watches_uplink() => from_outside(ctx, is_v4),
        Arrival::Bare | Arrival::NotOurs => pass(ctx),
    }
}

/// What came by the uplink.
enum Arrival {
    /// A packet of either family from the tunnel of `peer`, at [`INNER`].
    Tunnelled {
        is_v4: bool,
        peer: u32,
    },
    /// A probe or the answer to one, dealt with.
    Probe(Verdict),
    /// Anything else that is for this node's own address.
    Bare,
    NotOurs,
}

/// Where the packet is in a tunnel packet, over IPv4.
const INNER: usize = ETH_LEN + TUNNEL_LEN;

#[inline(always)]
fn arrived(ctx: &TcContext, config: &Config) -> Result<Arrival, DropReason> {
    let Some(outer) = at::<Ipv4Header>(ctx, ETH_LEN) else { return Ok(Arrival::NotOurs) };
    // SAFETY: inside the packet and aligned, as `at` says.
    let outer = unsafe { &*outer };
    if outer.dst != config.node_addr.v4_word() {
        return Ok(Arrival::NotOurs);
    }
    // The tunnel's own packets have no options; later fragments have no ports, and the first is
    // refused below, so that the rest never completes.
    if outer.version_ihl == 0x45
        && outer.proto == UDP
        && let Some(udp) = read::<UdpHeader>(ctx, ETH_LEN + IPV4_LEN)
        && udp.dport == config.tunnel_port
    {
        if Ipv4Header::is_fragment(outer.fragment) {
            return Err(DropReason::TunnelFragment);
        }
        let sender = PeerKey { addr: Addr::from_v4_word(outer.src), port: udp.sport, _pad: 0 };
        let peer = known_peer(&sender)?;
        return match version(ctx, INNER)? {
            4 => Ok(Arrival::Tunnelled { is_v4: true, peer }),
            6 => Ok(Arrival::Tunnelled { is_v4: false, peer }),
            _ => probe::receive::<IPV4_LEN>(ctx, &sender, peer).map(Arrival::Probe),
        };
    }
    if outer.version_ihl == 0x45 && outer.proto == ICMP {
        path_mtu::learn(ctx, config);
    }
    Ok(Arrival::Bare)
}

/// As [`arrived`], of IPv6. The tunnel's own packets have no extension headers.
#[inline(always)]
fn arrived_v6(ctx: &TcContext, config: &Config) -> Result<Arrival, DropReason> {
    let Some(outer) = at::<Ipv6Header>(ctx, ETH_LEN) else { return Ok(Arrival::NotOurs) };
    // SAFETY: inside the packet and aligned, as `at` says.
    let outer = unsafe { &*outer };
    if Addr::from_words(outer.dst) != config.node_addr_v6 {
        return Ok(Arrival::NotOurs);
    }
    if outer.next_header == UDP
        && let Some(udp) = read::<UdpHeader>(ctx, ETH_LEN + IPV6_LEN)
        && udp.dport == config.tunnel_port
    {
        let sender = PeerKey { addr: Addr::from_words(outer.src), port: udp.sport, _pad: 0 };
        let peer = known_peer(&sender)?;
        let is_v4 = match version(ctx, ETH_LEN + TUNNEL_LEN_V6)? {
            4 => true,
            6 => false,
            _ => return probe::receive::<IPV6_LEN>(ctx, &sender, peer).map(Arrival::Probe),
        };
        tunnel::shorten(ctx)?;
        return Ok(Arrival::Tunnelled { is_v4, peer });
    }
    if outer.next_header == ICMPV6 {
        path_mtu::learn_v6(ctx, config);
    }
    Ok(Arrival::Bare)
}

/// The node that the sender of a tunnel packet is.
#[inline(always)]
fn known_peer(sender: &PeerKey) -> Result<u32, DropReason> {
    // SAFETY: read at once.
    match unsafe { PEERS.get(sender) } {
        Some(peer) => Ok(*peer),
        None => {
            event::ask_who(sender);
            Err(DropReason::UnknownPeer)
        }
    }
}

/// The version of the IP packet at `offset`.
#[inline(always)]
fn version(ctx: &TcContext, offset: usize) -> Result<u8, DropReason> {
    Ok(read::<u8>(ctx, offset).ok_or(DropReason::Truncated)? >> 4)
}

/// A packet that is at [`INNER`] in one from the tunnel of `peer`.
#[inline(always)]
fn from_tunnel(ctx: &TcContext, is_v4: bool, peer: u32) -> Result<Verdict, DropReason> {
    let packet = packet::parse(ctx, INNER, is_v4, from_node(peer))?;
    packet::remember_fragment(packet, from_node(peer));
    let Keys { key, answers } = keys()?;
    *key = packet.tunnel_key(peer);
    let flow = match flow::find(key) {
        Found::Flow(flow) if !flow::is_over(flow, packet) => flow,
        found => {
            if !matches!(found, Found::Nothing) {
                flow::forget(key);
            }
            check_header_sum(ctx, INNER, is_v4)?;
            place_from_tunnel(packet, peer, key, answers)?
        }
    };
    tunnel::decapsulate(ctx, is_v4)?;
    count(ProgramCounter::Decapsulated, packet.len);
    flow::follow(ctx, packet, key, flow)
}

/// Nothing on the way has summed the inner header up: damage must not open flows. That of a known
/// flow is what it was, and IPv6 has no sum; options are left to the receiver.
#[inline(always)]
fn check_header_sum(ctx: &TcContext, l3: usize, is_v4: bool) -> Result<(), DropReason> {
    if !is_v4 {
        return Ok(());
    }
    let header = at::<Ipv4Header>(ctx, l3).ok_or(DropReason::Truncated)?;
    // SAFETY: inside the packet and aligned, as `at` says.
    let header = unsafe { &*header };
    if header.version_ihl == 0x45 && header.sum() != header.checksum {
        return Err(DropReason::BadHeader);
    }
    Ok(())
}

/// The flow of a tunnel packet that has none at its own key.
#[inline(always)]
fn place_from_tunnel(
    packet: &mut Packet,
    peer: u32,
    key: &mut FlowKey,
    answers: &mut FlowKey,
) -> Result<*mut Flow, DropReason> {
    // SAFETY: the kernel keeps the element's memory while the program runs.
    let server = unsafe { ENDPOINTS.get(packet.dst) }.ok_or(DropReason::NoEndpoint)?;
    let is_source_known = check_foreign_source(packet, peer)?;
    // An answer may carry either of the client's two addresses as its destination.
    key.local =
        if key.local == server.namespace_ip { server.instance_ip } else { server.namespace_ip };
    // A SYN is no answer.
    if !packet.is_opening()
        && let Found::Flow(flow) = flow::find(key)
        && !flow::is_over(flow, packet)
    {
        let of_key = (&packet.src, &key.local);
        packet.key_delta = rewrite::address_delta((&packet.src, &packet.dst), of_key);
        return Ok(flow);
    }
    if packet.is_error() {
        return Err(DropReason::UnrelatedError);
    }
    if packet.is_echo_reply() {
        return Err(DropReason::UnsupportedIcmp);
    }
    let answers_directly = NODES.get(peer).is_some_and(|node| node.kind == NodeKind::Xylem as u32);
    *key = packet.tunnel_key(peer);
    place::from_tunnel(packet, server, peer, answers_directly, key, answers)?;
    if !is_source_known && event::is_within_budget(from_node(peer)) {
        event::send(EventKind::LearnedSource, |event| {
            (event.src, event.dst) = (packet.src, packet.dst);
            event.value = peer;
        });
    }
    flow::placed(key)
}

/// The inner source must be a service-layer address; one that this node knows must be of an
/// instance that lives on `peer`. Whether it is known.
#[inline(always)]
fn check_foreign_source(packet: &Packet, peer: u32) -> Result<bool, DropReason> {
    if !is_service_address(&packet.src) {
        return Err(DropReason::ForeignSource);
    }
    // SAFETY: read at once.
    let Some(service) = (unsafe { SERVICES.get(packet.src) }) else {
        return Ok(false);
    };
    let lives_there = service.policy == Policy::Instance as u32
        && INSTANCES.get(service.instance).is_some_and(|instance| instance.node == peer);
    if lives_there { Ok(true) } else { Err(DropReason::ForeignSource) }
}

/// A packet to the node's own address, without a tunnel.
#[inline(always)]
fn from_outside(ctx: &TcContext, is_v4: bool) -> Result<Verdict, DropReason> {
    // What the overlay cannot read is the node's own business.
    let Ok(packet) = packet::parse(ctx, ETH_LEN, is_v4, from_node(OUTSIDE)) else {
        return pass(ctx);
    };
    let Keys { key, answers } = keys()?;
    *key = packet.tunnel_key(OUTSIDE);
    let flow = match flow::find(key) {
        Found::Flow(flow) if !flow::is_over(flow, packet) => flow,
        found => {
            if !matches!(found, Found::Nothing) {
                flow::forget(key);
            }
            if packet.is_error() {
                return pass(ctx);
            }
            let Some(published) = outside::published(packet) else { return pass(ctx) };
            if is_service_address(&packet.src) {
                return Err(DropReason::ForeignSource);
            }
            outside::from_outside(packet, published, key, answers)?;
            flow::placed(key)?
        }
    };
    packet::remember_fragment(packet, from_node(OUTSIDE));
    flow::follow(ctx, packet, key, flow)
}

#[inline(always)]
fn is_service_address(addr: &Addr) -> bool {
    CONFIG.get(0).is_some_and(|config| config.is_service_address(addr))
}

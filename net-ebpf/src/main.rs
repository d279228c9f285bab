//! The kernel programs of Xylem's data path.
//!
//! | Program | Hook | Work |
//! |---|---|---|
//! | `from_instance` | TCX ingress of an instance's host-side veth | service IP → instance; deliver or encapsulate |
//! | `from_uplink` | TCX ingress of the uplink | tunnel packets of known peers → instance |
//! | `from_parked` | TCX ingress of the injection veth | `from_instance` for packets that waited for an answer |
//! | `uplink_xdp` | XDP of the uplink, where its driver has it | the quick part of `from_uplink`, early |
//!
//! A packet of a known flow costs one look-up of the flow table, whatever the number of services.
//! Nothing here waits for user space: a miss is handed over whole and sent again later.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic addition, see `atomic`")]
#![no_std]
#![no_main]

mod atomic;
mod closing;
mod early;
mod event;
mod explain;
mod flow;
mod maps;
mod miss;
mod mss;
mod outside;
mod packet;
mod place;
mod probe;
mod refuse;
mod rewrite;
mod socket;
mod tunnel;
mod verdict;

use aya_ebpf::{
    helpers::{bpf_redirect_neigh, bpf_redirect_peer},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use net_common::{
    Addr, Config, DropReason, Endpoint, EventKind, Flow, FlowKey, NodeKind, Packet, PeerKey,
    Policy, ProgramCounter, StepKind,
    explain::DRY_RUN_MARK,
    flow::{OUTSIDE, from_node},
    packet::{
        ETH_LEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, ICMP, ICMP_LEN, ICMPV6, IPV4_LEN, IPV6_LEN,
        Ipv4Header, Ipv6Header, TUNNEL_LEN, TUNNEL_LEN_V6, UDP, is_link_multicast,
    },
};

use crate::{
    flow::Found,
    maps::{CONFIG, ENDPOINTS, INSTANCES, NODES, PEERS, SERVICES},
    packet::{Keys, Skb, at, keys, read},
    tunnel::UdpHeader,
    verdict::{Verdict, count, finish},
};

#[classifier]
pub fn from_instance(ctx: TcContext) -> i32 {
    let outcome = try_from_instance(&ctx);
    // SAFETY: a field of the context that the kernel passed.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    finish(&ctx, outcome, || into_instance(ifindex))
}

#[classifier]
pub fn from_parked(ctx: TcContext) -> i32 {
    let mut ifindex = 0;
    let outcome = try_from_parked(&ctx, &mut ifindex);
    finish(&ctx, outcome, || into_instance(ifindex))
}

#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let outcome = try_from_uplink(&ctx);
    // SAFETY: a field of the context that the kernel passed.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    finish(&ctx, outcome, || {
        // SAFETY: no next hop is given: the kernel looks route and neighbour up.
        unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
    })
}

#[xdp]
pub fn uplink_xdp(ctx: XdpContext) -> u32 {
    early::run(&ctx)
}

/// Into the namespace of the instance behind this interface.
#[inline(always)]
fn into_instance(ifindex: u32) -> i32 {
    // SAFETY: a helper call without pointers.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

#[inline(always)]
fn try_from_instance(ctx: &TcContext) -> Result<Verdict, DropReason> {
    let is_v4 = match ethertype(ctx) {
        ETH_P_IP => true,
        ETH_P_IPV6 => false,
        // The gateway's MAC is a permanent neighbour entry, but an instance may ask all the same.
        ETH_P_ARP => return pass_or_explain(ctx),
        _ => return Err(DropReason::UnsupportedFamily),
    };
    packet::pull_headers(ctx, ETH_LEN);
    if !is_v4 && is_link_multicast(&Skb(ctx)) {
        // What every IPv6 stack says on its link by itself (RFC 3810), and nobody here listens to.
        return pass_or_explain(ctx);
    }
    // SAFETY: a field of the context that the kernel passed.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let packet = packet::parse(ctx, ETH_LEN, is_v4, ifindex)?;
    packet::remember_fragment(packet, ifindex);
    let Keys { key, answers } = keys()?;
    *key = packet.egress_key(ifindex);
    let known = known_flow(packet, key)?;
    if known.is_none() {
        let client = local_instance(&packet.src)?;
        if client.ifindex != ifindex {
            return Err(DropReason::SpoofedSource);
        }
        explain::note(packet, StepKind::Sender, client.instance, &client.instance_ip);
        if !is_dialled_inside(packet)? {
            outside::from_client(packet, client, key, answers)?;
        } else if client.instance_ip.is_unspecified() {
            explain::note(packet, StepKind::UnnamedSender, client.instance, &packet.src);
            return miss::park(ctx, packet, EventKind::UnnamedSender as u32);
        } else if !place_from_client(packet, client, key, answers)? {
            return miss::park(ctx, packet, EventKind::Miss as u32);
        }
    }
    follow(ctx, packet, key, known)
}

#[inline(always)]
fn try_from_parked(ctx: &TcContext, ifindex: &mut u32) -> Result<Verdict, DropReason> {
    let is_v4 = match ethertype(ctx) {
        ETH_P_IP => true,
        ETH_P_IPV6 => false,
        _ => return Err(DropReason::UnsupportedFamily),
    };
    packet::pull_headers(ctx, ETH_LEN);
    // The ports of a first fragment were kept when it was parked.
    let origin = match source(ctx, is_v4) {
        Some(source) => local_instance(&source)?.ifindex,
        None => return Err(DropReason::Truncated),
    };
    *ifindex = origin;
    let packet = packet::parse(ctx, ETH_LEN, is_v4, origin)?;
    let Keys { key, answers } = keys()?;
    *key = packet.egress_key(origin);
    let known = known_flow(packet, key)?;
    if known.is_none() {
        let client = local_instance(&packet.src)?;
        if !is_dialled_inside(packet)? {
            return Err(DropReason::OutsideOverlay);
        }
        if client.instance_ip.is_unspecified() {
            return Err(DropReason::EndpointUnnamed);
        }
        if !place_from_client(packet, client, key, answers)? {
            return Err(DropReason::Unresolved);
        }
    }
    follow(ctx, packet, key, known)
}

/// The flow of a packet of a local instance; without one, the packet opens a flow, or goes on with
/// one that was lost.
#[inline(always)]
fn known_flow(packet: &Packet, key: &FlowKey) -> Result<Option<*mut Flow>, DropReason> {
    match flow::find(key) {
        Found::Flow(flow) if !flow::is_over(flow, packet) => return Ok(Some(flow)),
        Found::Nothing if packet.is_error() => return Err(DropReason::UnrelatedError),
        Found::Nothing => {}
        Found::Flow(_) => forget(packet, key),
        Found::Gone => {
            forget(packet, key);
            // The peer that this connection was with has nobody to answer for it. A datagram may
            // be answered as well by another instance.
            if packet.is_error() || (packet.is_tcp() && !packet.is_opening()) {
                return Err(DropReason::InstanceGone);
            }
        }
    }
    explain::note(packet, StepKind::NoFlow, 0, &Addr::UNSPECIFIED);
    Ok(None)
}

#[inline(always)]
fn forget(packet: &Packet, key: &FlowKey) {
    if packet.dry_run == 0 {
        flow::forget(key);
    }
}

/// Follows the flow that was found or, without one, that was just placed at `key`.
#[inline(always)]
fn follow(
    ctx: &TcContext,
    packet: &mut Packet,
    key: &FlowKey,
    found: Option<*mut Flow>,
) -> Result<Verdict, DropReason> {
    let flow = match found {
        Some(flow) => flow,
        None if packet.dry_run != 0 => return Ok(Verdict::Explained),
        None => flow::placed(key)?,
    };
    flow::follow(ctx, packet, key, flow)
}

#[inline(always)]
fn try_from_uplink(ctx: &TcContext) -> Result<Verdict, DropReason> {
    if let Some(ifindex) = early::noted(ctx) {
        count(ProgramCounter::Delivered, ctx.len() - ETH_LEN as u32);
        return Ok(Verdict::Redirect(into_instance(ifindex)));
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
        learn_path_mtu(ctx, config);
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
        learn_path_mtu_v6(ctx, config);
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
    // SAFETY: as in `local_instance`.
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

/// A router cannot forward a tunnel packet that is too large (RFC 1191): user space notes how large
/// one to that peer may be. The kernel's own stack sees the packet as well.
#[inline(always)]
fn learn_path_mtu(ctx: &TcContext, config: &Config) {
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
    tell_path_mtu(&PeerKey { addr: Addr::from_v4_word(to), port: udp.dport, _pad: 0 }, mtu);
}

/// As [`learn_path_mtu`], over IPv6 (RFC 8201).
#[inline(always)]
fn learn_path_mtu_v6(ctx: &TcContext, config: &Config) {
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
        tell_path_mtu(&PeerKey { addr: to, port: udp.dport, _pad: 0 }, mtu);
    }
}

#[inline(never)]
fn tell_path_mtu(peer: &PeerKey, mtu: u16) {
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

/// Places the flow that a local instance opens; `false` when nobody knows yet what it dialled.
#[inline(always)]
fn place_from_client(
    packet: &mut Packet,
    client: &Endpoint,
    key: &FlowKey,
    answers: &mut FlowKey,
) -> Result<bool, DropReason> {
    // SAFETY: as in `local_instance`.
    let Some(service) = (unsafe { SERVICES.get(packet.dst) }) else {
        return Ok(false);
    };
    place::from_client(packet, client, service, key, answers)?;
    Ok(true)
}

/// The instance of this node whose namespace IP is `source`.
#[inline(always)]
fn local_instance(source: &Addr) -> Result<&'static Endpoint, DropReason> {
    // SAFETY: the kernel keeps the element's memory while the program runs. If user space removes the
    // entry meanwhile, the element may be reused, and this packet is treated as the new entry says.
    match unsafe { ENDPOINTS.get(source) } {
        Some(endpoint) if endpoint.namespace_ip == *source => Ok(endpoint),
        _ => Err(DropReason::SpoofedSource),
    }
}

/// The source address of the IP packet behind the Ethernet header.
#[inline(always)]
fn source(ctx: &TcContext, is_v4: bool) -> Option<Addr> {
    // SAFETY: inside the packet and aligned, as `at` says.
    unsafe {
        if is_v4 {
            Some(Addr::from_v4_word((*at::<Ipv4Header>(ctx, ETH_LEN)?).src))
        } else {
            Some(Addr::from_words((*at::<Ipv6Header>(ctx, ETH_LEN)?).src))
        }
    }
}

/// Whether what an instance dialled is a service, or else a host outside that it may talk to.
#[inline(always)]
fn is_dialled_inside(packet: &Packet) -> Result<bool, DropReason> {
    if packet.is_echo_reply() {
        return Err(DropReason::UnsupportedIcmp);
    }
    let config = CONFIG.get(0).ok_or(DropReason::NotConfigured)?;
    if config.is_service_address(&packet.dst) {
        return Ok(true);
    }
    if config.masquerades() && config.is_outside_host(&packet.dst) {
        Ok(false)
    } else {
        Err(DropReason::OutsideOverlay)
    }
}

#[inline(always)]
fn is_service_address(addr: &Addr) -> bool {
    CONFIG.get(0).is_some_and(|config| config.is_service_address(addr))
}

#[inline(always)]
fn pass(ctx: &TcContext) -> Result<Verdict, DropReason> {
    count(ProgramCounter::Passed, ctx.len());
    Ok(Verdict::Pass)
}

/// As [`pass`], of a packet that may be looked at only: those of instances.
#[inline(always)]
fn pass_or_explain(ctx: &TcContext) -> Result<Verdict, DropReason> {
    // SAFETY: a field of the context that the kernel passed.
    if unsafe { (*ctx.skb.skb).mark } == DRY_RUN_MARK {
        explain::write(StepKind::Passed as u32, 0, &Addr::UNSPECIFIED);
        return Ok(Verdict::Explained);
    }
    pass(ctx)
}

#[inline(always)]
fn ethertype(ctx: &TcContext) -> u16 {
    // SAFETY: a field of the context that the kernel passed.
    u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Some helpers are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

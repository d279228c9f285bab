//! The kernel programs of Xylem's data path.
//!
//! | Program | Hook | Work |
//! |---|---|---|
//! | `from_instance` | TCX ingress of an instance's host-side veth | service IP → instance; deliver or encapsulate |
//! | `from_uplink` | TCX ingress of the uplink | tunnel packets of known peers → instance |
//! | `from_parked` | TCX ingress of the injection veth | `from_instance` for packets that waited for an answer |
//!
//! A packet of a known flow costs one look-up of the flow table, whatever the number of services.
//! Nothing here waits for user space: a miss is handed over whole and sent again later.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic addition, see `atomic`")]
#![no_std]
#![no_main]

mod atomic;
mod flow;
mod maps;
mod miss;
mod packet;
mod place;
mod rewrite;
mod tunnel;
mod verdict;

use aya_ebpf::{macros::classifier, programs::TcContext};
use net_common::{
    Addr, DropReason, Endpoint, EventKind, NodeKind, PeerKey, Policy, ProgramCounter,
};

use crate::{
    maps::{CONFIG, ENDPOINTS, FLOWS, INSTANCES, NODES, PEERS, SERVICES},
    packet::{ETH_LEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, Ipv4Header, Packet, TUNNEL_LEN, UDP},
    tunnel::UdpHeader,
    verdict::{Verdict, count, finish},
};

#[classifier]
pub fn from_instance(ctx: TcContext) -> i32 {
    let outcome = try_from_instance(&ctx);
    finish(&ctx, outcome)
}

#[classifier]
pub fn from_parked(ctx: TcContext) -> i32 {
    let outcome = try_from_parked(&ctx);
    finish(&ctx, outcome)
}

#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    let outcome = try_from_uplink(&ctx);
    finish(&ctx, outcome)
}

#[inline(always)]
fn try_from_instance(ctx: &TcContext) -> Result<Verdict, DropReason> {
    let is_v4 = match ethertype(ctx) {
        ETH_P_IP => true,
        ETH_P_IPV6 => false,
        // The gateway's MAC is a permanent neighbour entry, but an instance may ask all the same.
        ETH_P_ARP => return Ok(Verdict::Pass),
        _ => return Err(DropReason::UnsupportedFamily),
    };
    packet::pull_headers(ctx);
    if !is_v4 && packet::is_link_multicast(ctx) {
        // What every IPv6 stack says on its link by itself (RFC 3810), and nobody here listens to.
        return pass(ctx);
    }
    let packet = packet::parse(ctx, ETH_LEN, is_v4)?;
    // SAFETY: a field of the context that the kernel passed.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let key = packet.egress_key(ifindex);
    if let Some(flow) = flow::find(&key)
        && !flow::is_over(flow, packet)
    {
        return flow::follow(ctx, packet, flow);
    }

    let client = local_instance(&packet.src)?;
    if client.ifindex != ifindex {
        return Err(DropReason::SpoofedSource);
    }
    check_dialled(packet)?;
    if client.instance_ip.is_unspecified() {
        return miss::park(ctx, packet, ifindex, EventKind::UnnamedSender);
    }
    match place_from_client(packet, client)? {
        Some(verdict_key) => follow_placed(ctx, packet, &verdict_key),
        None => miss::park(ctx, packet, ifindex, EventKind::Miss),
    }
}

#[inline(always)]
fn try_from_parked(ctx: &TcContext) -> Result<Verdict, DropReason> {
    let is_v4 = match ethertype(ctx) {
        ETH_P_IP => true,
        ETH_P_IPV6 => false,
        _ => return Err(DropReason::UnsupportedFamily),
    };
    packet::pull_headers(ctx);
    let packet = packet::parse(ctx, ETH_LEN, is_v4)?;
    let client = local_instance(&packet.src)?;
    let key = packet.egress_key(client.ifindex);
    if let Some(flow) = flow::find(&key)
        && !flow::is_over(flow, packet)
    {
        return flow::follow(ctx, packet, flow);
    }
    check_dialled(packet)?;
    if client.instance_ip.is_unspecified() {
        return Err(DropReason::EndpointUnnamed);
    }
    match place_from_client(packet, client)? {
        Some(key) => follow_placed(ctx, packet, &key),
        None => Err(DropReason::Unresolved),
    }
}

#[inline(always)]
fn try_from_uplink(ctx: &TcContext) -> Result<Verdict, DropReason> {
    if ethertype(ctx) != ETH_P_IP {
        return pass(ctx);
    }
    packet::pull_headers(ctx);
    let (Some(outer), Some(config)) = (packet::at::<Ipv4Header>(ctx, ETH_LEN), CONFIG.get(0))
    else {
        return pass(ctx);
    };
    // SAFETY: inside the packet and aligned, as `at` says.
    let outer = unsafe { &*outer };
    // The tunnel's own packets have no options; later fragments have no ports, and the first is
    // refused below, so that the rest never completes.
    if outer.version_ihl != 0x45 || outer.proto != UDP || outer.dst != config.node_addr.v4_word() {
        return pass(ctx);
    }
    let Some(udp) = packet::read::<UdpHeader>(ctx, ETH_LEN + packet::IPV4_LEN) else {
        return pass(ctx);
    };
    if udp.dport != config.tunnel_port {
        return pass(ctx);
    }
    if Ipv4Header::is_fragment(outer.fragment) {
        return Err(DropReason::Fragment);
    }

    let sender = PeerKey { addr: Addr::from_v4_word(outer.src), port: udp.sport, _pad: 0 };
    // SAFETY: read at once.
    let peer = *unsafe { PEERS.get(sender) }.ok_or(DropReason::UnknownPeer)?;

    const INNER: usize = ETH_LEN + TUNNEL_LEN;
    let is_v4 = match packet::read::<u8>(ctx, INNER).ok_or(DropReason::Truncated)? >> 4 {
        4 => true,
        6 => false,
        _ => return Err(DropReason::TunnelMalformed),
    };
    let packet = packet::parse(ctx, INNER, is_v4)?;
    let key = packet.tunnel_key(peer);
    let flow = match flow::find(&key) {
        Some(flow) if !flow::is_over(flow, packet) => flow,
        _ => place_from_tunnel(packet, peer)?,
    };
    tunnel::decapsulate(ctx, is_v4)?;
    count(ProgramCounter::Decapsulated, packet.len);
    flow::follow(ctx, packet, flow)
}

/// The flow of a tunnel packet that has none at its own key.
#[inline(always)]
fn place_from_tunnel(packet: &Packet, peer: u32) -> Result<*mut net_common::Flow, DropReason> {
    // SAFETY: as in `local_instance`.
    let server = unsafe { ENDPOINTS.get(packet.dst) }.ok_or(DropReason::NoEndpoint)?;
    check_foreign_source(packet, peer)?;
    // An answer may carry either of the client's two addresses as its destination.
    let mut key = packet.tunnel_key(peer);
    key.local =
        if key.local == server.namespace_ip { server.instance_ip } else { server.namespace_ip };
    if let Some(flow) = flow::find(&key)
        && !flow::is_over(flow, packet)
    {
        return Ok(flow);
    }
    if packet.is_echo_reply() {
        return Err(DropReason::UnsupportedIcmp);
    }
    let answers_directly = NODES.get(peer).is_some_and(|node| node.kind == NodeKind::Xylem as u32);
    place::from_tunnel(packet, server, peer, answers_directly)?;
    FLOWS.get_ptr_mut(packet.tunnel_key(peer)).ok_or(DropReason::FlowTableFull)
}

/// The inner source must be a service-layer address; one that this node knows must be of an
/// instance that lives on `peer`.
#[inline(always)]
fn check_foreign_source(packet: &Packet, peer: u32) -> Result<(), DropReason> {
    if !is_service_address(&packet.src) {
        return Err(DropReason::ForeignSource);
    }
    // SAFETY: read at once.
    let Some(service) = (unsafe { SERVICES.get(packet.src) }) else {
        return Ok(());
    };
    let lives_there = service.policy == Policy::Instance as u32
        && INSTANCES.get(service.instance).is_some_and(|instance| instance.node == peer);
    if lives_there { Ok(()) } else { Err(DropReason::ForeignSource) }
}

/// Places the flow that a local instance opens; the key of its entry, or `None` when nobody knows
/// yet what it dialled.
#[inline(always)]
fn place_from_client(
    packet: &Packet,
    client: &Endpoint,
) -> Result<Option<net_common::FlowKey>, DropReason> {
    // SAFETY: as in `local_instance`.
    let Some(service) = (unsafe { SERVICES.get(packet.dst) }) else {
        return Ok(None);
    };
    place::from_client(packet, client, service)?;
    Ok(Some(packet.egress_key(client.ifindex)))
}

#[inline(always)]
fn follow_placed(
    ctx: &TcContext,
    packet: &Packet,
    key: &net_common::FlowKey,
) -> Result<Verdict, DropReason> {
    let flow = FLOWS.get_ptr_mut(key).ok_or(DropReason::FlowTableFull)?;
    flow::follow(ctx, packet, flow)
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

/// Whether what an instance dialled can be a service at all.
#[inline(always)]
fn check_dialled(packet: &Packet) -> Result<(), DropReason> {
    if packet.is_echo_reply() {
        return Err(DropReason::UnsupportedIcmp);
    }
    if is_service_address(&packet.dst) { Ok(()) } else { Err(DropReason::OutsideOverlay) }
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

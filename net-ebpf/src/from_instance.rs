//! What local instances send: service IP → instance, delivered here or through the tunnel.

use aya_ebpf::programs::TcContext;
use net_common::{
    Addr, DropReason, Endpoint, EventKind, Flow, FlowKey, Packet, StepKind,
    explain::DRY_RUN_MARK,
    packet::{ETH_LEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, Ipv4Header, Ipv6Header, is_link_multicast},
};

use crate::{
    explain,
    flow::{self, Found},
    maps::{CONFIG, ENDPOINTS, SERVICES},
    miss, outside,
    packet::{self, Keys, Skb, at, ethertype, keys},
    place,
    verdict::{Verdict, pass},
};

#[inline(always)]
pub fn run(ctx: &TcContext) -> Result<Verdict, DropReason> {
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
pub fn run_parked(ctx: &TcContext, ifindex: &mut u32) -> Result<Verdict, DropReason> {
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

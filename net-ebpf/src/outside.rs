//! Ways in and out of the overlay that are no tunnel: published ports, and what instances send to
//! hosts elsewhere with their node's address.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_prandom_u32};
use net_common::{
    Config, DropReason, Endpoint, FlowKey, Packet, Published, PublishedKey, StepKind,
    flow::{
        OUTSIDE,
        flags::{CLOSING, REMOTE_CLIENT, REPLY},
        from_node,
    },
    limits,
    packet::read_back,
};

use crate::{
    explain, flow,
    maps::{CONFIG, PUBLISHED},
    place::{Owner, Target, insert, put},
};

/// What the port that a packet from outside is sent to leads to.
#[inline(always)]
pub fn published(packet: &Packet) -> Option<&'static Published> {
    let key = PublishedKey { port: packet.dport, proto: packet.proto as u16 };
    // SAFETY: the kernel keeps the element's memory while the program runs; entries are replaced
    // whole.
    unsafe { PUBLISHED.get(key) }
}

/// Places the flow that a client outside has opened to a published port; its entry is then at
/// `packet.tunnel_key(OUTSIDE)`.
#[inline(always)]
pub fn from_outside(
    packet: &Packet,
    to: &Published,
    key: &FlowKey,
    answers: &mut FlowKey,
) -> Result<(), DropReason> {
    let server = if packet.dst.is_v4() { to.namespace_ip_v4 } else { to.namespace_ip_v6 };
    if server.is_unspecified() {
        return Err(DropReason::NoInstance);
    }
    let owner = |flags| Owner {
        service: 0,
        instance: to.instance,
        generation: to.generation,
        flags: REMOTE_CLIENT | flags,
    };
    *answers = FlowKey {
        local: server,
        remote: packet.src,
        local_port: to.port,
        remote_port: packet.sport,
        origin: to.ifindex,
        proto: packet.proto,
    };
    flow::settle(answers);
    insert(
        answers,
        (packet.dst, packet.src),
        (packet.dport, packet.sport),
        Target { ifindex: 0, node: OUTSIDE },
        owner(REPLY),
    )?;
    insert(
        key,
        (packet.src, server),
        (packet.sport, to.port),
        Target { ifindex: to.ifindex, node: 0 },
        owner(0),
    )?;
    flow::count_new(packet, 0, to.instance);
    Ok(())
}

/// Places the flow that a local instance opens to a host outside of the overlay, behind a port of
/// the node that no other flow to that host has.
#[inline(always)]
pub fn from_client(
    packet: &mut Packet,
    client: &Endpoint,
    key: &FlowKey,
    answers: &mut FlowKey,
) -> Result<(), DropReason> {
    let config = CONFIG.get(0).ok_or(DropReason::NotConfigured)?;
    let node_addr = config.node_addr_like(&packet.dst);
    if node_addr.is_unspecified() || config.uplink_ifindex == 0 {
        return Err(DropReason::OutsideOverlay);
    }
    if packet.dry_run != 0 {
        explain::note(packet, StepKind::Outside, 0, &node_addr);
        return Ok(());
    }
    let owner = |flags| Owner {
        service: 0,
        instance: client.instance,
        generation: client.generation,
        flags,
    };
    let (_, remote_port) = packet.ports_awaited();
    *answers = FlowKey {
        local: node_addr,
        remote: packet.dst,
        local_port: 0,
        remote_port,
        origin: from_node(OUTSIDE),
        proto: packet.proto,
    };
    packet.kept = free_port(config, answers);
    let port = read_back(&packet.kept) as u16;
    if port == 0 {
        return Err(DropReason::NoPortLeft);
    }
    answers.local_port = port;
    // Another CPU may have taken it since.
    put(
        answers,
        (packet.dst, client.namespace_ip),
        packet.ports_answered(),
        Target { ifindex: client.ifindex, node: 0 },
        owner(REPLY),
        BPF_NOEXIST,
    )
    .map_err(|_| DropReason::NoPortLeft)?;
    insert(
        key,
        (node_addr, packet.dst),
        (port, packet.dport),
        Target { ifindex: 0, node: OUTSIDE },
        owner(0),
    )?;
    flow::count_new(packet, 0, client.instance);
    Ok(())
}

/// A port of the node, network byte order, that no other flow to the same host has, or 0.
/// RFC 6056, 3.3.1: from a random place on.
#[inline(always)]
fn free_port(config: &Config, answers: &mut FlowKey) -> u32 {
    // SAFETY: a helper call without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    for attempt in 0..limits::MASQUERADE_TRIES {
        let step = random.wrapping_add(attempt).checked_rem(u32::from(config.masquerade_count));
        let port = config.masquerade_first.wrapping_add(step.unwrap_or(0) as u16).to_be();
        answers.local_port = port;
        let Some(taken) = flow::entry(answers) else { return u32::from(port) };
        // SAFETY: as in `flow::entry`.
        if unsafe { (*taken).flags } & CLOSING != 0 || !flow::is_current(taken) {
            flow::forget(answers);
            return u32::from(port);
        }
    }
    0
}

//! Places a new flow: chooses the instance by the service's policy and writes the flow's two
//! entries.

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_ktime_get_coarse_ns};
use net_common::{
    Addr, DropReason, Endpoint, Flow, FlowKey, Instance, InstanceState, Policy, Service,
    flow::{
        flags::{CLOSING, REMOTE_CLIENT, REPLY},
        from_node,
    },
    limits,
};

use crate::{
    atomic, flow,
    maps::{CURSORS, ENDPOINTS, FLOWS, INSTANCES, SCRATCH, TABLES},
    packet::Packet,
};

/// Places the flow that `packet` opens from the local instance `client` to `service`; its egress
/// entry is then at `packet.egress_key(client.ifindex)`.
#[inline(always)]
pub fn from_client(
    packet: &Packet,
    client: &Endpoint,
    service: &Service,
) -> Result<(), DropReason> {
    if service.policy == Policy::Instance as u32 {
        return on_instance(packet, client, service.slot, service.instance);
    }
    let count = *TABLES.get_value(service.slot, &0).ok_or(DropReason::NoInstance)?;
    if count == 0 || count > limits::TABLE_SLOTS {
        return Err(DropReason::NoInstance);
    }
    let mut outcome = DropReason::NoInstance;
    for _ in 0..limits::PLACEMENT_TRIES {
        let turn = next_turn(service.slot).checked_rem(u64::from(count)).unwrap_or(0);
        let Some(instance) = TABLES.get_value(service.slot, &(1 + turn as u32)) else {
            continue;
        };
        match on_instance(packet, client, service.slot, *instance) {
            Ok(()) => return Ok(()),
            Err(reason) => outcome = reason,
        }
    }
    Err(outcome)
}

/// The turn of a new flow of a round-robin address: each comes up once, on all CPUs together.
#[inline(always)]
fn next_turn(slot: u32) -> u64 {
    match CURSORS.get_ptr_mut(slot) {
        // SAFETY: an element of an array map, valid while the program runs.
        Some(cursor) => unsafe { atomic::fetch_add(cursor, 1) },
        None => 0,
    }
}

#[inline(always)]
fn on_instance(packet: &Packet, client: &Endpoint, slot: u32, id: u32) -> Result<(), DropReason> {
    let instance = INSTANCES.get(id).ok_or(DropReason::NoInstance)?;
    if instance.state != InstanceState::Up as u32 {
        return Err(DropReason::NoInstance);
    }
    let namespace_ip = instance.namespace_ip(&packet.dst);
    if namespace_ip.is_unspecified() {
        return Err(DropReason::NoInstance);
    }
    let server_ifindex = if instance.node == 0 {
        // SAFETY: read at once; entries are replaced whole.
        match unsafe { ENDPOINTS.get(namespace_ip) } {
            Some(server) => server.ifindex,
            None => return Err(DropReason::NoInstance),
        }
    } else {
        0
    };
    reserve_answers(packet, client, slot, id, instance, server_ifindex)?;

    insert(
        &packet.egress_key(client.ifindex),
        (client.instance_ip, namespace_ip),
        Target { ifindex: server_ifindex, node: instance.node },
        Owner { service: slot, instance: id, generation: instance.generation, flags: 0 },
        BPF_ANY,
    )?;
    flow::count_new(slot, id);
    Ok(())
}

/// Writes the entry of the answers. Two service IPs that lead to one instance must not share its
/// answers' ports, or the client could not tell them apart: the second is refused.
#[inline(always)]
fn reserve_answers(
    packet: &Packet,
    client: &Endpoint,
    slot: u32,
    id: u32,
    instance: &Instance,
    server_ifindex: u32,
) -> Result<(), DropReason> {
    // On this node the answers are keyed as the server sends them, from elsewhere as the tunnel
    // brings them. Both go to the client's instance IP.
    let key = if instance.node == 0 {
        let (local_port, remote_port) = packet.ports_answered();
        FlowKey {
            local: instance.namespace_ip(&packet.dst),
            remote: client.instance_ip,
            local_port,
            remote_port,
            origin: server_ifindex,
            proto: packet.proto,
        }
    } else {
        let (local_port, remote_port) = packet.ports_awaited();
        FlowKey {
            local: client.instance_ip,
            remote: instance.instance_ip(&packet.dst),
            local_port,
            remote_port,
            origin: from_node(instance.node),
            proto: packet.proto,
        }
    };
    let dialled = packet.dst;
    if let Some(existing) = flow::find(&key) {
        // SAFETY: as in `flow::find`.
        let (taken_by, flags) = unsafe { ((*existing).src, (*existing).flags) };
        if taken_by != dialled && flags & CLOSING == 0 {
            return Err(DropReason::PortConflict);
        }
    }
    insert(
        &key,
        (dialled, client.namespace_ip),
        Target { ifindex: client.ifindex, node: 0 },
        Owner { service: slot, instance: id, generation: instance.generation, flags: REPLY },
        BPF_ANY,
    )
}

/// Places a flow that a client on the node `peer` has opened to the local instance `server`; its
/// entry is then at `packet.tunnel_key(peer)`.
///
/// Teaches the way back as well: the answers go to `peer`, still addressed to the client's
/// instance IP. A peer of another kind expects the namespace IP there, which this node does not
/// know: `answers_directly` is false then, and the first answer is resolved like any dialled
/// address.
#[inline(always)]
pub fn from_tunnel(
    packet: &Packet,
    server: &Endpoint,
    peer: u32,
    answers_directly: bool,
) -> Result<(), DropReason> {
    if server.instance_ip.is_unspecified() {
        return Err(DropReason::EndpointUnnamed);
    }
    let client = packet.src;
    let owner = |flags| Owner {
        service: 0,
        instance: server.instance,
        generation: server.generation,
        flags: REMOTE_CLIENT | flags,
    };
    if answers_directly {
        let (local_port, remote_port) = packet.ports_answered();
        let key = FlowKey {
            local: server.namespace_ip,
            remote: client,
            local_port,
            remote_port,
            origin: server.ifindex,
            proto: packet.proto,
        };
        insert(
            &key,
            (server.instance_ip, client),
            Target { ifindex: 0, node: peer },
            owner(REPLY),
            BPF_ANY,
        )?;
    }
    insert(
        &packet.tunnel_key(peer),
        (client, server.namespace_ip),
        Target { ifindex: server.ifindex, node: 0 },
        owner(0),
        BPF_ANY,
    )?;
    flow::count_new(0, server.instance);
    Ok(())
}

struct Target {
    ifindex: u32,
    node: u32,
}

struct Owner {
    service: u32,
    instance: u32,
    generation: u32,
    flags: u32,
}

/// Inserts an entry whose packets leave with the source `src` and the destination `dst`.
///
/// The entry is put together in a per-CPU map, because the stack of a program is 512 bytes.
#[inline(always)]
fn insert(
    key: &FlowKey,
    (src, dst): (Addr, Addr),
    target: Target,
    owner: Owner,
    flags: u32,
) -> Result<(), DropReason> {
    let entry = SCRATCH.get_ptr_mut(0).ok_or(DropReason::FlowTableFull)?;
    // SAFETY: this CPU's own element; the program is not interrupted by another of ours. The
    // helper takes no arguments.
    unsafe {
        let now = bpf_ktime_get_coarse_ns();
        (*entry).packets = 0;
        (*entry).bytes = 0;
        (*entry).created_ns = now;
        (*entry).last_seen_ns = now;
        (*entry).src = src;
        (*entry).dst = dst;
        (*entry).ifindex = target.ifindex;
        (*entry).node = target.node;
        (*entry).service = owner.service;
        (*entry).instance = owner.instance;
        (*entry).generation = owner.generation;
        (*entry).flags = owner.flags;
        let entry: &Flow = &*entry;
        FLOWS.insert(key, entry, u64::from(flags)).map_err(|_| DropReason::FlowTableFull)
    }
}

//! Places a new flow: chooses the instance by the service's policy and writes the flow's two
//! entries.

use aya_ebpf::{bindings::BPF_ANY, helpers::bpf_ktime_get_coarse_ns};
use net_common::{
    Addr, DropReason, Endpoint, Flow, FlowKey, Instance, InstanceState, Packet, Policy, Service,
    StepKind, Table,
    flow::{
        flags::{CLOSING, CONFIRMED, REMOTE_CLIENT, REPLY},
        from_node,
    },
    limits,
    packet::read_back,
};

use crate::{
    atomic, explain, flow,
    maps::{CHUNKS, CURSORS, ENDPOINTS, INSTANCES, OPENING, SCRATCH, TABLES},
    rewrite,
};

/// Places the flow that `packet` opens from the local instance `client` to `service`; its egress
/// entry is then at `packet.egress_key(client.ifindex)`.
#[inline(always)]
pub fn from_client(
    packet: &mut Packet,
    client: &Endpoint,
    service: &Service,
    key: &FlowKey,
    answers: &mut FlowKey,
) -> Result<(), DropReason> {
    explain::note(packet, StepKind::Service, service.slot, &packet.dst);
    explain::note(packet, StepKind::Policy, service.policy, &Addr::UNSPECIFIED);
    if service.policy == Policy::Instance as u32 {
        candidate(packet, client, service.instance, answers)?;
        check_free(packet, answers)?;
        return on_instance(packet, client, service.slot, service.instance, key, answers);
    }
    // SAFETY: read at once; entries are replaced whole.
    let table = *unsafe { TABLES.get(service.slot) }.ok_or(DropReason::NoInstance)?;
    explain::note(packet, StepKind::Table, table.len, &Addr::UNSPECIFIED);
    let first = if service.policy == Policy::Affinity as u32 {
        u64::from(client_hash(client))
    } else {
        next_turn(packet, service.slot)
    };
    let chosen = choose(packet, client, service, &table, first, answers)?;
    on_instance(packet, client, service.slot, chosen, key, answers)
}

/// The first of some places of the table whose instance can take the flow.
#[inline(always)]
fn choose(
    packet: &mut Packet,
    client: &Endpoint,
    service: &Service,
    table: &Table,
    first: u64,
    answers: &mut FlowKey,
) -> Result<u32, DropReason> {
    let mut outcome = DropReason::NoInstance;
    packet.kept = 0;
    for attempt in 0..limits::PLACEMENT_TRIES {
        // A table of length 0 has no remainder.
        let place = (first + u64::from(attempt)).checked_rem(u64::from(table.len));
        let place = place.ok_or(DropReason::NoInstance)? as u32;
        let Some(chunk) = CHUNKS.get(table.first.wrapping_add(place / limits::CHUNK_IDS)) else {
            continue;
        };
        let id = chunk.ids[(place % limits::CHUNK_IDS) as usize];
        let free = candidate(packet, client, id, answers).and_then(|_| check_free(packet, answers));
        match free {
            Ok(()) => {
                // The places that were passed over have had their turn.
                if service.policy != Policy::Affinity as u32 {
                    skip_turns(packet, service.slot, attempt);
                }
                packet.kept = id;
                break;
            }
            Err(reason) => outcome = reason,
        }
        explain::note(packet, StepKind::PassedOver, id, &Addr::UNSPECIFIED);
    }
    match read_back(&packet.kept) {
        0 => Err(outcome),
        id => Ok(id),
    }
}

/// The turn of a new flow of an address: each place comes up once, on all CPUs together.
#[inline(always)]
fn next_turn(packet: &Packet, slot: u32) -> u64 {
    match CURSORS.get_ptr_mut(slot) {
        // SAFETY: an element of an array map, valid while the program runs.
        Some(cursor) if packet.dry_run != 0 => unsafe { *cursor },
        // SAFETY: as above.
        Some(cursor) => unsafe { atomic::fetch_add(cursor, 1) },
        None => 0,
    }
}

#[inline(always)]
fn skip_turns(packet: &Packet, slot: u32, count: u32) {
    if count != 0
        && packet.dry_run == 0
        && let Some(cursor) = CURSORS.get_ptr_mut(slot)
    {
        // SAFETY: as in `next_turn`.
        unsafe { atomic::add(cursor, u64::from(count)) };
    }
}

/// Of the client alone, the same for all its ports and on all nodes: of its instance IP.
/// The finaliser of MurmurHash3 over the address's words.
#[inline(always)]
fn client_hash(client: &Endpoint) -> u32 {
    let mut hash = 0;
    for word in client.instance_ip.words() {
        hash ^= word;
        hash ^= hash >> 16;
        hash = hash.wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 13;
        hash = hash.wrapping_mul(0xc2b2_ae35);
        hash ^= hash >> 16;
    }
    hash
}

/// An instance that can take a flow.
struct Candidate {
    instance: &'static Instance,
    namespace_ip: Addr,
    /// Of an instance of this node, its interface.
    ifindex: u32,
}

/// Whether the instance can take flows; the key of the answers' entry is then in `answers`.
#[inline(always)]
fn candidate(
    packet: &Packet,
    client: &Endpoint,
    id: u32,
    answers: &mut FlowKey,
) -> Result<Candidate, DropReason> {
    let instance = INSTANCES.get(id).ok_or(DropReason::NoInstance)?;
    let namespace_ip = instance.namespace_ip(&packet.dst);
    if instance.state != InstanceState::Up as u32 || namespace_ip.is_unspecified() {
        return Err(DropReason::NoInstance);
    }
    let mut ifindex = 0;
    // On this node the answers are keyed as the server sends them, from elsewhere as the tunnel
    // brings them. Both go to the client's instance IP.
    *answers = if instance.node == 0 {
        // SAFETY: read at once; entries are replaced whole.
        let server = unsafe { ENDPOINTS.get(namespace_ip) }.ok_or(DropReason::NoInstance)?;
        ifindex = server.ifindex;
        let (local_port, remote_port) = packet.ports_answered();
        FlowKey {
            local: namespace_ip,
            remote: client.instance_ip,
            local_port,
            remote_port,
            origin: ifindex,
            proto: packet.proto,
        }
    } else {
        // Its node may have gone down a moment before the lookup tables say so.
        flow::up(instance.node)?;
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
    Ok(Candidate { instance, namespace_ip, ifindex })
}

/// Two service IPs that lead to one instance must not share its answers' ports, or the client
/// could not tell them apart: the second is refused. Of an established flow that is in the way
/// and has ended, the entry goes.
#[inline(always)]
fn check_free(packet: &Packet, answers: &FlowKey) -> Result<(), DropReason> {
    if let Some(existing) = flow::entry(answers) {
        // SAFETY: as in `flow::entry`.
        let (taken_by, flags) = unsafe { ((*existing).src, (*existing).flags) };
        // What a stray packet of the other side has opened is nothing that anybody answered.
        let is_stray = flags & (REMOTE_CLIENT | CONFIRMED) == REMOTE_CLIENT;
        if taken_by != packet.dst && flags & CLOSING == 0 && !is_stray && flow::is_current(existing)
        {
            return Err(DropReason::PortConflict);
        }
        if packet.dry_run == 0 && flags & CONFIRMED != 0 {
            flow::forget(answers);
        }
    }
    Ok(())
}

/// Places the flow on an instance: writes both its entries.
#[inline(always)]
fn on_instance(
    packet: &Packet,
    client: &Endpoint,
    slot: u32,
    id: u32,
    key: &FlowKey,
    answers: &mut FlowKey,
) -> Result<(), DropReason> {
    let Candidate { instance, namespace_ip, ifindex } = candidate(packet, client, id, answers)?;
    if packet.dry_run != 0 {
        explain::note(packet, StepKind::Chosen, id, &namespace_ip);
        return flow::explained(packet, instance.node, ifindex).map(|_| ());
    }
    let owner =
        |flags| Owner { service: slot, instance: id, generation: instance.generation, flags };
    insert(
        answers,
        (packet.dst, client.namespace_ip),
        packet.ports_answered(),
        Target { ifindex: client.ifindex, node: 0 },
        owner(REPLY),
    )?;
    insert(
        key,
        (client.instance_ip, namespace_ip),
        (packet.sport, packet.dport),
        Target { ifindex, node: instance.node },
        owner(0),
    )?;
    flow::count_new(packet, slot, id);
    Ok(())
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
    key: &FlowKey,
    answers: &mut FlowKey,
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
        *answers = FlowKey {
            local: server.namespace_ip,
            remote: client,
            local_port,
            remote_port,
            origin: server.ifindex,
            proto: packet.proto,
        };
        flow::settle(answers);
        insert(
            answers,
            (server.instance_ip, client),
            (local_port, remote_port),
            Target { ifindex: 0, node: peer },
            owner(REPLY),
        )?;
    }
    insert(
        key,
        (client, server.namespace_ip),
        (packet.sport, packet.dport),
        Target { ifindex: server.ifindex, node: 0 },
        owner(0),
    )?;
    flow::count_new(packet, 0, server.instance);
    Ok(())
}

#[derive(Clone, Copy)]
pub struct Target {
    pub ifindex: u32,
    pub node: u32,
}

#[derive(Clone, Copy)]
pub struct Owner {
    pub service: u32,
    pub instance: u32,
    pub generation: u32,
    pub flags: u32,
}

/// Inserts an entry in place of what is there.
#[inline(always)]
pub fn insert(
    key: &FlowKey,
    addresses: (Addr, Addr),
    ports: (u16, u16),
    target: Target,
    owner: Owner,
) -> Result<(), DropReason> {
    put(key, addresses, ports, target, owner, BPF_ANY)
}

/// Writes an entry whose packets leave with the source `src` and the destination `dst`.
///
/// The entry is put together in a per-CPU map, because the stack of a program is 512 bytes.
#[inline(always)]
pub fn put(
    key: &FlowKey,
    (src, dst): (Addr, Addr),
    (sport, dport): (u16, u16),
    target: Target,
    owner: Owner,
    flags: u32,
) -> Result<(), DropReason> {
    let entry = SCRATCH.get_ptr_mut(0).ok_or(DropReason::FlowTableFull)?;
    let is_from_elsewhere = key.origin & from_node(0) != 0;
    let was = if is_from_elsewhere { (&key.remote, &key.local) } else { (&key.local, &key.remote) };
    // SAFETY: this CPU's own element; the program is not interrupted by another of ours. The
    // helper takes no arguments.
    unsafe {
        let now = bpf_ktime_get_coarse_ns();
        // Volatile, or the two become a loop over their bytes.
        (&raw mut (*entry).packets).write_volatile(0);
        (*entry).bytes = 0;
        (*entry).created_ns = now;
        (*entry).last_seen_ns = now;
        (*entry).src = src;
        (*entry).dst = dst;
        (*entry).sport = sport;
        (*entry).dport = dport;
        (*entry).address_delta = rewrite::address_delta(was, (&src, &dst));
        (*entry).ifindex = target.ifindex;
        (*entry).node = target.node;
        (*entry).service = owner.service;
        (*entry).instance = owner.instance;
        (*entry).generation = owner.generation;
        (*entry).flags = owner.flags;
        (&raw mut (*entry).fin_end).write_volatile(0);
        (*entry).acked = 0;
        let entry: &Flow = &*entry;
        OPENING.insert(key, entry, u64::from(flags)).map_err(|_| DropReason::FlowTableFull)
    }
}

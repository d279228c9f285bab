//! Follows a packet of a placed flow: counts it, rewrites it, sends it where the flow says.

use aya_ebpf::{
    helpers::{bpf_ktime_get_coarse_ns, bpf_redirect_peer},
    programs::TcContext,
};
use net_common::{
    DropReason, Flow, FlowKey, NodeState, ProgramCounter, Traffic,
    flow::flags::{CLOSING, REMOTE_CLIENT, REPLY},
};

use crate::{
    atomic,
    maps::{FLOWS, INSTANCE_TRAFFIC, INSTANCES, NODES, SERVICE_TRAFFIC},
    packet::Packet,
    rewrite, tunnel,
    verdict::{Verdict, count},
};

/// The flow of a packet, unless its instance is gone: then the flow is to be placed anew.
#[inline(always)]
pub fn find(key: &FlowKey) -> Option<*mut Flow> {
    let flow = FLOWS.get_ptr_mut(key)?;
    // SAFETY: the pointer is an element of the map, valid while the program runs. An LRU element
    // may be reused for another flow meanwhile; then this packet is misdirected as if it had come
    // a moment later, and checked by its receiver.
    let (instance, generation) = unsafe { ((*flow).instance, (*flow).generation) };
    if instance == 0 {
        return Some(flow);
    }
    (INSTANCES.get(instance)?.generation == generation).then_some(flow)
}

/// Whether a SYN shall not follow this entry: the connection before it on these ports has ended.
#[inline(always)]
pub fn is_over(flow: *mut Flow, packet: &Packet) -> bool {
    // SAFETY: as in `find`.
    packet.is_opening() && unsafe { (*flow).flags } & CLOSING != 0
}

/// Counts, rewrites and sends a packet along its flow.
#[inline(always)]
pub fn follow(ctx: &TcContext, packet: &Packet, flow: *mut Flow) -> Result<Verdict, DropReason> {
    // SAFETY: as in `find`.
    let node = unsafe { (*flow).node };
    let mut peer = None;
    if node != 0 {
        let known = NODES.get(node).ok_or(DropReason::NodeDown)?;
        if known.state != NodeState::Up as u32 {
            return Err(DropReason::NodeDown);
        }
        peer = Some(known);
    }
    // SAFETY: as in `find`. The two counters are added to atomically, because packets of a flow
    // may run on several CPUs.
    let ifindex = unsafe {
        atomic::add(&raw mut (*flow).packets, 1);
        atomic::add(&raw mut (*flow).bytes, u64::from(packet.len));
        let now = bpf_ktime_get_coarse_ns();
        (*flow).last_seen_ns = now;
        if packet.is_closing() {
            (*flow).flags |= CLOSING;
        }
        count_traffic(&*flow, packet.len, now);
        (*flow).ifindex
    };
    // SAFETY: as in `find`.
    unsafe { rewrite::addresses(ctx, packet, &(*flow).src, &(*flow).dst) }?;
    if let Some(peer) = peer {
        return tunnel::send(ctx, packet, peer.addr, peer.port);
    }
    count(ProgramCounter::Delivered, packet.len);
    // The frame keeps its destination MAC: it is that of a host-side interface, and the kernel
    // has classified the packet as its own already.
    // SAFETY: a helper call without pointers.
    Ok(Verdict::Redirect(unsafe { bpf_redirect_peer(ifindex, 0) } as i32))
}

#[inline(always)]
fn count_traffic(flow: &Flow, bytes: u32, now: u64) {
    let is_reply = flow.flags & REPLY != 0;
    let is_remote = flow.flags & REMOTE_CLIENT != 0;
    let is_egress = is_reply == is_remote;
    if flow.service != 0 {
        add(SERVICE_TRAFFIC.get_ptr_mut(flow.service), is_egress, bytes, now);
    }
    if flow.instance != 0 {
        add(INSTANCE_TRAFFIC.get_ptr_mut(flow.instance), is_egress, bytes, now);
    }
}

#[inline(always)]
fn add(traffic: Option<*mut Traffic>, is_egress: bool, bytes: u32, now: u64) {
    let Some(traffic) = traffic else { return };
    // SAFETY: this CPU's own slot of a per-CPU array.
    unsafe {
        let counter =
            if is_egress { &raw mut (*traffic).egress } else { &raw mut (*traffic).ingress };
        (*counter).packets += 1;
        (*counter).bytes += u64::from(bytes);
        (*traffic).last_used_ns = now;
    }
}

/// Counts a new flow.
#[inline(always)]
pub fn count_new(service: u32, instance: u32) {
    if service != 0
        && let Some(traffic) = SERVICE_TRAFFIC.get_ptr_mut(service)
    {
        // SAFETY: this CPU's own slot of a per-CPU array.
        unsafe { (*traffic).new_flows += 1 };
    }
    if instance != 0
        && let Some(traffic) = INSTANCE_TRAFFIC.get_ptr_mut(instance)
    {
        // SAFETY: as above.
        unsafe { (*traffic).new_flows += 1 };
    }
}

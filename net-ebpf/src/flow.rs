//! Follows a packet of a placed flow: counts it, rewrites it, sends it where the flow says.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{bpf_ktime_get_coarse_ns, bpf_redirect_neigh, bpf_redirect_peer},
    programs::TcContext,
};
use net_common::{
    Addr, DropReason, EventKind, Flow, FlowKey, Node, NodeState, Packet, ProgramCounter, StepKind,
    Traffic,
    flow::{
        OUTSIDE,
        flags::{CLOSING, CONFIRMED, REMOTE_CLIENT, REPLY, RESET},
        from_node,
    },
};

use crate::{
    atomic, closing, event, explain,
    maps::{CONFIG, FLOWS, INSTANCE_TRAFFIC, INSTANCES, KEYS, NODES, OPENING, SERVICE_TRAFFIC},
    mss, rewrite, tunnel,
    verdict::{Verdict, count},
};

/// What the flow table says of a packet.
pub enum Found {
    Nothing,
    /// Its flow's instance is gone.
    Gone,
    Flow(*mut Flow),
}

/// The entry at `key`, whatever became of its instance.
#[inline(always)]
pub fn entry(key: &FlowKey) -> Option<*mut Flow> {
    // The pointers are elements of the maps, valid while the program runs. An element may be
    // reused for another flow meanwhile; then this packet is misdirected as if it had come a
    // moment later, and checked by its receiver.
    match FLOWS.get_ptr_mut(key) {
        Some(flow) => Some(flow),
        None => OPENING.get_ptr_mut(key),
    }
}

/// The entry that was just placed at `key`.
#[inline(always)]
pub fn placed(key: &FlowKey) -> Result<*mut Flow, DropReason> {
    OPENING.get_ptr_mut(key).ok_or(DropReason::FlowTableFull)
}

/// The flow of a packet.
#[inline(always)]
pub fn find(key: &FlowKey) -> Found {
    let Some(flow) = entry(key) else { return Found::Nothing };
    if is_current(flow) { Found::Flow(flow) } else { Found::Gone }
}

/// Whether the flow's instance is still the one that was chosen.
#[inline(always)]
pub fn is_current(flow: *mut Flow) -> bool {
    // SAFETY: as in `entry`.
    let (instance, generation) = unsafe { ((*flow).instance, (*flow).generation) };
    instance == 0 || INSTANCES.get(instance).is_some_and(|known| known.generation == generation)
}

/// Whether a packet shall not follow this entry but open a flow anew: the connection before it on
/// these ports has ended, or nobody has answered it yet and nobody will, because the node is down.
#[inline(always)]
pub fn is_over(flow: *mut Flow, packet: &Packet) -> bool {
    // SAFETY: as in `entry`.
    let (flags, node) = unsafe { ((*flow).flags, (*flow).node) };
    if packet.is_error() {
        return false;
    }
    if packet.is_opening() && flags & CLOSING != 0 {
        return true;
    }
    let may_open = packet.is_opening() || !packet.is_tcp();
    may_open
        && flags & (CONFIRMED | REPLY) == 0
        && node != 0
        && node != OUTSIDE
        && up(node).is_err()
}

/// Removes an entry wherever it is.
#[inline(always)]
pub fn forget(key: &FlowKey) {
    // What is not there need not be removed.
    if FLOWS.remove(key).is_err() {
        let _ = OPENING.remove(key);
    }
}

/// Makes room for a new flow at `key`: an entry in `opening` is written over, one in `flows` would
/// be found first.
#[inline(always)]
pub fn settle(key: &FlowKey) {
    // What is not there need not be removed.
    let _ = FLOWS.remove(key);
}

/// Counts, rewrites and sends a packet along its flow, whose key is `key`.
#[inline(always)]
pub fn follow(
    ctx: &TcContext,
    packet: &mut Packet,
    key: &FlowKey,
    flow: *mut Flow,
) -> Result<Verdict, DropReason> {
    // SAFETY: as in `entry`.
    let node = unsafe { (*flow).node };
    if packet.dry_run != 0 {
        // SAFETY: as in `entry`.
        let (instance, dst) = unsafe { ((*flow).instance, (*flow).dst) };
        explain::note(packet, StepKind::FlowFound, instance, &dst);
        // SAFETY: as in `entry`.
        return explained(packet, node, unsafe { (*flow).ifindex });
    }
    let mut peer = None;
    if node == OUTSIDE {
        if packet.ttl <= 1 && !packet.is_error() {
            return Err(DropReason::TtlExceeded);
        }
    } else if node != 0 {
        let known = known(node)?;
        tunnel::check_size(ctx, packet, known)?;
        peer = Some(known);
    } else if key.origin == from_node(OUTSIDE) {
        tunnel::check_instance_mtu(ctx, packet)?;
    }
    // SAFETY: as in `entry`.
    let (flags, packets) = unsafe { ((*flow).flags, (*flow).packets) };
    let ifindex = account(packet, flow);
    if packet.is_error() {
        // SAFETY: as in `entry`.
        rewrite::error(ctx, packet, unsafe { &*flow }, key.origin == from_node(OUTSIDE))?;
        count(ProgramCounter::ErrorTranslated, packet.len);
    } else {
        // SAFETY: as in `entry`.
        rewrite::packet(ctx, packet, unsafe { &*flow })?;
    }
    if packet.is_tcp() && !packet.is_error() && (packet.is_closing() || flags & CLOSING != 0) {
        closing::follow(ctx, packet, key, flow);
    }
    // Last, because the entry is another one afterwards, and this packet is to be counted in it. A
    // stream that nobody answers is not looked at again and again.
    if flags & (CONFIRMED | REPLY) == 0
        && packet.confirms()
        && !packet.is_error()
        && (packets < 8 || packets % UNANSWERED == 0)
    {
        confirm(packet, key, flow);
    }
    if let Some(peer) = peer {
        if packet.is_syn() {
            mss::clamp(ctx, packet, tunnel::mtu(peer));
        }
        return tunnel::send(ctx, packet, peer);
    }
    if node == OUTSIDE {
        rewrite::decrement_ttl(ctx, packet)?;
        return leave(packet);
    }
    if key.origin == from_node(OUTSIDE) {
        count(ProgramCounter::EnteredOverlay, packet.len);
    }
    count(ProgramCounter::Delivered, packet.len);
    // The frame keeps its destination MAC: it is that of a host-side interface, and the kernel
    // has classified the packet as its own already.
    // SAFETY: a helper call without pointers.
    Ok(Verdict::Redirect(unsafe { bpf_redirect_peer(ifindex, 0) } as i32))
}

/// Counts a packet of the flow and notes when and how it went by; the flow's interface.
#[inline(always)]
pub fn account(packet: &Packet, flow: *mut Flow) -> u32 {
    // SAFETY: as in `entry`.
    let flags = unsafe { (*flow).flags };
    // SAFETY: as in `entry`. The two counters are added to atomically, because packets of a flow
    // may run on several CPUs.
    unsafe {
        atomic::add(&raw mut (*flow).packets, 1);
        atomic::add(&raw mut (*flow).bytes, u64::from(packet.len));
        let now = bpf_ktime_get_coarse_ns();
        (*flow).last_seen_ns = now;
        if packet.is_closing() {
            if flags & CLOSING == 0 {
                event::observe(packet, EventKind::FlowClosed, (*flow).instance);
            }
            (*flow).flags |= if packet.is_reset() { CLOSING | RESET } else { CLOSING };
        } else if flags & RESET != 0 && !packet.is_error() {
            // Nothing follows a reset that was meant: this one was not taken (RFC 5961, 3.2).
            (*flow).flags &= !(CLOSING | RESET);
        }
        count_traffic(&*flow, packet.len, now);
        (*flow).ifindex
    }
}

/// The node of a flow, as long as there is one. What was placed there goes there also while it
/// seems to be down: that may be over before the flow is, or hold for one direction only.
#[inline(always)]
fn known(node: u32) -> Result<&'static Node, DropReason> {
    let known = NODES.get(node).ok_or(DropReason::NodeDown)?;
    if known.state == NodeState::Absent as u32 { Err(DropReason::NodeDown) } else { Ok(known) }
}

/// A node that takes new flows.
#[inline(always)]
pub fn up(node: u32) -> Result<&'static Node, DropReason> {
    let known = NODES.get(node).ok_or(DropReason::NodeDown)?;
    if known.state == NodeState::Up as u32 { Ok(known) } else { Err(DropReason::NodeDown) }
}

/// By the uplink, without a tunnel.
#[inline(always)]
fn leave(packet: &Packet) -> Result<Verdict, DropReason> {
    let config = CONFIG.get(0).ok_or(DropReason::NotConfigured)?;
    count(ProgramCounter::LeftOverlay, packet.len);
    // SAFETY: no next hop is given: the kernel looks route and neighbour up, and resolves it.
    let action = unsafe { bpf_redirect_neigh(config.uplink_ifindex, core::ptr::null_mut(), 0, 0) };
    Ok(Verdict::Redirect(action as i32))
}

/// Where a packet that is looked at only would go.
#[inline(always)]
pub fn explained(packet: &Packet, node: u32, ifindex: u32) -> Result<Verdict, DropReason> {
    if node == 0 {
        explain::note(packet, StepKind::Deliver, ifindex, &Addr::UNSPECIFIED);
    } else if node == OUTSIDE {
        let config = CONFIG.get(0).ok_or(DropReason::NotConfigured)?;
        explain::note(packet, StepKind::Outside, 0, &config.node_addr_like(&packet.dst));
    } else {
        explain::note(packet, StepKind::Tunnel, node, &known(node)?.addr);
    }
    Ok(Verdict::Explained)
}

/// Datagrams after which a flow counts as established although nobody answers.
const UNANSWERED: u64 = 32;

/// The client goes on after the server has answered, or for long enough without: the flow is
/// established, and both its entries move to where nothing is forgotten. Without room there they
/// stay where they are.
#[inline(never)]
fn confirm(packet: &Packet, key: &FlowKey, flow: *mut Flow) {
    // SAFETY: as in `entry`.
    let Some(answering) = answering(packet, unsafe { &*flow }) else { return };
    let Some(keys) = KEYS.get_ptr_mut(0) else { return };
    // SAFETY: as in `entry`; of the keys, `key` is the other one.
    let answers_key = unsafe {
        (*keys).answers = (*flow).answers_key(key, answering);
        &(*keys).answers
    };
    let Some(answers) = OPENING.get_ptr_mut(answers_key) else { return };
    // SAFETY: as in `entry`. What other CPUs count in between is lost.
    unsafe {
        if (*answers).packets == 0 && (packet.is_tcp() || (*flow).packets <= UNANSWERED) {
            return;
        }
        (*flow).flags |= CONFIRMED;
        (*answers).flags |= CONFIRMED;
        let (flow, answers): (&Flow, &Flow) = (&*flow, &*answers);
        if FLOWS.insert(key, flow, u64::from(BPF_ANY)).is_err() {
            return;
        }
        if FLOWS.insert(answers_key, answers, u64::from(BPF_ANY)).is_err() {
            let _ = FLOWS.remove(key);
            return;
        }
    }
    let _ = OPENING.remove(key);
    let _ = OPENING.remove(answers_key);
    count(ProgramCounter::FlowConfirmed, packet.len);
}

/// The address that the answers of a question's entry come from.
#[inline(always)]
pub fn answering(packet: &Packet, flow: &Flow) -> Option<Addr> {
    if flow.node == 0 || flow.node == OUTSIDE {
        return Some(flow.dst);
    }
    Some(INSTANCES.get(flow.instance)?.instance_ip(&packet.dst))
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
pub fn count_new(packet: &Packet, service: u32, instance: u32) {
    event::observe(packet, EventKind::FlowOpened, instance);
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

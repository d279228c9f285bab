//! Tells user space what it must act on, and people what they watch.

use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use net_common::{
    Event, EventKind, MissBudget, Packet, PeerKey, ProgramCounter, config::features,
    flow::from_node,
};

use crate::{
    maps::{ASKED, CONFIG, EVENTS, MISS_BUDGETS, OBSERVATIONS},
    verdict::count,
};

/// Whether `origin` may cause another event; each kind of origin has its own share, so that none
/// takes that of the others.
#[inline(always)]
pub fn is_within_budget(origin: u32) -> bool {
    // SAFETY: a helper call without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(budget) = MISS_BUDGETS.get_ptr_mut(origin) {
        // SAFETY: an element of the map, valid while the program runs. Two CPUs that take at once
        // may take one too many.
        return unsafe { (*budget).take(now) };
    }
    let mut budget = MissBudget::full(now);
    budget.take(now);
    let _ = MISS_BUDGETS.insert(origin, budget, 0);
    true
}

/// An event without a packet, zeros but for what `fill` writes. What finds no room is lost: whoever
/// acts on it is told again.
#[inline(always)]
pub fn send(kind: EventKind, fill: impl FnOnce(&mut Event)) {
    if let Some(mut record) = EVENTS.reserve_bytes(size_of::<Event>(), 0) {
        let event = record.as_mut_ptr().cast::<Event>();
        // SAFETY: the record is as long as an `Event`, which is plain bytes, and aligned to 8.
        let event = unsafe {
            core::ptr::write_bytes(event, 0, 1);
            &mut *event
        };
        event.kind = kind as u32;
        fill(event);
        record.submit(0);
    }
}

/// How often a CPU tells of a stranger.
const ASK_EVERY_NS: u64 = 20_000_000;

/// A sender of tunnel packets that nobody announced: user space asks who that is.
#[inline(never)]
pub fn ask_who(sender: &PeerKey) {
    let Some(asked) = ASKED.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own element; the helper takes no arguments.
    let is_due = unsafe {
        let now = bpf_ktime_get_coarse_ns();
        let is_due = now.wrapping_sub(*asked) >= ASK_EVERY_NS;
        if is_due {
            *asked = now;
        }
        is_due
    };
    // Looked at before the budget, which costs more than the rest of the drop.
    if is_due && is_within_budget(from_node(0)) {
        send(EventKind::UnknownPeer, |event| {
            event.src = sender.addr;
            event.sport = sender.port;
        });
    }
}

/// What people watch, if somebody does.
#[inline(always)]
pub fn observe(packet: &Packet, kind: EventKind, value: u32) {
    if packet.dry_run != 0 || CONFIG.get(0).is_none_or(|c| c.features & features::OBSERVE == 0) {
        return;
    }
    write_observation(packet, kind as u32, value);
}

#[inline(never)]
fn write_observation(packet: &Packet, kind: u32, value: u32) {
    let Some(mut record) = OBSERVATIONS.reserve_bytes(size_of::<Event>(), 0) else {
        return count(ProgramCounter::EventLost, 0);
    };
    // SAFETY: as in `send`; the helper takes no arguments.
    unsafe {
        let event = record.as_mut_ptr().cast::<Event>();
        (*event).kind = kind;
        (*event).ifindex = 0;
        (*event).src = packet.src;
        (*event).dst = packet.dst;
        (*event).packet_len = packet.len;
        (*event).value = value;
        (*event).time_ns = bpf_ktime_get_ns();
        (*event).sent_ns = 0;
        (*event).nonce = 0;
        (*event).sport = packet.sport;
        (*event).dport = packet.dport;
        (*event).proto = packet.proto;
    }
    record.submit(0);
}

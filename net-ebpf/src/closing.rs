//! Follows the end of a TCP connection, so that its entries leave the flow table with it.

use aya_ebpf::programs::TcContext;
use net_common::{
    Flow, FlowKey, Packet, ProgramCounter,
    flow::{
        OUTSIDE,
        flags::{CLOSING, REPLY},
    },
    packet::ETH_LEN,
};

use crate::{
    flow,
    maps::{FLOWS, KEYS},
    verdict::count,
};

/// Where sequence and acknowledgement number stand in a TCP header.
const NUMBERS: usize = 4;

/// Follows a packet of a connection that this or an earlier packet in its direction has ended.
///
/// Both entries go with the segment after which the two ends have nothing more to say: one that
/// both have ended, with the last acknowledgement, if its receiver is on this node and so gets it
/// for certain; what is lost on the way to another node will be sent again, and meets the entries
/// until user space removes them. One whose other side has ended and that is reset, with a reset
/// that its receiver takes: one with exactly the sequence number that it waits for (RFC 5961, 3.2).
#[inline(always)]
pub fn follow(ctx: &TcContext, packet: &Packet, key: &FlowKey, flow: *mut Flow) {
    if let Ok(numbers) = ctx.load::<[u32; 2]>(ETH_LEN + packet.transport_at() + NUMBERS) {
        let [sequence, acknowledged] = numbers.map(u32::from_be);
        note(packet, key, flow, sequence, acknowledged);
    }
}

#[inline(never)]
fn note(packet: &Packet, key: &FlowKey, flow: *mut Flow, sequence: u32, acknowledged: u32) {
    // SAFETY: as in `flow::entry`.
    unsafe {
        if packet.is_fin() {
            (*flow).fin_end = packet.sequence_end(sequence);
        }
        if packet.acknowledges() {
            (*flow).acked = acknowledged;
        }
    }
    let Some(keys) = KEYS.get_ptr_mut(0) else { return };
    // SAFETY: this CPU's own element, of which `key` is the other half.
    let room = unsafe { &mut (*keys).answers };
    let Some((other_key, other)) = other_half(packet, key, flow, room) else { return };
    // SAFETY: as in `flow::entry`.
    let (flow, other) = unsafe { (&*flow, &*other) };
    // The ports may be another connection's by now.
    let is_same = other.service == flow.service
        && other.instance == flow.instance
        && other.generation == flow.generation;
    let is_over = if packet.is_reset() {
        other.flags & CLOSING != 0 && other.acked == sequence
    } else {
        flow.node == 0 && flow.is_closed_with(other)
    };
    if is_same && is_over && FLOWS.remove(key).is_ok() {
        // What is not there need not be removed.
        let _ = FLOWS.remove(other_key);
        count(ProgramCounter::FlowClosed, packet.len);
    }
}

/// The key of the other direction, put together in `room`, and its entry.
#[inline(always)]
fn other_half<'a>(
    packet: &Packet,
    key: &FlowKey,
    flow: *mut Flow,
    room: &'a mut FlowKey,
) -> Option<(&'a FlowKey, *mut Flow)> {
    // SAFETY: as in `flow::entry`.
    let flow = unsafe { &*flow };
    *room = if flow.flags & REPLY == 0 {
        flow.answers_key(key, flow::answering(packet, flow)?)
    } else {
        flow.questions_key(key)
    };
    if let Some(other) = at(room) {
        return Some((room, other));
    }
    if flow.flags & REPLY == 0 || flow.node == 0 || flow.node == OUTSIDE {
        return None;
    }
    room.local = key.local;
    at(room).map(|other| (&*room, other))
}

#[inline(always)]
fn at(key: &FlowKey) -> Option<*mut Flow> {
    FLOWS.get_ptr_mut(key)
}

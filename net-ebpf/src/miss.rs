//! Parks a packet: hands it to user space, which sends it on when it knows the destination.

use aya_ebpf::{helpers::bpf_skb_load_bytes, programs::TcContext};
use net_common::{DropReason, Event, Packet, ProgramCounter, StepKind, limits};

use crate::{
    event, explain,
    maps::EVENTS,
    verdict::{Verdict, count},
};

/// `kind` is one of [`net_common::EventKind`].
#[inline(never)]
pub fn park(ctx: &TcContext, packet: &Packet, kind: u32) -> Result<Verdict, DropReason> {
    let len = ctx.len();
    // SAFETY: a field of the context that the kernel passed.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    if packet.dry_run != 0 {
        explain::note(packet, StepKind::Miss, 0, &packet.dst);
        return Ok(Verdict::Explained);
    }
    if !event::is_within_budget(ifindex) {
        return Err(DropReason::MissLimited);
    }
    if len <= limits::PARKED_SMALL_BYTES {
        emit::<{ limits::PARKED_SMALL_BYTES as usize }>(ctx, packet, ifindex, kind, len)
    } else if len <= limits::PARKED_PACKET_BYTES {
        emit::<{ limits::PARKED_PACKET_BYTES as usize }>(ctx, packet, ifindex, kind, len)
    } else {
        Err(DropReason::ParkingTooLarge)
    }
}

/// A record of one of two fixed sizes, because the verifier wants the size to be a constant.
#[inline(always)]
fn emit<const ROOM: usize>(
    ctx: &TcContext,
    packet: &Packet,
    ifindex: u32,
    kind: u32,
    len: u32,
) -> Result<Verdict, DropReason> {
    const HEADER: usize = size_of::<Event>();
    let Some(mut record) = EVENTS.reserve_bytes(HEADER + ROOM, 0) else {
        return Err(DropReason::ParkingFull);
    };
    let start = record.as_mut_ptr();
    let event = Event {
        kind,
        ifindex,
        src: packet.src,
        dst: packet.dst,
        packet_len: len,
        value: 0,
        time_ns: 0,
        sent_ns: 0,
        nonce: 0,
        sport: packet.sport,
        dport: packet.dport,
        proto: packet.proto,
    };
    // SAFETY: the record is HEADER + ROOM bytes, 8-byte aligned; `len` is at least an Ethernet
    // and an IP header and at most ROOM, which the caller has checked and the mask shows again.
    let copied = unsafe {
        core::ptr::write(start.cast::<Event>(), event);
        if len == 0 || len as usize > ROOM {
            -1
        } else {
            bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, start.add(HEADER).cast(), len)
        }
    };
    if copied != 0 {
        record.discard(0);
        return Err(DropReason::Truncated);
    }
    record.submit(0);
    count(ProgramCounter::Parked, packet.len);
    Ok(Verdict::Parked)
}

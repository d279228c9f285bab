//! Parks a packet: hands it to user space, which sends it on when it knows the destination.

use aya_ebpf::{helpers::bpf_skb_load_bytes, programs::TcContext};
use net_common::{DropReason, Event, EventKind, ProgramCounter, limits};

use crate::{
    maps::EVENTS,
    packet::Packet,
    verdict::{Verdict, count},
};

#[inline(always)]
pub fn park(
    ctx: &TcContext,
    packet: &Packet,
    ifindex: u32,
    kind: EventKind,
) -> Result<Verdict, DropReason> {
    let len = ctx.len();
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
    kind: EventKind,
    len: u32,
) -> Result<Verdict, DropReason> {
    const HEADER: usize = size_of::<Event>();
    let Some(mut record) = EVENTS.reserve_bytes(HEADER + ROOM, 0) else {
        return Err(DropReason::ParkingFull);
    };
    let start = record.as_mut_ptr();
    let event = Event {
        kind: kind as u32,
        ifindex,
        src: packet.src,
        dst: packet.dst,
        packet_len: len,
        _pad: 0,
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

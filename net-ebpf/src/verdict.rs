//! What becomes of a packet, and the counters that say so.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use net_common::{
    Addr, DropReason, EventKind, ProgramCounter, StepKind, explain::DRY_RUN_MARK, packet::read_back,
};

use crate::{
    event, explain,
    maps::{DROPS, PACKET, PROGRAM_COUNTERS},
    refuse,
};

/// A packet that is not dropped: what the kernel shall do with it.
#[must_use]
pub enum Verdict {
    /// The redirect that a helper has prepared, by the helper's own return value.
    Redirect(i32),
    /// Left to the next program on the hook and to the kernel's stack.
    Pass,
    /// Kept by user space; this copy ends here and is not counted as a drop.
    Parked,
    /// Read to its end: a probe's answer.
    Consumed,
    /// Looked at only; what would become of it has been noted.
    Explained,
}

/// The program's return value. A drop is counted, and the sender told why, where that helps: the
/// packet becomes the answer to itself, which `back` sends.
#[inline(always)]
pub fn finish(
    ctx: &TcContext,
    outcome: Result<Verdict, DropReason>,
    back: impl FnOnce() -> i32,
) -> i32 {
    let reason = match outcome {
        Err(reason) => reason,
        Ok(verdict) => return action(verdict),
    };
    let reason = forget_origin(reason);
    drop_packet(ctx, reason);
    if refuse::is_told(reason) && refuse::answer(ctx, reason).is_some() {
        count(ProgramCounter::Refused, ctx.len());
        return back();
    }
    TC_ACT_SHOT
}

#[inline(always)]
fn action(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Redirect(action) => action,
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Parked | Verdict::Consumed | Verdict::Explained => TC_ACT_SHOT,
    }
}

/// The reason as a number of unknown origin, see `read_back`.
#[inline(always)]
fn forget_origin(reason: DropReason) -> u32 {
    match PACKET.get_ptr_mut(0) {
        // SAFETY: this CPU's own element, as in `packet::parse`.
        Some(packet) => unsafe {
            (*packet).kept = reason as u32;
            read_back(&(*packet).kept)
        },
        None => reason as u32,
    }
}

/// Counts a drop; of a packet that is looked at only, notes it.
#[inline(always)]
fn drop_packet(ctx: &TcContext, reason: u32) {
    // SAFETY: a field of the context that the kernel passed.
    if unsafe { (*ctx.skb.skb).mark } == DRY_RUN_MARK {
        explain::write(StepKind::Dropped as u32, reason, &Addr::UNSPECIFIED);
        return;
    }
    count_drop(reason, ctx.len());
    if let Some(packet) = PACKET.get_ptr_mut(0) {
        // SAFETY: this CPU's own element, as in `packet::parse`. Of a packet that could not be
        // parsed it has what was read before the fault.
        event::observe(unsafe { &*packet }, EventKind::Dropped, reason);
    }
}

#[inline(always)]
pub fn count_drop(reason: u32, bytes: u32) {
    if let Some(counter) = DROPS.get_ptr_mut(reason) {
        // SAFETY: this CPU's own slot of a per-CPU array.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}

#[inline(always)]
pub fn count(counter: ProgramCounter, bytes: u32) {
    if let Some(counter) = PROGRAM_COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own slot of a per-CPU array.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}

/// Left to the kernel's own stack.
#[inline(always)]
pub fn pass(ctx: &TcContext) -> Result<Verdict, DropReason> {
    count(ProgramCounter::Passed, ctx.len());
    Ok(Verdict::Pass)
}

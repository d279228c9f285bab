//! What becomes of a packet, and the counters that say so.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    programs::TcContext,
};
use net_common::{DropReason, ProgramCounter};

use crate::maps::{DROPS, PROGRAM_COUNTERS};

/// A packet that is not dropped: what the kernel shall do with it.
#[must_use]
pub enum Verdict {
    /// The redirect that a helper has prepared, by the helper's own return value.
    Redirect(i32),
    /// Left to the next program on the hook and to the kernel's stack.
    Pass,
    /// Kept by user space; this copy ends here and is not counted as a drop.
    Parked,
}

/// The program's return value; counts a drop.
#[inline(always)]
pub fn finish(ctx: &TcContext, outcome: Result<Verdict, DropReason>) -> i32 {
    match outcome {
        Ok(Verdict::Redirect(action)) => action,
        Ok(Verdict::Pass) => TC_ACT_UNSPEC,
        Ok(Verdict::Parked) => TC_ACT_SHOT,
        Err(reason) => {
            if let Some(counter) = DROPS.get_ptr_mut(reason as u32) {
                // SAFETY: this CPU's own slot of a per-CPU array.
                unsafe {
                    (*counter).packets += 1;
                    (*counter).bytes += u64::from(ctx.len());
                }
            }
            TC_ACT_SHOT
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

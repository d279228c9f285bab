//! Atomic addition. `core` offers it on no target without compare-and-swap, which the BPF target
//! declares itself to be, so it is taken from the compiler.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

/// Adds to a map value that several CPUs may write; the value before.
///
/// # Safety
///
/// `value` points into a map value, aligned to 8 bytes.
#[inline(always)]
pub unsafe fn add(value: *mut u64, amount: u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(value, amount) }
}

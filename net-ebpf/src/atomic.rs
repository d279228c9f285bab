//! Atomic addition. `core` offers it on no target without compare-and-swap, which the BPF target
//! declares itself to be, so it is taken from the compiler.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

/// Adds to a map value that several CPUs may write.
///
/// # Safety
///
/// `value` points into a map value, aligned to 8 bytes.
#[inline(always)]
pub unsafe fn add(value: *mut u64, amount: u64) {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(value, amount) };
}

/// As [`add`]; returns the value before.
///
/// Sequentially consistent, because for a relaxed addition LLVM takes the BPF instruction that
/// returns nothing, used or not.
///
/// # Safety
///
/// As for [`add`].
#[inline(always)]
pub unsafe fn fetch_add(value: *mut u64, amount: u64) -> u64 {
    // SAFETY: as the caller promises.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(value, amount) }
}

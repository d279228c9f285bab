//! Waiting for a condition, with a deadline and the last status told when it passes.

use std::{
    fmt,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Short against what is waited for, long against the cost of looking.
const PAUSE: Duration = Duration::from_millis(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes the present or the next wait fail at once; for a program that was told to end. Only
/// one, because those that follow belong to the way out.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// Whether [`interrupt`] was called and no wait has heeded it yet; now it is heeded.
pub fn take_interrupt() -> bool {
    INTERRUPTED.swap(false, Ordering::SeqCst)
}

/// Asks `look` again and again until it succeeds; its last error is the reason in the end.
///
/// # Errors
/// If it did not succeed within `limit`, or was interrupted.
pub fn wait_for<T, E: fmt::Display>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<T, E>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let status = match look() {
            Ok(value) => return Ok(value),
            Err(status) => status,
        };
        if take_interrupt() {
            bail!("interrupted while waiting for {what}");
        }
        if Instant::now() >= deadline {
            bail!("waited {} s for {what}; last status: {status:#}", limit.as_secs_f32());
        }
        pause(PAUSE);
    }
}

/// As [`wait_for`], for tests.
///
/// # Panics
/// If the condition does not hold within `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let look = || if condition() { Ok(()) } else { Err("not so") };
    if let Err(error) = wait_for(what, limit, look) {
        panic!("{error:#}");
    }
}

/// The only place that sleeps.
#[expect(clippy::disallowed_methods, reason = "between two looks at a condition")]
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

//! The clock that the kernel programs use as well.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`: what the programs write as `last_used_ns` compares with it.
pub fn now() -> Duration {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has this clock");
    Duration::from(now)
}

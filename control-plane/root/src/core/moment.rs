//! The time of a decision.

use std::time::Duration;

use jiff::Timestamp;

/// Both clocks at once: deadlines must not jump when the wall clock is set, and people want to
/// read dates.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) wall: Timestamp,
    /// Since the process started.
    pub(crate) monotonic: Duration,
}

impl Moment {
    /// Seconds since 1970.
    pub(crate) fn unix_seconds(self) -> f64 {
        self.wall.as_duration().as_secs_f64()
    }
}

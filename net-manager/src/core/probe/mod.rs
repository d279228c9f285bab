//! Measuring the way to other nodes, and telling within half a second that one is cut off.
//!
//! * [`Probes`]: all peers; when to probe which, and what follows from an answer or from none.
//! * [`peer`]: one peer; its probes on the way and whether it counts as up.
//! * [`rtt`], [`loss`]: what is known of the path. [`damping`]: the patience with one that flaps.
//! * [`nonce`]: what makes an answer hard to forge. [`report`]: what is worth telling.
//!
//! Time is `CLOCK_MONOTONIC`, as an argument, on the scale of the kernel's receive times. Chance
//! is a secret given once. Nothing is sent here.
//!
//! How long a peer that stops answering stays in use, at most:
//!
//! ```text
//! misses · interval + timeout        timeout = max(interval, srtt + 4 · rttvar), RFC 6298
//! 3 · 100 ms + 100 ms = 0.4 s
//! ```
//!
//! so less than 0.5 s as long as the timeout is below 200 ms, and for farther peers as much longer
//! as their answers take. To that comes the lateness of [`Probes::poll`] and, beyond
//! [`Settings::probes_per_second`], that of the probes.

pub mod damping;
pub mod loss;
pub mod nonce;
pub mod peer;
mod probes;
pub mod report;
pub mod rtt;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use self::{
    nonce::Secret,
    peer::{Ignored, Path, Stats},
    probes::{Answered, Change, Probe, Probes, Reply, Step},
};

/// What can be set; the defaults are meant to stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// From one probe of a peer to the next.
    pub interval: Duration,
    /// The same for a peer that has never answered and need not, or has not for `resignation`.
    pub idle_interval: Duration,
    /// How long a peer that is down is probed at full rate.
    pub resignation: Duration,
    /// Successive unanswered probes that make a peer down; at least 1.
    pub misses: u32,
    /// Least time for an answer, however near the peer.
    pub timeout_min: Duration,
    /// Time for an answer before the first one came (RFC 6298, 2.1).
    pub timeout_first: Duration,
    /// How long an answer is waited for after all: one that comes later is ignored. Bounds the
    /// timeout of a far peer too.
    pub patience: Duration,
    /// Over which the least RTT is taken.
    pub min_window: Duration,
    /// Over all peers. With more peers than that allows, each is probed less often.
    pub probes_per_second: u32,
    /// Deadlines are put off to multiples of this, so that one wake-up does for several peers.
    pub granularity: Duration,
    pub damping: damping::Settings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(100),
            idle_interval: Duration::from_secs(1),
            resignation: Duration::from_secs(10),
            misses: 3,
            timeout_min: Duration::from_millis(100),
            timeout_first: Duration::from_secs(1),
            patience: Duration::from_secs(2),
            min_window: Duration::from_secs(10),
            probes_per_second: 10_000,
            granularity: Duration::from_millis(1),
            damping: damping::Settings::default(),
        }
    }
}

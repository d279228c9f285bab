//! How the load of instances reaches those who balance by it.
//!
//! A worker reports every few seconds what its instances use. Handing all of it on would cost a
//! message per service, interested worker and report, and a query and an answer for each. Most of
//! it says nothing new, so a value is told only when it differs from the last one told
//! ([`worth_telling`]), and all that is to be told to one worker at a time goes in one message.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A change of so many points is told at the next opportunity…
pub const TOLD_AT_ONCE: f32 = 10.0;
/// …a change of so many, when the last value was told [`TOLD_AFTER`] ago. A smaller one never is.
pub const TOLD_LATER: f32 = 1.0;
pub const TOLD_AFTER: Duration = Duration::from_secs(10);

/// Percent of one CPU as it is told: what a worker says may be anything, and JSON has no infinity.
pub fn told_percent(measured: f64) -> f32 {
    if measured.is_nan() { 0.0 } else { measured.clamp(0.0, MOST) as f32 }
}

/// More than any machine has.
const MOST: f64 = 1e6;

/// `net/load`, down, ours.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loads {
    pub services: Vec<ServiceLoad>,
}

/// What instances of one service use; those that are not in it use what they did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceLoad {
    /// Job name.
    pub app_name: String,
    pub instances: Vec<InstanceLoad>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceLoad {
    pub instance_number: u32,
    /// Percent of one CPU.
    pub cpu_percent: f32,
}

/// Whether a value is worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    Now,
    /// Not yet, but should it stay so, it will be.
    Later,
    /// It is as good as the one told.
    Never,
}

/// Whether `value` is worth telling now that `told` was told that long ago. What was never told
/// is told at once.
pub fn worth_telling(value: f32, told: Option<(f32, Duration)>) -> Worth {
    let Some((told, age)) = told else { return Worth::Now };
    let difference = (value - told).abs();
    if difference >= TOLD_AT_ONCE || (difference >= TOLD_LATER && age >= TOLD_AFTER) {
        Worth::Now
    } else if difference >= TOLD_LATER {
        Worth::Later
    } else {
        Worth::Never
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_not_told() {
        for (measured, told) in
            [(12.5, 12.5), (-3.0, 0.0), (1e300, 1e6), (f64::INFINITY, 1e6), (f64::NAN, 0.0)]
        {
            assert_eq!(told_percent(measured), told);
        }
    }

    #[test]
    fn large_changes_are_told_at_once_small_ones_later_and_tiny_ones_never() {
        let secs = Duration::from_secs;
        for (value, told, worth) in [
            (0.0, None, Worth::Now),
            (50.0, Some((40.0, secs(0))), Worth::Now),
            (30.0, Some((40.0, secs(0))), Worth::Now),
            (45.0, Some((40.0, secs(9))), Worth::Later),
            (45.0, Some((40.0, secs(10))), Worth::Now),
            (40.5, Some((40.0, secs(3600))), Worth::Never),
        ] {
            assert_eq!(worth_telling(value, told), worth, "{value} after {told:?}");
        }
    }
}

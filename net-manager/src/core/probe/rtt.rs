//! The round trip to a peer.

use std::{collections::VecDeque, time::Duration};

/// Smoothed round trip, its variation and its least recent value.
///
/// RFC 6298, section 2: `rttvar ← 3/4 rttvar + 1/4 |srtt − r|`, then `srtt ← 7/8 srtt + 1/8 r`; at
/// first `srtt = r`, `rttvar = r/2`. With 10 probes a second this follows a change to nine tenths
/// within 1.8 s.
#[derive(Clone, Debug, Default)]
pub struct Rtt {
    estimate: Option<Estimate>,
    /// Values that can become the least one as older ones leave the window: both ascending.
    least: VecDeque<(Duration, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    pub smoothed: Duration,
    pub variation: Duration,
}

/// Values kept for the least one: more than fall into the window at the usual rate.
const LEAST_KEPT: usize = 128;

impl Rtt {
    /// An answer that arrived `now` took `rtt`.
    pub fn add(&mut self, rtt: Duration, window: Duration, now: Duration) {
        self.estimate = Some(match self.estimate {
            None => Estimate { smoothed: rtt, variation: rtt / 2 },
            Some(Estimate { smoothed, variation }) => Estimate {
                variation: (variation * 3 + smoothed.abs_diff(rtt)) / 4,
                smoothed: (smoothed * 7 + rtt) / 8,
            },
        });
        while self.least.back().is_some_and(|(_, last)| *last >= rtt) {
            self.least.pop_back();
        }
        while self.least.len() >= LEAST_KEPT
            || self.least.front().is_some_and(|(at, _)| now.saturating_sub(*at) > window)
        {
            self.least.pop_front();
        }
        self.least.push_back((now, rtt));
    }

    /// `None` before the first answer.
    pub fn estimate(&self) -> Option<Estimate> {
        self.estimate
    }

    /// The least of the values in the window that ended with the last answer.
    pub fn least(&self) -> Option<Duration> {
        self.least.front().map(|(_, rtt)| *rtt)
    }

    /// How long an answer may take (RFC 6298, 2.3); `None` before the first one.
    pub fn timeout(&self) -> Option<Duration> {
        self.estimate.map(|Estimate { smoothed, variation }| smoothed + variation * 4)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_first_values_are_as_the_rfc_says() {
        let mut rtt = Rtt::default();
        assert_eq!((rtt.estimate(), rtt.least(), rtt.timeout()), (None, None, None));
        rtt.add(ms(80), WINDOW, ms(0));
        assert_eq!(rtt.timeout(), Some(ms(240)));
        rtt.add(ms(160), WINDOW, ms(100));
        assert_eq!(rtt.estimate(), Some(Estimate { smoothed: ms(90), variation: ms(50) }));
    }

    #[test]
    fn a_lasting_change_is_followed_within_two_seconds() {
        let mut rtt = Rtt::default();
        (0..100).for_each(|n| rtt.add(ms(10), WINDOW, ms(n * 100)));
        (100..118).for_each(|n| rtt.add(ms(110), WINDOW, ms(n * 100)));
        assert!(rtt.estimate().is_some_and(|estimate| estimate.smoothed > ms(100)));
    }

    proptest! {
        #[test]
        fn the_least_is_the_least_of_the_window(
            values in prop::collection::vec((1..1000_u64, 1..3000_u64), 1..100),
        ) {
            let mut rtt = Rtt::default();
            let mut now = Duration::ZERO;
            let mut all = Vec::new();
            for (value, pause) in values {
                now += ms(pause);
                rtt.add(ms(value), WINDOW, now);
                all.push((now, ms(value)));
                let recent = all.iter().filter(|(at, _)| now - *at <= WINDOW);
                prop_assert_eq!(rtt.least(), recent.map(|(_, value)| *value).min());
            }
        }

        #[test]
        fn the_smoothed_value_stays_within_what_was_measured(
            values in prop::collection::vec(1..1_000_000_u64, 1..100),
        ) {
            let mut rtt = Rtt::default();
            for (n, value) in values.iter().enumerate() {
                rtt.add(Duration::from_micros(*value), WINDOW, ms(n as u64 * 100));
            }
            let smoothed = rtt.estimate().expect("a value was added").smoothed;
            let micros = |value: Option<&u64>| Duration::from_micros(*value.expect("not empty"));
            // A nanosecond is lost to each division.
            prop_assert!(smoothed + Duration::from_nanos(100) >= micros(values.iter().min()));
            prop_assert!(smoothed <= micros(values.iter().max()));
        }
    }
}

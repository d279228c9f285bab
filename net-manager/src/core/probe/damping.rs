//! Patience with a peer that goes down again and again.
//!
//! After route flap damping (RFC 2439): each time it goes down a penalty of 1 is added, which
//! decays by half in each half-life and is bounded. The penalty is not compared with thresholds
//! but sets how many successive answers bring the peer back:
//!
//! ```text
//! answers = answers_min · 2^(penalty − 1)      at least answers_min, at most answers_max
//! ```
//!
//! so 2, 4, 8, … up to 64 for a peer that keeps flapping: 0.2 s to 6.4 s of an unbroken path.
//! What is damped is the coming back only; a peer that is cut off is taken out as fast as ever.

use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// In which half of the penalty is forgiven.
    pub half_life: Duration,
    /// The penalty is not more than this.
    pub penalty_max: f64,
    /// Successive answers that bring a peer back that went down once.
    pub answers_min: u32,
    /// Never are more wanted.
    pub answers_max: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            half_life: Duration::from_secs(30),
            penalty_max: 6.0,
            answers_min: 2,
            answers_max: 64,
        }
    }
}

/// The penalty of one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Damping {
    penalty: f64,
    since: Duration,
}

impl Damping {
    /// It went down.
    pub fn punish(&mut self, settings: &Settings, now: Duration) {
        self.penalty = (self.penalty(settings, now) + 1.0).min(settings.penalty_max);
        self.since = self.since.max(now);
    }

    pub fn penalty(&self, settings: &Settings, now: Duration) -> f64 {
        let half_lives = now.saturating_sub(self.since).as_secs_f64()
            / settings.half_life.as_secs_f64().max(f64::MIN_POSITIVE);
        self.penalty * (-half_lives).exp2()
    }

    /// Successive answers that bring it back now; at least 1.
    pub fn answers(&self, settings: &Settings, now: Duration) -> u32 {
        let doublings = (self.penalty(settings, now) - 1.0).max(0.0);
        let answers = (f64::from(settings.answers_min) * doublings.exp2()).ceil();
        // A value out of range becomes the nearest one.
        (answers as u32).min(settings.answers_max).max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: Settings = Settings {
        half_life: Duration::from_secs(30),
        penalty_max: 6.0,
        answers_min: 2,
        answers_max: 64,
    };

    fn at(secs: u64) -> Duration {
        Duration::from_secs(1000 + secs)
    }

    #[test]
    fn patience_grows_with_each_time_and_comes_back() {
        let mut damping = Damping::default();
        assert_eq!(damping.answers(&SETTINGS, at(0)), 2);
        let answers: Vec<u32> = (0..8)
            .map(|_| {
                damping.punish(&SETTINGS, at(0));
                damping.answers(&SETTINGS, at(0))
            })
            .collect();
        assert_eq!(answers, [2, 4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(damping.answers(&SETTINGS, at(30)), 8, "a penalty of 3");
        assert_eq!(damping.answers(&SETTINGS, at(90)), 2);
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_forgiven(pauses in prop::collection::vec(0..120_u64, 0..50)) {
            let mut damping = Damping::default();
            let mut now = at(0);
            for pause in pauses {
                now += Duration::from_secs(pause);
                damping.punish(&SETTINGS, now);
                prop_assert!((2..=64).contains(&damping.answers(&SETTINGS, now)));
            }
            // log₂ 6 half-lives, whatever was before.
            prop_assert_eq!(damping.answers(&SETTINGS, now + Duration::from_secs(78)), 2);
        }
    }
}

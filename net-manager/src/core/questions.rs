//! How often one may ask: what others send decides what is asked, and must not decide how much.

use std::{collections::BTreeMap, time::Duration};

/// Limits of a kind of question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The same is not asked again for so long.
    pub again: Duration,
    /// Over all.
    pub per_second: u32,
    /// Questions that are remembered; when there are more within `again`, they are not asked.
    pub remembered: usize,
}

/// The questions that were asked. Time is an argument.
#[derive(Clone, Debug)]
pub struct Questions<K> {
    limits: Limits,
    asked: BTreeMap<K, Duration>,
    /// When the next question would be asked if all were asked evenly.
    evenly: Duration,
}

impl<K: Copy + Ord> Questions<K> {
    pub fn new(limits: Limits) -> Self {
        Self { limits, asked: BTreeMap::new(), evenly: Duration::ZERO }
    }

    /// Whether this may be asked now; then it counts as asked.
    pub fn may_ask(&mut self, what: K, now: Duration) -> bool {
        let again = self.limits.again;
        let is_old = |at: &Duration| now.saturating_sub(*at) >= again;
        if self.asked.get(&what).is_some_and(|at| !is_old(at)) {
            return false;
        }
        if self.asked.len() >= self.limits.remembered {
            self.asked.retain(|_, at| !is_old(at));
        }
        // A second's worth may be asked at once.
        if self.asked.len() >= self.limits.remembered || self.evenly > now + Duration::from_secs(1)
        {
            return false;
        }
        let gap = Duration::from_secs(1) / self.limits.per_second.max(1);
        self.evenly = self.evenly.max(now) + gap;
        self.asked.insert(what, now);
        true
    }

    /// Whether this was asked not long ago.
    pub fn was_asked(&self, what: K, now: Duration) -> bool {
        self.asked.get(&what).is_some_and(|at| now.saturating_sub(*at) < self.limits.again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(1_000_000 + ms)
    }

    #[test]
    fn the_same_is_asked_once_and_all_together_at_a_rate() {
        let limits = Limits { again: Duration::from_secs(10), per_second: 4, remembered: 8 };
        let mut questions = Questions::new(limits);
        assert!(questions.may_ask(1, at(0)));
        assert!(!questions.may_ask(1, at(9_999)));
        assert!(questions.was_asked(1, at(9_999)));
        assert!(questions.may_ask(1, at(10_000)));
        let asked = (2..50).filter(|what| questions.may_ask(*what, at(10_000))).count();
        assert_eq!(asked, 4);
        assert!(questions.may_ask(60, at(10_250)));
        // Eight are remembered, and none is forgotten within ten seconds.
        let asked = (70..90).filter(|what| questions.may_ask(*what, at(15_000))).count();
        assert_eq!(asked, 2);
        assert!(questions.may_ask(90, at(25_000)));
    }
}

//! Which services this node keeps an interest in.
//!
//! An interest is held from the moment a service is known until it has not been used for a
//! while. Use is read from the kernel's counters, and only for services that seem idle, so that
//! a busy one costs one look in each period and not one in each round.

use std::{collections::BTreeMap, time::Duration};

use net_maps::Name;

/// The interests held, each with the last time at which the service is known to have been used.
/// Time is `CLOCK_MONOTONIC`, as an argument.
#[derive(Debug)]
pub struct Interests {
    idle: Duration,
    last_used: BTreeMap<Name, Duration>,
}

impl Interests {
    /// Interests that end when a service has not been used for `idle`.
    pub fn new(idle: Duration) -> Self {
        Self { idle, last_used: BTreeMap::new() }
    }

    /// Takes an interest, or says that one was used; `used` may be in the past.
    ///
    /// Returns whether the interest is new.
    pub fn hold(&mut self, name: Name, used: Duration) -> bool {
        let last_used = self.last_used.get(&name).copied();
        self.last_used.insert(name, last_used.map_or(used, |last| last.max(used)));
        last_used.is_none()
    }

    /// Ends an interest; false if there was none.
    pub fn release(&mut self, name: Name) -> bool {
        self.last_used.remove(&name).is_some()
    }

    pub fn holds(&self, name: Name) -> bool {
        self.last_used.contains_key(&name)
    }

    pub fn iter(&self) -> impl Iterator<Item = Name> + '_ {
        self.last_used.keys().copied()
    }

    /// Services that seem idle: whoever knows that they are used says so with [`Self::hold`], and
    /// the others are released.
    pub fn idle(&self, now: Duration) -> Vec<Name> {
        self.last_used
            .iter()
            .filter(|(_, used)| now.saturating_sub(**used) >= self.idle)
            .map(|(name, _)| *name)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interest_lasts_as_long_as_the_service_is_used() {
        let at = Duration::from_secs;
        let name = Name::try_from("a.b.c.d").unwrap();
        let mut interests = Interests::new(at(10));
        assert!(interests.hold(name, at(100)));
        assert!(!interests.hold(name, at(95)), "an older use takes nothing away");
        assert!(interests.idle(at(109)).is_empty());
        assert_eq!(interests.idle(at(110)), [name]);
        interests.hold(name, at(105));
        assert!(interests.idle(at(110)).is_empty());
        assert!(interests.release(name));
        assert!(!interests.release(name));
        assert!(interests.hold(name, at(200)));
    }
}

//! Lets a complaint into the log once a minute.

use std::time::Duration;

const EVERY: Duration = Duration::from_secs(60);

/// Counts always, opens once a minute.
#[derive(Debug, Default)]
pub(super) struct Gate {
    count: u64,
    opened: Option<Duration>,
}

impl Gate {
    /// Counts one more; whether it is time to say so, with the count.
    pub(super) fn pass(&mut self, now: Duration) -> Option<u64> {
        self.count += 1;
        if self.opened.is_some_and(|opened| now.saturating_sub(opened) < EVERY) {
            return None;
        }
        self.opened = Some(now);
        Some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_once_a_minute_and_misses_nothing() {
        let mut gate = Gate::default();
        let at = |secs: u64| Duration::from_secs(1000 + secs);
        let passed = [0, 1, 59, 60, 61, 130].map(|secs| gate.pass(at(secs)));
        assert_eq!(passed, [Some(1), None, None, Some(4), None, Some(6)]);
    }
}

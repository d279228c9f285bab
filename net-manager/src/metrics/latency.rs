//! How long it takes until an unknown address is known.

use std::{collections::BTreeMap, time::Duration};

use prometheus_client::{
    metrics::histogram::Histogram,
    registry::{Registry, Unit},
};

/// From a worker next door to patience's end, seconds.
const BUCKETS: [f64; 14] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// Questions whose answers are waited for; more are not measured.
const QUESTIONS: usize = 16_384;

/// Measured in the daemon's task, read by whoever scrapes.
#[derive(Clone, Debug)]
pub struct Latencies {
    misses: Histogram,
    queries: Histogram,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { misses: Histogram::new(BUCKETS), queries: Histogram::new(BUCKETS) }
    }
}

impl Latencies {
    /// A packet was parked for so long before it was sent on.
    pub fn sent_on(&self, after: Duration) {
        self.misses.observe(after.as_secs_f64());
    }

    /// The cluster answered a question after so long.
    pub fn answered(&self, after: Duration) {
        self.queries.observe(after.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "From parking a packet to sending it on";
        registry.register_with_unit("miss_resolution", help, Unit::Seconds, self.misses.clone());
        let help = "From a question to the cluster to its answer";
        registry.register_with_unit("query", help, Unit::Seconds, self.queries.clone());
    }
}

/// Questions to the cluster that are not answered yet, by what was asked for. Time is an argument.
#[derive(Debug, Default)]
pub struct Asked(BTreeMap<String, Duration>);

impl Asked {
    /// Asked again, the first time counts.
    pub fn ask(&mut self, what: &str, now: Duration) {
        if self.0.len() < QUESTIONS && !self.0.contains_key(what) {
            self.0.insert(what.to_owned(), now);
        }
    }

    /// How long ago that was asked.
    pub fn answer(&mut self, what: &str, now: Duration) -> Option<Duration> {
        Some(now.saturating_sub(self.0.remove(what)?))
    }

    /// Whoever was asked has forgotten it.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_measured_from_the_first_time_it_was_asked() {
        let mut asked = Asked::default();
        let at = Duration::from_millis;
        asked.ask("10.30.0.1", at(100));
        asked.ask("10.30.0.1", at(600));
        assert_eq!(asked.answer("10.30.0.1", at(650)), Some(at(550)));
        assert_eq!(asked.answer("10.30.0.1", at(700)), None);
        asked.ask("10.30.0.2", at(700));
        asked.clear();
        assert_eq!(asked.answer("10.30.0.2", at(800)), None);
    }
}

//! What an instance uses. In memory only: it is out of date before it could be read from a disk.

use std::collections::VecDeque;

use jiff::Timestamp;
use xylem_types::{job::MetricPoint, session::Observed};

/// Measurements kept per instance.
const HISTORY: usize = 100;

#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) disk: u64,
    pub(crate) logs: String,
    /// Oldest first; CPU in percent of one CPU, memory in percent of the worker's.
    measured: VecDeque<(Timestamp, f64, f64)>,
}

impl Usage {
    pub(crate) fn record(&mut self, observed: &Observed, now: Timestamp) {
        self.disk = observed.disk;
        self.logs.clone_from(&observed.logs);
        if self.measured.len() == HISTORY {
            self.measured.pop_front();
        }
        self.measured.push_back((now, observed.cpu_percent, observed.memory_percent));
    }

    pub(crate) fn cpu_percent(&self) -> f64 {
        self.measured.back().map_or(0.0, |(_, cpu, _)| *cpu)
    }

    pub(crate) fn memory_percent(&self) -> f64 {
        self.measured.back().map_or(0.0, |(_, _, memory)| *memory)
    }

    pub(crate) fn cpu_history(&self) -> Vec<MetricPoint> {
        self.measured.iter().map(|(at, cpu, _)| point(*at, *cpu)).collect()
    }

    pub(crate) fn memory_history(&self) -> Vec<MetricPoint> {
        self.measured.iter().map(|(at, _, memory)| point(*at, *memory)).collect()
    }
}

fn point(at: Timestamp, value: f64) -> MetricPoint {
    MetricPoint { value: value.to_string(), timestamp: at.to_string() }
}

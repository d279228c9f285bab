//! What the daemon's task notes for its metrics.

use std::{collections::BTreeMap, time::Duration};

use net_maps::Name;
use xylem_types::mqtt::{TableAnswer, TableQuery};

use super::Daemon;
use crate::{
    core::parking::Packet,
    kernel::clock,
    metrics::{
        latency::{Asked, Latencies},
        read::Observed,
    },
};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Observation {
    latencies: Latencies,
    asked: Asked,
    /// When the cluster last told of a service.
    told: BTreeMap<Name, Duration>,
    started: Duration,
}

impl Observation {
    pub(super) fn new(latencies: Latencies, now: Duration) -> Self {
        Self { latencies, asked: Asked::default(), told: BTreeMap::new(), started: now }
    }

    pub(super) fn on_query(&mut self, query: &TableQuery, now: Duration) {
        self.asked.ask(if query.sip.is_empty() { &query.sname } else { &query.sip }, now);
    }

    pub(super) fn on_answer(&mut self, answer: &TableAnswer, now: Duration) {
        if let Some(after) = self.asked.answer(&answer.query_key, now) {
            self.latencies.answered(after);
        }
        if let Ok(name) = Name::try_from(answer.app_name.as_str()) {
            self.told.insert(name, now);
        }
    }

    pub(super) fn on_disconnected(&mut self) {
        self.asked.clear();
    }

    pub(super) fn on_sent_on(&self, packet: &Packet, now: Duration) {
        self.latencies.sent_on(now.saturating_sub(packet.since));
    }

    /// Forgets what is not known any more.
    pub(super) fn retain(&mut self, is_known: impl Fn(Name) -> bool) {
        self.told.retain(|name, _| is_known(*name));
    }
}

impl Daemon {
    /// What only this task knows.
    pub(super) fn observe(&self) -> Observed {
        let now = clock::now();
        let translation = self.worker.translation();
        let age = |name: Name| {
            let told = self.observation.told.get(&name).unwrap_or(&self.observation.started);
            (name, now.saturating_sub(*told))
        };
        let last = self.sweeper.last();
        Observed {
            connected: self.worker.is_connected(),
            open_questions: self.worker.open_questions() as u64,
            knowledge_ages: translation.names().map(age).collect(),
            flows_by_slot: last.flows_by_slot.clone(),
            flows_by_instance: last.flows_by_instance.clone(),
            flow_entries: (last.established as u64, last.opening as u64),
            sweep_took: last.took,
            moved: translation.moved().collect(),
            losses: self.watchers.losses(),
            map_full: self.full.counts(),
        }
    }
}

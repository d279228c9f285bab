//! When ended flows are looked for, and what the daemon's task takes from it.

use std::{collections::HashMap, path::PathBuf};

use net_maps::{MapsError, PinnedMaps};
use tokio::{task::JoinHandle, time::Instant};
use tracing::{debug, warn};

use super::Daemon;
use crate::{
    chain::Chain,
    core::{
        expiry::{
            Timeouts,
            pace::{Pace, Seen},
        },
        tables::InstanceId,
    },
    kernel::sweep::{self, Stop, SweepError, Swept},
};

/// Looks for ended flows now and then.
#[derive(Debug)]
pub(super) struct Sweeper {
    bpffs_root: PathBuf,
    timeouts: Timeouts,
    /// Entries that the map of established flows has room for.
    capacity: u32,
    /// When the last look began, and how many entries had ever been added to the map then.
    began: Option<(Instant, u64)>,
    /// Flows that instances whose flows count had ever been given then.
    given: HashMap<InstanceId, u64>,
    running: Option<JoinHandle<Result<Swept, SweepError>>>,
    stop: Stop,
    last: Swept,
}

impl Sweeper {
    pub(super) fn new(bpffs_root: PathBuf, timeouts: Timeouts, capacity: u32) -> Self {
        Self {
            bpffs_root,
            timeouts,
            capacity,
            began: None,
            given: HashMap::new(),
            running: None,
            stop: Stop::default(),
            last: Swept::default(),
        }
    }

    /// What the last look has seen; nothing, before the first is over.
    pub(super) fn last(&self) -> &Swept {
        &self.last
    }

    /// Begins a look if one is due; whether it did.
    fn start_if_due(&mut self, maps: &PinnedMaps) -> Result<bool, MapsError> {
        if self.running.is_some() {
            return Ok(false);
        }
        let seen = Seen { entries: self.last.entries, removed: self.last.removed };
        let pace = Pace::new((self.last != Swept::default()).then_some(seen), self.capacity);
        let ever_added = sweep::ever_added(maps)?;
        let mut entries = self.last.established as u64;
        if let Some((began, added)) = self.began {
            let added = ever_added.saturating_sub(added);
            if !pace.is_next_due(began.elapsed(), added) {
                return Ok(false);
            }
            entries += added;
        }
        self.began = Some((Instant::now(), ever_added));
        let fill = entries as f64 / f64::from(self.capacity.max(1));
        let timeouts = self.timeouts.under_pressure(fill);
        let (bpffs_root, stop) = (self.bpffs_root.clone(), self.stop.clone());
        let look = move || sweep::sweep(&bpffs_root, &timeouts, &pace, &stop);
        self.running = Some(tokio::task::spawn_blocking(look));
        Ok(true)
    }

    /// The outcome of the look that is under way; never, without one.
    pub(super) async fn finished(&mut self) -> Result<Swept, SweepError> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let outcome = running.await;
        self.running = None;
        outcome.unwrap_or_else(|ended| Err(SweepError::Thread(ended)))
    }
}

impl Drop for Sweeper {
    /// The process waits for a look that is under way.
    fn drop(&mut self) {
        self.stop.stop();
    }
}

impl Daemon {
    pub(super) fn start_sweep(&mut self) {
        match self.sweeper.start_if_due(&self.maps) {
            Ok(true) => self.sweeper.given = self.given(),
            Ok(false) => {}
            Err(error) => warn!(error = %Chain(&error), "cannot look for ended flows"),
        }
    }

    pub(super) fn on_swept(&mut self, swept: Result<Swept, SweepError>) {
        match swept {
            Ok(swept) => {
                let worked_ms = swept.worked.as_millis() as u64;
                debug!(
                    entries = swept.entries,
                    removed = swept.removed,
                    worked_ms,
                    "looked at the flows"
                );
                self.sweeper.last = swept;
                self.recount();
            }
            Err(error) => warn!(error = %Chain(&error), "cannot look for ended flows"),
        }
    }

    /// Flows have been counted: those given since then come on top. A flow that was given while the
    /// look went on was seen by it or not, as likely as not: half of them come on top.
    fn recount(&mut self) {
        let mut counted = HashMap::new();
        for (id, until) in self.given() {
            let from = self.sweeper.given.get(&id).copied().unwrap_or(until);
            let unseen = until.saturating_sub(from) / 2;
            let alive = self.sweeper.last.flows_by_instance.get(&id).copied().unwrap_or(0);
            let alive = u32::try_from(alive).unwrap_or(u32::MAX);
            counted.insert(id, (alive, until - unseen));
        }
        self.counted = counted;
    }

    /// Flows that instances whose flows count were ever given.
    fn given(&self) -> HashMap<InstanceId, u64> {
        let ids = self.worker.translation().weighed_by_flows();
        ids.into_iter()
            .filter_map(|id| Some((id, self.maps.instance_traffic(id).ok()?.new_flows)))
            .collect()
    }
}

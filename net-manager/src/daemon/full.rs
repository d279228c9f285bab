//! Maps without room: counted always, logged once a minute.

use std::{collections::BTreeMap, time::Duration};

use tracing::warn;

use super::gate::Gate;

/// Writes that found no room, by map.
#[derive(Debug, Default)]
pub(super) struct FullMaps {
    counts: BTreeMap<&'static str, u64>,
    gate: Gate,
}

impl FullMaps {
    pub(super) fn count(&mut self, map: &'static str, now: Duration) {
        *self.counts.entry(map).or_default() += 1;
        if self.gate.pass(now).is_some() {
            warn!(
                counts = ?self.counts,
                "a map is full, some services cannot be reached: raise its size \
                 (--max-services, --max-instances, --max-nodes) and purge the data path"
            );
        }
    }

    pub(super) fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.iter().map(|(map, count)| ((*map).to_owned(), *count)).collect()
    }
}

//! The flow table: its two maps as one, and a walk through each of them in parts.

use std::fmt;

use aya::maps::{HashMap, IterableMap, MapData};
use net_common::{Flow, FlowKey};

use super::PinnedMaps;
use crate::{
    batch::{self, Batches},
    error::{MapsError, optional, read, removed, write},
    snapshot,
    take::take,
};

/// `BPF_NOEXIST`: only where there is nothing.
const NO_EXIST: u64 = 1;

/// One of the maps of the flow table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowTable {
    /// `opening`: flows that one side has not confirmed yet.
    Opening,
    /// `flows`.
    Established,
}

impl FlowTable {
    const fn map(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "flows",
        }
    }
}

/// A walk through a map of the flow table, as slow as its walker likes: between two steps, nothing
/// is held and nothing waits.
///
/// It comes by every entry that is there all the time, once.
pub struct FlowWalk {
    table: FlowTable,
    batches: Batches<FlowKey, Flow>,
    buckets: f64,
}

impl fmt::Debug for FlowWalk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let position = self.position();
        f.debug_struct("FlowWalk").field("table", &self.table).field("at", &position).finish()
    }
}

impl FlowWalk {
    pub fn table(&self) -> FlowTable {
        self.table
    }

    /// The next entries, perhaps none; `None` after the last.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn step<'a>(
        &'a mut self,
        maps: &PinnedMaps,
    ) -> Result<Option<impl Iterator<Item = (&'a FlowKey, &'a Flow)> + use<'a>>, MapsError> {
        let table = self.table;
        let failed = move |error| read(table.map())(batch::map_error(error));
        self.batches.next(maps.flow_map(self.table).map()).map_err(failed)
    }

    /// How much of the map is behind, from 0 to 1.
    pub fn position(&self) -> f64 {
        (f64::from(self.batches.bucket()) / self.buckets).min(1.0)
    }
}

impl PinnedMaps {
    /// # Errors
    /// The map's size cannot be read.
    pub fn walk_flows(&self, table: FlowTable) -> Result<FlowWalk, MapsError> {
        let capacity = snapshot::capacity(self.flow_map(table)).map_err(read(table.map()))?;
        // As many buckets as entries, rounded up (`htab_map_alloc` of the kernel).
        let buckets = f64::from(capacity).log2().ceil().exp2();
        Ok(FlowWalk { table, batches: Batches::new(), buckets })
    }

    /// Every entry of the flow table, those of flows that are not established yet included.
    ///
    /// # Errors
    /// The maps cannot be read.
    pub fn flows(&self) -> Result<Vec<(FlowKey, Flow)>, MapsError> {
        let mut flows = Vec::new();
        self.for_each_flow(|key, flow| {
            flows.push((key, flow));
            Ok::<_, MapsError>(())
        })?;
        Ok(flows)
    }

    /// Calls `each` for every entry of the flow table, many entries a system call. An entry whose
    /// flow is established meanwhile may be given twice.
    ///
    /// # Errors
    /// Those of the maps and of `each`, which end it.
    pub fn for_each_flow<E: From<MapsError>>(
        &self,
        mut each: impl FnMut(FlowKey, Flow) -> Result<(), E>,
    ) -> Result<(), E> {
        for table in [FlowTable::Opening, FlowTable::Established] {
            let failed = |error| read(table.map())(error).into();
            snapshot::for_each(self.flow_map(table), failed, &mut each)?;
        }
        Ok(())
    }

    /// The keys alone.
    pub fn flow_keys(&self) -> Result<Vec<FlowKey>, MapsError> {
        let mut keys = snapshot::keys(&self.flows).map_err(read("flows"))?;
        keys.extend(snapshot::keys(&self.opening).map_err(read("opening"))?);
        Ok(keys.into_iter().collect())
    }

    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, MapsError> {
        match optional(self.flows.get(key, 0)).map_err(read("flows"))? {
            Some(flow) => Ok(Some(flow)),
            None => optional(self.opening.get(key, 0)).map_err(read("opening")),
        }
    }

    /// Writes an entry of an established flow.
    pub fn set_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), MapsError> {
        self.flows.insert(key, flow, 0).map_err(write("flows"))
    }

    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<(), MapsError> {
        removed(self.flows.remove(key)).map_err(write("flows"))?;
        removed(self.opening.remove(key)).map_err(write("opening"))
    }

    /// Removes an entry that no packet has used since it was read as `known`, and nothing else has
    /// taken the place of; whether it did. `table` is where it was.
    ///
    /// One call in nearly every case. An entry that was used in between is out of the table for an
    /// instant: put back, rather than looked at before, because what is looked at before may be used
    /// before it is removed, and would be gone for good.
    pub fn remove_idle_flow(
        &mut self,
        table: FlowTable,
        key: &FlowKey,
        known: &Flow,
    ) -> Result<bool, MapsError> {
        let map = match table {
            FlowTable::Opening => &mut self.opening,
            FlowTable::Established => &mut self.flows,
        };
        let Some(taken) = take::<_, Flow>(map.map(), key).map_err(write(table.map()))? else {
            return Ok(false);
        };
        let is_same = |taken: &Flow| {
            (taken.last_seen_ns, taken.created_ns) == (known.last_seen_ns, known.created_ns)
        };
        if is_same(&taken) {
            return Ok(true);
        }
        // Another may be there already: it is newer.
        let _ = map.insert(key, taken, NO_EXIST);
        Ok(false)
    }

    fn flow_map(&self, table: FlowTable) -> &HashMap<MapData, FlowKey, Flow> {
        match table {
            FlowTable::Opening => &self.opening,
            FlowTable::Established => &self.flows,
        }
    }
}

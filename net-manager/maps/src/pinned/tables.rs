//! The lookup tables: which chunks each has, and their ids.

use std::{io, time::Duration};

use aya::{
    maps::{HashMap, MapData, MapError},
    sys::SyscallError,
};
use net_common::{Chunk, Table, limits};
use nix::time::{ClockId, clock_gettime};

use super::PinnedMaps;
use crate::{
    chunks::{self, Chunks, NoChunkLeft},
    error::{MapsError, optional, read, removed, write},
    shared::SharedArray,
    snapshot,
};

/// What the only writer of the lookup tables knows of them.
#[derive(Default)]
pub(super) struct WrittenTables {
    chunks: Chunks,
    tables: std::collections::HashMap<u32, Table>,
}

impl PinnedMaps {
    /// Instance ids of a slot's lookup table, repeated by weight; empty without one.
    pub fn table(&self, slot: u32) -> Result<Vec<u32>, MapsError> {
        let Some(table) = optional(self.tables.get(&slot, 0)).map_err(read("tables"))? else {
            return Ok(Vec::new());
        };
        let mut ids = Vec::new();
        for chunk in chunks::of(&table).take(chunks::needed(limits::TABLE_SLOTS as usize) as usize)
        {
            ids.extend(self.chunks.array().get(&chunk, 0).map_err(read("chunks"))?.ids);
        }
        ids.truncate(table.len as usize);
        Ok(ids)
    }

    /// Replaces a slot's lookup table in one step; no packet sees half of it. One without ids is
    /// removed.
    pub fn set_table(&mut self, slot: u32, ids: &[u32]) -> Result<(), MapsError> {
        let ids = &ids[..ids.len().min(limits::TABLE_SLOTS as usize)];
        let now = monotonic();
        if self.written_tables.is_none() {
            let tables = snapshot::entries(&self.tables).map_err(read("tables"))?;
            let chunks =
                Chunks::new(self.chunks.array().len(), tables.iter().map(|(_, table)| *table), now);
            self.written_tables =
                Some(WrittenTables { chunks, tables: tables.into_iter().collect() });
        }
        let WrittenTables { chunks: free, tables } = self.written_tables.get_or_insert_default();
        let before = if ids.is_empty() {
            removed(self.tables.remove(&slot)).map_err(write("tables"))?;
            tables.remove(&slot)
        } else {
            let count = chunks::needed(ids.len());
            let first = free.take(count, now).map_err(|NoChunkLeft| no_room("chunks"))?;
            let table = Table { first, len: ids.len() as u32 };
            let written = write_table(&mut self.chunks, &mut self.tables, slot, table, ids);
            if let Err(error) = written {
                free.give_back(chunks::of(&table), now);
                return Err(error);
            }
            tables.insert(slot, table)
        };
        if let Some(before) = before {
            free.give_back(chunks::of(&before), now);
        }
        Ok(())
    }

    /// As [`Self::set_table`], at chunks that are the caller's own: measurements that add services
    /// beside those of the net manager take them from the end.
    pub fn set_table_at(&mut self, slot: u32, first: u32, ids: &[u32]) -> Result<(), MapsError> {
        let table = Table { first, len: ids.len() as u32 };
        write_table(&mut self.chunks, &mut self.tables, slot, table, ids)
    }

    /// How many chunks all lookup tables have together.
    pub fn chunk_capacity(&self) -> u32 {
        self.chunks.array().len()
    }
}

/// First what is referred to.
fn write_table(
    chunks: &mut SharedArray<Chunk>,
    tables: &mut HashMap<MapData, u32, Table>,
    slot: u32,
    table: Table,
    ids: &[u32],
) -> Result<(), MapsError> {
    for (index, ids) in (table.first..).zip(ids.chunks(limits::CHUNK_IDS as usize)) {
        let mut chunk = Chunk::default();
        chunk.ids[..ids.len()].copy_from_slice(ids);
        chunks.set(index, &chunk).map_err(write("chunks"))?;
    }
    tables.insert(slot, table, 0).map_err(write("tables"))
}

/// `CLOCK_MONOTONIC`, that of the kernel programs.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

fn no_room(map: &'static str) -> MapsError {
    let io_error = io::Error::from(io::ErrorKind::StorageFull);
    let source = MapError::SyscallError(SyscallError { call: "bpf_map_update_elem", io_error });
    MapsError { doing: "write", map, source: Box::new(source) }
}

//! Which chunks of the lookup tables are free.
//!
//! A chunk that a table has left may still be read by a program that looked the table up just
//! before, so it rests until that must be over.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
    time::Duration,
};

use net_common::{Table, limits};

/// How long a chunk rests: a program runs for microseconds.
const REST: Duration = Duration::from_secs(1);

/// No row of chunks is long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoChunkLeft;

/// The chunks that a table of `len` ids takes.
pub(crate) fn needed(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX).div_ceil(limits::CHUNK_IDS)
}

/// The chunks of a table.
pub(crate) fn of(table: &Table) -> Range<u32> {
    table.first..table.first.saturating_add(needed(table.len as usize))
}

/// See the module's documentation. Time is an argument.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    /// Never given out yet, or free again: every chunk from here on.
    end: u32,
    capacity: u32,
    free: BTreeSet<u32>,
    resting: VecDeque<(Duration, Range<u32>)>,
}

impl Chunks {
    /// All but those that `tables` have; what nobody has may have been left just `now`.
    pub(crate) fn new(capacity: u32, tables: impl Iterator<Item = Table>, now: Duration) -> Self {
        let mut used = BTreeSet::new();
        for table in tables {
            used.extend(of(&table).filter(|chunk| *chunk < capacity));
        }
        let end = used.last().map_or(0, |last| last + 1);
        let mut chunks = Self { end, capacity, ..Self::default() };
        for chunk in (0..end).filter(|chunk| !used.contains(chunk)) {
            chunks.resting.push_back((now, chunk..chunk + 1));
        }
        chunks
    }

    /// A row of `count` chunks that nobody reads.
    pub(crate) fn take(&mut self, count: u32, now: Duration) -> Result<u32, NoChunkLeft> {
        while let Some((since, chunks)) = self.resting.front()
            && now.saturating_sub(*since) >= REST
        {
            self.free.extend(chunks.clone());
            self.resting.pop_front();
        }
        if let Some(first) = self.row(count) {
            for chunk in first..first + count {
                self.free.remove(&chunk);
            }
            return Ok(first);
        }
        if self.capacity - self.end < count {
            return Err(NoChunkLeft);
        }
        self.end += count;
        Ok(self.end - count)
    }

    /// The chunks that a table has left.
    pub(crate) fn give_back(&mut self, chunks: Range<u32>, now: Duration) {
        self.resting.push_back((now, chunks));
    }

    /// The first free chunks that follow one another, `count` of them.
    fn row(&self, count: u32) -> Option<u32> {
        let mut row = 0..0;
        for chunk in &self.free {
            row = if *chunk == row.end && !row.is_empty() {
                row.start..chunk + 1
            } else {
                *chunk..chunk + 1
            };
            if row.end - row.start >= count {
                return Some(row.start);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_chunk_is_given_out_again_after_its_rest_and_not_before() {
        let mut chunks = Chunks::new(4, std::iter::empty(), at(0));
        assert_eq!(chunks.take(3, at(0)), Ok(0));
        chunks.give_back(0..3, at(10));
        assert_eq!(chunks.take(1, at(1009)), Ok(3));
        assert_eq!(chunks.take(1, at(1009)), Err(NoChunkLeft));
        assert_eq!(chunks.take(2, at(1010)), Ok(0));
        assert_eq!(chunks.take(2, at(1010)), Err(NoChunkLeft));
        assert_eq!(chunks.take(1, at(1010)), Ok(2));
    }

    #[test]
    fn what_tables_have_is_not_given_out() {
        let tables = [Table { first: 1, len: 33 }, Table { first: 5, len: 1 }];
        let mut chunks = Chunks::new(8, tables.into_iter(), at(0));
        // 0, 3 and 4 are free, but may have been left a moment ago.
        assert_eq!(chunks.take(1, at(0)), Ok(6));
        assert_eq!(chunks.take(2, at(1000)), Ok(3));
        assert_eq!(chunks.take(1, at(1000)), Ok(0));
        assert_eq!(chunks.take(1, at(1000)), Ok(7));
        assert_eq!(chunks.take(1, at(1000)), Err(NoChunkLeft));
    }
}

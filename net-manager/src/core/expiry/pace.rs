//! How fast the flow table is looked through.
//!
//! A look costs the same whether anything has ended or not: 0.4 to 0.55 µs of one CPU an entry,
//! which is what the kernel takes to fetch it from memory and to copy it (a virtual machine of two
//! CPUs with kernel 6.18; 1,800,000 entries in 72 s cost 0.98 s, of which 3 % are ours). A flow that
//! has ended costs 5 µs more, for the system calls that remove it. How often that is spent goes with
//! what it is good for:
//!
//! * a small table is looked through every five seconds;
//! * a look at a large one takes its time, [`CALM`] entries a second: 1.4 % of a CPU, whatever the
//!   size, and 80 s for a million flows of two entries. Only beyond seven million entries that
//!   grows, so that nothing stays for longer than [`LONGEST`] after its end;
//! * where connections come and go, which shows in how many entries of the last look had ended, it
//!   takes a sixth of that;
//! * where entries are added, a look is over before half of the room that was left is used, and
//!   before the table has grown by half. Where none can be added, because the table is full of flows
//!   that live, there is no hurry either.

use std::time::Duration;

/// From the start of one look to that of the next, at least.
pub const EVERY: Duration = Duration::from_secs(5);
/// How long a look takes at most.
const LONGEST: Duration = Duration::from_secs(300);
/// Entries a second while nothing ends, and while [`MANY`] do.
const CALM: f64 = 25_000.0;
const BUSY: f64 = 150_000.0;
/// The part of all entries whose end makes it worth while to look again soon.
const MANY: f64 = 0.1;
/// Entries that are looked at without a rest: so many are there in a small table.
const AT_ONCE: f64 = 2_048.0;
/// Entries that may be added during a look at a small table.
const FEW: f64 = 65_536.0;
/// The part of a full table that may be replaced during a look.
const REPLACED: f64 = 1.0 / 64.0;

/// What the last look has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub entries: usize,
    /// Those of them that went.
    pub removed: usize,
}

/// How far a look has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// How many it has looked at.
    pub entries: usize,
    /// How much of the table is behind, from 0 to 1.
    pub position: f64,
    /// Since it began.
    pub elapsed: Duration,
    /// Entries added to the table since then.
    pub added: u64,
}

/// See the module's documentation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    per_second: f64,
    /// Entries that may be added from the start of a look to that of the next.
    room: f64,
}

impl Pace {
    /// `last` is what the last look has seen, if there was one; the table has room for `capacity`
    /// entries.
    pub fn new(last: Option<Seen>, capacity: u32) -> Self {
        let capacity = f64::from(capacity);
        let Some(last) = last else { return Self { per_second: BUSY, room: capacity / 2.0 } };
        let (entries, removed) = (last.entries as f64, last.removed as f64);
        let left = (entries - removed).max(0.0);
        let ended = (removed / entries.max(1.0) / MANY).min(1.0);
        let room = ((capacity - left) / 2.0).min((left / 2.0).max(FEW));
        Self { per_second: CALM + (BUSY - CALM) * ended, room: room.max(capacity * REPLACED) }
    }

    /// Whether a look goes on now, or rests.
    pub fn goes_on(&self, come: &Progress) -> bool {
        let secs = come.elapsed.as_secs_f64();
        come.entries as f64 <= AT_ONCE + self.per_second * secs
            || come.position <= secs / LONGEST.as_secs_f64()
            || come.position * self.room <= come.added as f64
    }

    /// Whether the next look begins: so long after the start of the last, with so many entries
    /// added since then.
    pub fn is_next_due(&self, elapsed: Duration, added: u64) -> bool {
        elapsed >= EVERY || added as f64 >= self.room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(100);
    const BATCH: usize = 256;

    /// How long a look at so many entries takes, which takes no time by itself, and the most
    /// entries that it has looked at in a row.
    fn look(pace: &Pace, entries: usize, added_per_second: f64) -> (Duration, usize) {
        let mut come = Progress { entries: 0, position: 0.0, elapsed: Duration::ZERO, added: 0 };
        let (mut row, mut longest) = (0, 0);
        while come.entries < entries {
            if pace.goes_on(&come) {
                come.entries += BATCH;
                come.position = come.entries as f64 / entries as f64;
                row += BATCH;
                longest = longest.max(row);
            } else {
                row = 0;
                come.elapsed += STEP;
                come.added = (added_per_second * come.elapsed.as_secs_f64()) as u64;
            }
        }
        (come.elapsed, longest)
    }

    fn seen(entries: usize, removed: usize) -> Option<Seen> {
        Some(Seen { entries, removed })
    }

    #[test]
    fn a_small_table_is_looked_through_at_once() {
        let pace = Pace::new(seen(2_000, 0), 262_144);
        assert_eq!(look(&pace, 2_000, 0.0).0, Duration::ZERO);
        assert!(!pace.is_next_due(Duration::from_millis(4_999), 0));
        assert!(pace.is_next_due(Duration::from_secs(5), 0));
    }

    #[test]
    fn a_large_table_where_nothing_ends_costs_the_same_at_any_size() {
        for (entries, secs) in [(200_000, 8), (2_000_000, 80), (7_000_000, 280)] {
            let pace = Pace::new(seen(entries, 0), entries as u32 * 2);
            let (took, row) = look(&pace, entries, 0.0);
            assert!(took.abs_diff(Duration::from_secs(secs)) <= STEP * 3, "{entries}: {took:?}");
            assert!(row <= 5_000, "{entries}: {row} without a rest");
        }
        let pace = Pace::new(seen(20_000_000, 0), 40_000_000);
        assert!(look(&pace, 20_000_000, 0.0).0 <= LONGEST);
    }

    #[test]
    fn a_table_where_many_have_ended_is_looked_through_sooner() {
        let pace = Pace::new(seen(2_000_000, 200_000), 4_000_000);
        assert!(look(&pace, 2_000_000, 0.0).0 <= Duration::from_secs(14));
        let pace = Pace::new(None, 4_000_000);
        assert!(look(&pace, 2_000_000, 0.0).0 <= Duration::from_secs(14), "who knows");
    }

    #[test]
    fn a_look_is_over_before_the_table_is_full() {
        let (entries, capacity, added_per_second) = (2_000_000, 2_262_144, 20_000.0);
        let pace = Pace::new(seen(entries, 0), capacity);
        let (took, _) = look(&pace, entries, added_per_second);
        let left = f64::from(capacity) - entries as f64;
        assert!(took.as_secs_f64() * added_per_second < left * 0.51, "{took:?}");
        assert!(took > Duration::from_secs(6), "and not much sooner: {took:?}");
        assert!(pace.is_next_due(Duration::from_secs(1), (left / 2.0) as u64));
    }

    #[test]
    fn a_table_full_of_what_lives_is_no_reason_to_hurry() {
        let (entries, capacity) = (2_262_144, 2_262_144);
        let pace = Pace::new(seen(entries, 0), capacity);
        assert!(look(&pace, entries, 0.0).0 > Duration::from_secs(50));
        assert!(!pace.is_next_due(Duration::from_secs(1), 30_000));
        let (took, _) = look(&pace, entries, 20_000.0);
        assert!(took < Duration::from_secs(2), "what ended makes room: {took:?}");
    }
}

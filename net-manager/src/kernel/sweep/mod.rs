//! Removes ended flows from the flow table, beside the asynchronous tasks.
//!
//! The table is gone through in parts, as fast as [`Pace`] says, and no entry is remembered: a
//! million flows cost no memory, and what they cost of a CPU is told there. An entry that lives
//! costs no system call of its own, one that ends costs one or two: its other half is looked up, and
//! both are removed.
//!
//! What is not established yet is in a map of its own, which is never large, and looked at every few
//! seconds whatever the rest takes.

mod census;
mod owners;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use net_common::{Flow, FlowKey, ProgramCounter};
use net_maps::{FlowTable, FlowWalk, MapsError, PinnedMaps};
use nix::time::{ClockId, clock_gettime};

use super::clock;
use crate::core::{
    expiry::{
        self, Timeouts, Verdict,
        pace::{EVERY, Pace, Progress},
    },
    tables::{InstanceId, Slot},
};
use census::Census;
use owners::Owners;

/// How long a rest is, after which it is looked whether there is to be another.
const REST: Duration = Duration::from_millis(100);

/// What a sweep did and saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// By the kernel's clock: a flow that was there then, and still is, was seen.
    pub began: Duration,
    pub entries: usize,
    pub removed: usize,
    /// Those that live and that both sides have confirmed.
    pub established: usize,
    /// Those that live and that they have not.
    pub opening: usize,
    /// Slots of the service IPs to which flows are alive.
    pub in_use: BTreeSet<Slot>,
    /// Flows in progress, by slot of the service IP that was dialled.
    pub flows_by_slot: BTreeMap<Slot, u64>,
    /// Flows in progress, by instance that answers them, or that has opened them to the outside.
    pub flows_by_instance: BTreeMap<InstanceId, u64>,
    pub took: Duration,
    /// How much of that a CPU worked.
    pub worked: Duration,
}

impl Swept {
    /// When a slot was last of use, whose last packet went by then: it is while a flow to it is
    /// alive, and while one may be that was placed since this sweep began.
    pub fn last_use(&self, slot: Slot, last_packet: Duration, now: Duration) -> Duration {
        let may_be_unseen = last_packet != Duration::ZERO && last_packet >= self.began;
        if may_be_unseen || self.in_use.contains(&slot) { now } else { last_packet }
    }
}

/// Why a sweep ended early.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error(transparent)]
    Open(#[from] net_maps::OpenError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error("the sweep was told to end")]
    Stopped,
    #[error("the sweep ended early")]
    Thread(#[source] tokio::task::JoinError),
}

/// Ends a sweep early.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    pub fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Entries that the programs have ever added to the map of established flows and not removed again.
///
/// # Errors
/// The counters cannot be read.
pub fn ever_added(maps: &PinnedMaps) -> Result<u64, MapsError> {
    let confirmed = maps.program_counter(ProgramCounter::FlowConfirmed)?.packets;
    let closed = maps.program_counter(ProgramCounter::FlowClosed)?.packets;
    // Two for each flow.
    Ok(confirmed.saturating_sub(closed) * 2)
}

/// Looks at every flow once. Blocks.
///
/// # Errors
/// The maps cannot be read or written, or the sweep was stopped.
pub fn sweep(
    bpffs_root: &Path,
    timeouts: &Timeouts,
    pace: &Pace,
    stop: &Stop,
) -> Result<Swept, SweepError> {
    let (began, worked) = (clock::now(), cpu_time());
    let mut sweeper = Sweeper::new(bpffs_root, timeouts, pace, stop)?;
    let (mut opening, mut looked) = (sweeper.look_through(FlowTable::Opening)?, Instant::now());
    let mut look = sweeper.begin(FlowTable::Established)?;
    while sweeper.go_on(&mut look)? {
        if looked.elapsed() >= EVERY {
            (opening, looked) = (sweeper.look_through(FlowTable::Opening)?, Instant::now());
        }
    }
    let established = look.census;
    Ok(Swept {
        began,
        entries: established.entries + opening.entries,
        removed: sweeper.removed,
        established: established.living,
        opening: opening.living,
        in_use: census::union(established.in_use(), opening.in_use()),
        flows_by_slot: census::sum(established.by_slot(), opening.by_slot()),
        flows_by_instance: census::sum(established.by_instance(), opening.by_instance()),
        took: clock::now().saturating_sub(began),
        worked: cpu_time().saturating_sub(worked),
    })
}

/// What this thread has had of the CPUs.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

struct Sweeper {
    maps: PinnedMaps,
    timeouts: Timeouts,
    pace: Pace,
    stop: Stop,
    /// At the start.
    ever_added: u64,
    now: Duration,
    owners: Owners,
    removed: usize,
}

/// A look at one map that is under way.
struct Look {
    walk: FlowWalk,
    began: Instant,
    census: Census,
}

impl Sweeper {
    fn new(
        bpffs_root: &Path,
        timeouts: &Timeouts,
        pace: &Pace,
        stop: &Stop,
    ) -> Result<Self, SweepError> {
        let maps = PinnedMaps::open(bpffs_root)?;
        Ok(Self {
            owners: Owners::new(&maps),
            ever_added: ever_added(&maps)?,
            maps,
            timeouts: *timeouts,
            pace: *pace,
            stop: stop.clone(),
            now: clock::now(),
            removed: 0,
        })
    }

    fn look_through(&mut self, table: FlowTable) -> Result<Census, SweepError> {
        let mut look = self.begin(table)?;
        while self.go_on(&mut look)? {}
        Ok(look.census)
    }

    fn begin(&self, table: FlowTable) -> Result<Look, SweepError> {
        let walk = self.maps.walk_flows(table)?;
        Ok(Look { walk, began: Instant::now(), census: Census::default() })
    }

    /// Looks at some more entries, or rests a moment; whether there are more.
    fn go_on(&mut self, look: &mut Look) -> Result<bool, SweepError> {
        if self.stop.0.load(Ordering::Relaxed) {
            return Err(SweepError::Stopped);
        }
        if self.is_ahead(look)? {
            thread::park_timeout(REST);
            return Ok(true);
        }
        let table = look.walk.table();
        let Some(entries) = look.walk.step(&self.maps)? else { return Ok(false) };
        self.now = clock::now();
        // Meanwhile entries are removed, which needs the maps for itself: the walk holds none.
        for (key, flow) in entries {
            self.look(table, key, flow, &mut look.census)?;
        }
        Ok(true)
    }

    fn is_ahead(&self, look: &Look) -> Result<bool, SweepError> {
        let mut come = Progress {
            entries: look.census.entries,
            position: look.walk.position(),
            elapsed: look.began.elapsed(),
            added: 0,
        };
        if self.pace.goes_on(&come) {
            return Ok(false);
        }
        if look.walk.table() == FlowTable::Opening {
            return Ok(true);
        }
        come.added = ever_added(&self.maps)?.saturating_sub(self.ever_added);
        Ok(!self.pace.goes_on(&come))
    }

    fn look(
        &mut self,
        table: FlowTable,
        key: &FlowKey,
        flow: &Flow,
        census: &mut Census,
    ) -> Result<(), SweepError> {
        census.entries += 1;
        if self.owners.is_orphan(&self.maps, key, flow)? {
            return self.remove(table, key, flow);
        }
        if expiry::may_have_ended(key, flow, &self.timeouts, self.now) {
            let instance = self.owners.instance(&self.maps, flow.instance)?;
            let look_up = |key: &FlowKey| self.maps.flow(key);
            let verdict =
                expiry::judge((key, flow), instance.as_ref(), &self.timeouts, self.now, look_up)?;
            if let Verdict::Ended { partner } = verdict {
                self.remove(table, key, flow)?;
                if let Some((partner, other)) = partner {
                    self.remove(table, &partner, &other)?;
                }
                return Ok(());
            }
        }
        census.count(flow, self.maps.slot_capacity(), self.maps.instance_capacity());
        Ok(())
    }

    /// An entry that was used since it was read stays.
    fn remove(&mut self, table: FlowTable, key: &FlowKey, read: &Flow) -> Result<(), SweepError> {
        if self.maps.remove_idle_flow(table, key, read)? {
            self.removed += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_of_use_while_a_flow_to_it_may_be_alive() {
        let at = Duration::from_secs;
        let swept = Swept { began: at(50), in_use: [7].into(), ..Swept::default() };
        assert_eq!(swept.last_use(7, at(10), at(100)), at(100), "an idle flow");
        assert_eq!(swept.last_use(8, at(10), at(100)), at(10));
        assert_eq!(swept.last_use(8, at(60), at(100)), at(100), "a flow that was not seen");
        assert_eq!(swept.last_use(9, at(0), at(100)), at(0), "never dialled");
        assert_eq!(Swept::default().last_use(8, at(1), at(100)), at(100), "nothing was seen yet");
    }
}

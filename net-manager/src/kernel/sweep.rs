//! Removes ended flows from the flow table, beside the asynchronous tasks: a full table takes a
//! while to read.
//!
//! Entries are looked at in passing, none is remembered, and after each piece of work comes a
//! longer rest: a million flows cost little memory and a part of one CPU.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, hash_map::Entry},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use net_common::{
    Flow, FlowKey, Instance, NodeState,
    flow::{OUTSIDE, flags},
};
use net_maps::{MapsError, PinnedMaps};

use super::clock;
use crate::core::{
    expiry::{self, Timeouts, Verdict},
    tables::{InstanceId, NodeId, Slot},
};

/// [`FlowKey::origin`] of packets from the tunnel has this bit; the rest is the node's id.
const FROM_NODE: u32 = 0x8000_0000;

/// Work before the first rest, so that a small table is done in one go.
const WORK: Duration = Duration::from_millis(20);
/// How many times as long as the work before it a rest is.
const REST: u32 = 3;
/// Entries between two looks at the clock.
const STRIDE: usize = 256;

/// What a sweep did and saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub entries: usize,
    /// Those of them that both sides had confirmed.
    pub confirmed: usize,
    pub removed: usize,
    /// Slots of the service IPs to which flows are alive.
    pub in_use: BTreeSet<Slot>,
    /// Flows in progress, by slot of the service IP that was dialled.
    pub flows_by_slot: BTreeMap<Slot, u64>,
    /// Flows in progress, by instance that answers them, or that has opened them to the outside.
    pub flows_by_instance: BTreeMap<InstanceId, u64>,
    pub took: Duration,
    /// How much of that was work and not rest.
    pub worked: Duration,
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

/// Looks at every flow once. Blocks.
///
/// # Errors
/// The maps cannot be read or written, or the sweep was stopped.
pub fn sweep(bpffs_root: &Path, timeouts: &Timeouts, stop: &Stop) -> Result<Swept, SweepError> {
    let table = PinnedMaps::open(bpffs_root)?;
    let mut sweeper = Sweeper {
        maps: PinnedMaps::open(bpffs_root)?,
        timeouts: *timeouts,
        now: clock::now(),
        owners: Owners::default(),
        swept: Swept::default(),
    };
    let mut pace = Pace::new(stop.clone());
    let started = Instant::now();
    table.for_each_flow(|key, flow| {
        if sweeper.swept.entries.is_multiple_of(STRIDE) {
            pace.rest()?;
            sweeper.now = clock::now();
        }
        sweeper.look(&key, &flow)
    })?;
    Ok(Swept { took: started.elapsed(), worked: pace.worked(), ..sweeper.swept })
}

struct Sweeper {
    maps: PinnedMaps,
    timeouts: Timeouts,
    now: Duration,
    owners: Owners,
    swept: Swept,
}

impl Sweeper {
    fn look(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), SweepError> {
        self.swept.entries += 1;
        self.swept.confirmed += usize::from(flow.flags & flags::CONFIRMED != 0);
        // An entry that was read a moment ago may follow what was just changed.
        if self.owners.is_orphan(&self.maps, key, flow)?
            && Owners::default().is_orphan(&self.maps, key, flow)?
        {
            return self.remove(key, flow);
        }
        let instance = self.owners.instance(&self.maps, flow.instance)?;
        let look_up = |key: &FlowKey| self.maps.flow(key);
        match expiry::judge((key, flow), instance.as_ref(), &self.timeouts, self.now, look_up)? {
            Verdict::Lives => self.count(flow),
            Verdict::Ended { partner } => {
                self.remove(key, flow)?;
                if let Some((partner, other)) = partner {
                    self.remove(&partner, &other)?;
                }
            }
        }
        Ok(())
    }

    fn count(&mut self, flow: &Flow) {
        if flow.service != 0 {
            self.swept.in_use.insert(flow.service);
        }
        if !expiry::counts(flow) || !expiry::is_in_progress(flow) {
            return;
        }
        if flow.service != 0 {
            *self.swept.flows_by_slot.entry(flow.service).or_default() += 1;
        }
        if flow.instance != 0 {
            *self.swept.flows_by_instance.entry(flow.instance).or_default() += 1;
        }
    }

    /// An entry that was used since it was read stays.
    fn remove(&mut self, key: &FlowKey, read: &Flow) -> Result<(), SweepError> {
        let is_unused = |flow: Flow| flow.last_seen_ns == read.last_seen_ns;
        if self.maps.flow(key)?.is_some_and(is_unused) {
            self.maps.remove_flow(key)?;
            self.swept.removed += 1;
        }
        Ok(())
    }
}

/// Rests after work.
struct Pace {
    stop: Stop,
    worked: Duration,
    since: Instant,
}

impl Pace {
    fn new(stop: Stop) -> Self {
        Self { stop, worked: Duration::ZERO, since: Instant::now() }
    }

    fn worked(&self) -> Duration {
        self.worked + self.since.elapsed()
    }

    fn rest(&mut self) -> Result<(), SweepError> {
        if self.stop.0.load(Ordering::Relaxed) {
            return Err(SweepError::Stopped);
        }
        let work = self.since.elapsed();
        if work < WORK {
            return Ok(());
        }
        self.worked += work;
        let until = Instant::now() + work * REST;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            thread::park_timeout(left);
        }
        self.since = Instant::now();
        Ok(())
    }
}

/// The instances and nodes that flows refer to, each looked up once.
#[derive(Debug, Default)]
struct Owners {
    instances: HashMap<InstanceId, Instance>,
    states: HashMap<NodeId, u32>,
}

impl Owners {
    fn instance(
        &mut self,
        maps: &PinnedMaps,
        id: InstanceId,
    ) -> Result<Option<Instance>, MapsError> {
        Ok(match (id, self.instances.entry(id)) {
            (0, _) => None,
            (_, Entry::Occupied(known)) => Some(*known.get()),
            (_, Entry::Vacant(unknown)) => Some(*unknown.insert(maps.instance(id)?)),
        })
    }

    /// Whether the instance or the node of a flow is gone, or another has its place.
    fn is_orphan(
        &mut self,
        maps: &PinnedMaps,
        key: &FlowKey,
        flow: &Flow,
    ) -> Result<bool, MapsError> {
        let instance = self.instance(maps, flow.instance)?;
        if instance.is_some_and(|known| known.generation != flow.generation) {
            return Ok(true);
        }
        let from = if key.origin & FROM_NODE == 0 { 0 } else { key.origin & !FROM_NODE };
        for id in [flow.node, from].into_iter().filter(|id| !matches!(*id, 0 | OUTSIDE)) {
            let state = match self.states.entry(id) {
                Entry::Occupied(known) => *known.get(),
                Entry::Vacant(unknown) => *unknown.insert(maps.node(id)?.state),
            };
            if state == NodeState::Absent as u32 {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

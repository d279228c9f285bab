//! A lookup table of the first worker, looked at all the time: what it was, and since when.

use std::{
    collections::BTreeSet,
    fmt,
    net::Ipv4Addr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use net_common::Addr;
use net_maps::{MapsError, PinnedMaps};

use crate::scene::Scene;

/// Between two looks; short against the time that a table stays as it is.
const PAUSE: Duration = Duration::from_millis(1);

/// Ids of the nodes that new flows go to; the worker itself is 0.
pub type Nodes = BTreeSet<u32>;

/// What the table became, and when that was seen.
#[derive(Clone, Debug)]
pub struct Change {
    pub at: Instant,
    pub nodes: Nodes,
}

#[derive(Debug, Default)]
struct Seen {
    changes: Vec<Change>,
    is_over: bool,
}

/// Looks until it is dropped.
pub struct Watch {
    seen: Arc<(Mutex<Seen>, Condvar)>,
    thread: Option<JoinHandle<Result<(), MapsError>>>,
}

impl Watch {
    /// Of the table of a service IP on the first worker.
    pub fn start(scene: &Scene, address: Ipv4Addr) -> Result<Self> {
        let maps = scene.maps(0)?;
        let seen: Arc<(Mutex<Seen>, Condvar)> = Arc::default();
        let shared = Arc::clone(&seen);
        let thread = thread::spawn(move || watch(&maps, Addr::from(address), &shared));
        Ok(Self { seen, thread: Some(thread) })
    }

    /// Waits until new flows go to these nodes and no others; when that was.
    pub fn wait(&self, nodes: &Nodes, limit: Duration) -> Result<Instant> {
        let deadline = Instant::now() + limit;
        let mut seen = lock(&self.seen.0);
        loop {
            match seen.changes.last() {
                Some(change) if change.nodes == *nodes => return Ok(change.at),
                _ => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("new flows do not go to the nodes {nodes:?}: {:?}", seen.changes);
            }
            let waited = self.seen.1.wait_timeout(seen, left);
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All that the table has been.
    pub fn changes(&self) -> Vec<Change> {
        lock(&self.seen.0).changes.clone()
    }
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the table was {:?}", self.changes())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        lock(&self.seen.0).is_over = true;
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => eprintln!("a table could not be watched: {error}"),
            Some(Err(_)) => eprintln!("a table could not be watched: it panicked"),
        }
    }
}

fn watch(
    maps: &PinnedMaps,
    address: Addr,
    (seen, changed): &(Mutex<Seen>, Condvar),
) -> Result<(), MapsError> {
    loop {
        let nodes = match maps.service(address)? {
            Some(service) => {
                let node = |id| Ok(maps.instance(id)?.node);
                maps.table(service.slot)?.into_iter().map(node).collect::<Result<Nodes, _>>()?
            }
            None => Nodes::new(),
        };
        let mut seen = lock(seen);
        if seen.is_over {
            return Ok(());
        }
        if seen.changes.last().is_none_or(|last| last.nodes != nodes) {
            seen.changes.push(Change { at: Instant::now(), nodes });
            changed.notify_all();
        }
        drop(seen);
        thread::park_timeout(PAUSE);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

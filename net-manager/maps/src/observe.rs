//! What people watch: flows that open and close, and drops, as the programs tell them while
//! somebody reads.
//!
//! The bit that says so is part of the entry of the map `config`, which the net manager writes
//! whole. So that neither undoes the other, both change it under a lock, and the net manager
//! keeps the bit as long as the reader's own lock is held: a reader that was killed leaves a bit
//! that the next writer of the entry clears.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::maps::{Array, MapData, RingBuf};
use net_common::{Config, Event, config::features, limits::OBSERVATIONS_BYTES};
use nix::fcntl::Flock;

use crate::{
    MapsError, OpenError,
    error::{read, write},
    open::find,
    pinned::open,
    ring::Fill,
    turns::Turn,
};

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error("somebody else watches this data path already; one can at a time")]
    Busy,
    #[error("cannot map the ring buffer `observations`")]
    Map(#[source] io::Error),
    #[error("cannot lock {}", dir.display())]
    Lock {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Bytes of a record.
const RECORD: usize = size_of::<Event>();

/// The one reader of the ring `observations`. The programs write to it from the first of these
/// until it is dropped.
pub struct Observer {
    dir: PathBuf,
    config: Array<MapData, Config>,
    ring: RingBuf<MapData>,
    fill: Fill,
    is_full: bool,
    overruns: u64,
    _turn: Flock<std::fs::File>,
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Observer {
    /// Begins to watch the data path below a bpffs root. What an earlier reader left in the ring
    /// is thrown away.
    ///
    /// # Errors
    /// There is none, or somebody else watches it.
    pub fn start(root: &Path) -> Result<Self, ObserveError> {
        let dir = find(root)?;
        let locked = |source| ObserveError::Lock { dir: dir.clone(), source };
        let writing = Turn::Config.wait(&dir).map_err(locked)?;
        let turn = Turn::Observe.try_take(&dir).map_err(locked)?.ok_or(ObserveError::Busy)?;
        let mut ring: RingBuf<MapData> = open(&dir, "observations")?;
        let fill = Fill::of(&ring.as_fd(), OBSERVATIONS_BYTES).map_err(ObserveError::Map)?;
        let mut config: Array<MapData, Config> = open(&dir, "config")?;
        while ring.next().is_some() {}
        set_bit(&mut config, true)?;
        drop(writing);
        Ok(Self { dir, config, ring, fill, is_full: false, overruns: 0, _turn: turn })
    }

    /// The next event, if there is one already.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let was_full = std::mem::replace(&mut self.is_full, self.fill.is_full(RECORD));
            self.overruns += u64::from(self.is_full && !was_full);
            let record = self.ring.next()?;
            if let Some(event) = event(&record) {
                return Some(event);
            }
        }
    }

    /// How often the ring was full since this was asked last. Events that happened meanwhile are
    /// lost; nobody counts them.
    pub fn take_overruns(&mut self) -> u64 {
        std::mem::take(&mut self.overruns)
    }
}

/// Readable when there is an event.
impl AsFd for Observer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // If it cannot be cleared, the next writer of the entry does.
        if let Ok(_writing) = Turn::Config.wait(&self.dir) {
            let _ = set_bit(&mut self.config, false);
        }
    }
}

/// The event of a record; a shorter record is none of ours.
fn event(record: &[u8]) -> Option<Event> {
    use zerocopy::FromBytes as _;
    Event::read_from_prefix(record).ok().map(|(event, _)| event)
}

/// Whether somebody watches: to be asked under the lock of the entry, which a new reader takes
/// first.
pub(crate) fn is_watched(dir: &Path) -> io::Result<bool> {
    Ok(Turn::Observe.try_take(dir)?.is_none())
}

fn set_bit(map: &mut Array<MapData, Config>, is_on: bool) -> Result<(), MapsError> {
    let mut config = map.get(&0, 0).map_err(read("config"))?;
    if is_on {
        config.features |= features::OBSERVE;
    } else {
        config.features &= !features::OBSERVE;
    }
    map.set(0, config, 0).map_err(write("config"))
}

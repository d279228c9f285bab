//! A bad line between two hosts: delay, loss, reordering, duplicates, damage, a small MTU, a cut.
//!
//! What the hosts send each other is led through a TUN interface in the router and handed on in
//! user space, so that it works on a kernel without netem, and only while a [`Relay`] is there:
//! before and after, and for all others, packets go the direct way. The hosts see nothing of it
//! but its faults. As on a line between machines, packets are cut to the MTU and have finished
//! checksums.
//!
//! Chance comes from a seed: the n-th packet of a direction has the same lot in every run. Who
//! counts, and shares the line with others, marks his own: see [`Relay::mark`].

mod lane;
mod too_big;
mod tun;

use std::{
    fmt,
    io::{self, PipeReader, PipeWriter},
    net::Ipv4Addr,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use self::{lane::Lane, tun::Tun};
use crate::netns::Netns;

pub use self::lane::{Counts, Faults};

/// Packets taken before those that are due are looked for.
const BATCH: usize = 64;

/// Of packets between the two ends of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the first end to the second.
    Forth,
    Back,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::Forth, Self::Back];
}

/// A line between two hosts whose faults can be changed at any time; it is without faults at
/// first, and the direct one again when this is dropped.
#[derive(Debug)]
pub struct Relay {
    lanes: Arc<Mutex<Lanes>>,
    /// Closed to end the thread.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<Result<()>>>,
    seed: u64,
}

impl Relay {
    /// Takes over what the hosts with these two addresses send each other by way of `router`.
    ///
    /// # Errors
    /// If the kernel has no TUN interfaces or policy routing, or without `CAP_NET_ADMIN`.
    pub fn between(router: &Netns, ends: [Ipv4Addr; 2], seed: u64) -> Result<Self> {
        let lanes = Arc::new(Mutex::new(Lanes { ends, is_marked: |_| true, lanes: lanes(seed) }));
        let (stopped, stop) = io::pipe().context("no pipe")?;
        let (ready, is_ready) = mpsc::channel();
        let shared = Arc::clone(&lanes);
        let thread = router.spawn(move || {
            let tun = match Tun::divert(ends) {
                Ok(tun) => tun,
                // The other end waits for this and for nothing else.
                Err(error) => return ready.send(Err(error)).context("nobody waits for a relay"),
            };
            ready.send(Ok(())).context("nobody waits for a relay")?;
            let outcome = run(&tun, &stopped, &shared).context("the relay cannot go on");
            outcome.and(tun.end())
        })?;
        let relay = Self { lanes, stop: Some(stop), thread: Some(thread), seed };
        is_ready.recv().context("the relay has ended")??;
        Ok(relay)
    }

    /// Says by their bytes, from the outer IP header on, which packets chance may hit and
    /// [`Counts`] are of: all, until this was called. The others meet delay, rate, MTU and cuts
    /// only.
    pub fn mark(&self, is_marked: fn(&[u8]) -> bool) {
        self.lanes().is_marked = is_marked;
    }

    /// Changes both directions, for the packets that come from now on.
    pub fn set(&self, faults: Faults) {
        for direction in Direction::BOTH {
            self.set_one(direction, faults);
        }
    }

    pub fn set_one(&self, direction: Direction, faults: Faults) {
        self.lanes().of(direction).set_faults(faults);
    }

    /// Longest IP packet that passes in either direction, in bytes; any without. Other faults
    /// stay.
    pub fn set_mtu(&self, mtu: Option<u16>) {
        let mut lanes = self.lanes();
        for direction in Direction::BOTH {
            let lane = lanes.of(direction);
            lane.set_faults(Faults { mtu, ..lane.faults() });
        }
    }

    /// Nothing passes in either direction from when this returns, also not what was under way.
    pub fn cut(&self) {
        for direction in Direction::BOTH {
            self.cut_one(direction);
        }
    }

    pub fn cut_one(&self, direction: Direction) {
        self.lanes().of(direction).cut();
    }

    /// Ends the cut of both directions; other faults are as before.
    pub fn heal(&self) {
        let mut lanes = self.lanes();
        for direction in Direction::BOTH {
            lanes.of(direction).heal();
        }
    }

    pub fn counts(&self, direction: Direction) -> Counts {
        self.lanes().of(direction).counts()
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        lock(&self.lanes)
    }
}

/// For the message of a test that failed: how to have the same line again, and what it did.
impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [forth, back] = Direction::BOTH.map(|direction| self.counts(direction));
        write!(f, "relay with seed {}; forth: {forth:?}; back: {back:?}", self.seed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("{self}");
        }
        drop(self.stop.take());
        let outcome = self.thread.take().map(JoinHandle::join);
        match outcome {
            None | Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) => eprintln!("{self}: {error:#}"),
            Some(Err(_)) => eprintln!("{self}: it panicked"),
        }
    }
}

#[derive(Debug)]
struct Lanes {
    ends: [Ipv4Addr; 2],
    is_marked: fn(&[u8]) -> bool,
    /// Forth and back.
    lanes: [Lane; 2],
}

fn lanes(seed: u64) -> [Lane; 2] {
    [Lane::new(seed), Lane::new(seed.wrapping_add(1))]
}

impl Lanes {
    fn of(&mut self, direction: Direction) -> &mut Lane {
        &mut self.lanes[direction as usize]
    }

    fn take(&mut self, packet: Vec<u8>, now: Instant) {
        // Anything else is what the kernel says by itself on a new interface.
        let Some(direction) = self.direction(&packet) else { return };
        let opposite = match direction {
            Direction::Forth => Direction::Back,
            Direction::Back => Direction::Forth,
        };
        let marked = (self.is_marked)(&packet);
        if let Some(error) = self.of(direction).take(packet, marked, now) {
            self.of(opposite).take(error, false, now);
        }
    }

    fn direction(&self, packet: &[u8]) -> Option<Direction> {
        let header = packet.first_chunk::<20>().filter(|header| header[0] >> 4 == 4)?;
        let to = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
        let [first, second] = self.ends;
        match to {
            to if to == second => Some(Direction::Forth),
            to if to == first => Some(Direction::Back),
            _ => None,
        }
    }

    fn leave(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.lanes.iter_mut().find_map(|lane| lane.leave(now))
    }

    fn next_due(&self) -> Option<Instant> {
        self.lanes.iter().filter_map(Lane::next_due).min()
    }
}

/// Hands packets on until the other end of `stopped` is closed.
fn run(tun: &Tun, stopped: &PipeReader, lanes: &Mutex<Lanes>) -> io::Result<()> {
    loop {
        let next_due = {
            // Locked while it sends: after a cut nothing more comes out.
            let mut lanes = lock(lanes);
            while let Some(packet) = lanes.leave(Instant::now()) {
                tun.send(&packet)?;
            }
            lanes.next_due()
        };
        let wait = next_due.map(|due| due.saturating_duration_since(Instant::now()));
        if is_stopped(tun, stopped, wait)? {
            return Ok(());
        }
        for _ in 0..BATCH {
            let Some(packet) = tun.receive()? else { break };
            lock(lanes).take(packet, Instant::now());
        }
    }
}

/// Waits for a packet, for the end, or for so long.
fn is_stopped(tun: &Tun, stopped: &PipeReader, wait: Option<Duration>) -> io::Result<bool> {
    let mut events = [
        PollFd::new(tun.as_fd(), PollFlags::POLLIN),
        PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
    ];
    match ppoll(&mut events, wait.map(TimeSpec::from_duration), None) {
        Ok(_) => Ok(events[1].any().unwrap_or(true)),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn lock(lanes: &Mutex<Lanes>) -> MutexGuard<'_, Lanes> {
    lanes.lock().unwrap_or_else(PoisonError::into_inner)
}

//! All peers: whom to probe when, and what answers and silence mean.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Settings,
    nonce::Secret,
    peer::{Ignored, Path, Peer},
};
use crate::core::tables::NodeId;

/// How much of a late start may be caught up at once: probes of this long a time.
const BURST: Duration = Duration::from_millis(10);
/// The golden ratio's fraction: peers start at multiples of it, which part the interval evenly
/// however many they are (three-distance theorem).
const SPREAD: f64 = 0.618_033_988_749_895;

/// A probe to be sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub node: NodeId,
    pub seq: u32,
    /// To be written into it, unless another time is said by [`Probes::sent`].
    pub sent: Duration,
    pub nonce: u64,
}

/// What came back from a node: the probe's own fields, and when the kernel received it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub seq: u32,
    pub sent: Duration,
    pub nonce: u64,
    pub received: Duration,
}

/// A peer is up or down now, and was not before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub node: NodeId,
    pub is_up: bool,
}

/// What is to be done now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub probes: Vec<Probe>,
    pub changes: Vec<Change>,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Taken { rtt: Duration, change: Option<Change> },
    Ignored(Ignored),
}

#[derive(Clone, Debug)]
struct Entry {
    peer: Peer,
    epoch: u64,
    /// When it is probed next.
    due: Duration,
    /// When it is down, if nothing comes; the same as in `verdicts`.
    down_at: Option<Duration>,
}

/// See the module's documentation.
///
/// The shell calls, each time with the present time: [`Probes::answer`] for every reply, *then*
/// [`Probes::poll`], and again at [`Probes::next_deadline`]. Replies first: those that wait while
/// the daemon was busy must not be missed.
#[derive(Clone, Debug)]
pub struct Probes {
    settings: Settings,
    secret: Secret,
    peers: BTreeMap<NodeId, Entry>,
    due: BTreeSet<(Duration, NodeId)>,
    verdicts: BTreeSet<(Duration, NodeId)>,
    /// Peers ever added.
    added: u64,
    /// When the next probe would leave if all left evenly (as the generic cell rate algorithm,
    /// ITU-T I.371).
    evenly: Duration,
    /// No peer is taken out before: this daemon was late itself.
    grace: Duration,
}

impl Probes {
    pub fn new(settings: Settings, secret: Secret) -> Self {
        Self {
            settings,
            secret,
            peers: BTreeMap::new(),
            due: BTreeSet::new(),
            verdicts: BTreeSet::new(),
            added: 0,
            evenly: Duration::ZERO,
            grace: Duration::ZERO,
        }
    }

    /// Adds a peer, which is up, or changes one. `must_answer`: the control plane says that it
    /// runs Xylem. One that need not is up until it has answered and then stops.
    pub fn set_peer(&mut self, node: NodeId, must_answer: bool, now: Duration) -> Option<Change> {
        let Some(entry) = self.peers.get_mut(&node) else {
            let phase = (self.added as f64 * SPREAD).fract();
            let due = now + self.settings.interval.mul_f64(phase);
            let peer = Peer::new(must_answer);
            self.peers.insert(node, Entry { peer, epoch: self.added, due, down_at: None });
            self.due.insert((due, node));
            self.added += 1;
            return None;
        };
        let was_up = entry.peer.is_up();
        entry.peer.set_must_answer(must_answer);
        let change = (entry.peer.is_up() != was_up).then_some(Change { node, is_up: !was_up });
        self.hurry(node, now);
        self.expect(node);
        change
    }

    /// Forgets a peer; its answers will be ignored.
    pub fn remove_peer(&mut self, node: NodeId) {
        if let Some(entry) = self.peers.remove(&node) {
            self.due.remove(&(entry.due, node));
            if let Some(at) = entry.down_at {
                self.verdicts.remove(&(at, node));
            }
        }
    }

    pub fn peers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.peers.keys().copied()
    }

    /// Whether new flows may go to a node; a node that is not probed is up.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_none_or(|entry| entry.peer.is_up())
    }

    /// The smoothed RTT to a node.
    pub fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.path(node, Duration::ZERO)?.rtt.map(|estimate| estimate.smoothed)
    }

    pub fn path(&self, node: NodeId, now: Duration) -> Option<Path> {
        self.peers.get(&node).map(|entry| entry.peer.path(&self.settings, now))
    }

    /// The probe left at this time, which is what it carries. To be called also when sending
    /// failed: a probe that cannot be sent is a probe that is lost.
    pub fn sent(&mut self, node: NodeId, seq: u32, at: Duration) {
        if let Some(entry) = self.peers.get_mut(&node) {
            entry.peer.sent(seq, at);
            self.expect(node);
        }
    }

    /// An answer came from a node; which node that is, the caller knows by its address.
    pub fn answer(&mut self, node: NodeId, reply: &Reply, now: Duration) -> Answered {
        let Some(entry) = self.peers.get_mut(&node) else {
            return Answered::Ignored(Ignored::NoPeer);
        };
        let was_up = entry.peer.is_up();
        match entry.peer.answer(&self.settings, reply, now) {
            Ok(rtt) => {
                let is_back = entry.peer.is_up() && !was_up;
                self.hurry(node, now);
                self.expect(node);
                let change = is_back.then_some(Change { node, is_up: true });
                Answered::Taken { rtt, change }
            }
            Err(ignored) => Answered::Ignored(ignored),
        }
    }

    /// Who is down by now, and whom to probe now.
    pub fn poll(&mut self, now: Duration) -> Step {
        let lateness = self.next_deadline().map_or(Duration::ZERO, |at| now.saturating_sub(at));
        if lateness > self.settings.interval {
            // As Lifeguard (Dadgar et al., 2018) says: doubt yourself before others. Answers may
            // wait that nobody has read yet.
            self.grace = now + self.settings.interval;
        }
        let mut step = Step::default();
        if now >= self.grace {
            while let Some((at, node)) = self.verdicts.first().copied().filter(|(at, _)| *at <= now)
            {
                self.verdicts.remove(&(at, node));
                if let Some(entry) = self.peers.get_mut(&node) {
                    entry.down_at = None;
                    entry.peer.go_down(&self.settings, now);
                    step.changes.push(Change { node, is_up: false });
                }
            }
        }
        while let Some((due, node)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            if self.evenly > now + BURST {
                break;
            }
            self.due.remove(&(due, node));
            step.probes.extend(self.probe(node, now));
        }
        step
    }

    /// When to poll next, in multiples of [`Settings::granularity`]; `None` without peers.
    pub fn next_deadline(&self) -> Option<Duration> {
        let probe = self.due.first().map(|(due, _)| (*due).max(self.evenly.saturating_sub(BURST)));
        let verdict = self.verdicts.first().map(|(at, _)| (*at).max(self.grace));
        let at = probe.into_iter().chain(verdict).min()?;
        let step = self.settings.granularity.as_nanos().max(1);
        let nanos = at.as_nanos().div_ceil(step) * step;
        Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    fn probe(&mut self, node: NodeId, now: Duration) -> Option<Probe> {
        let entry = self.peers.get_mut(&node)?;
        let seq = entry.peer.next_seq();
        let nonce = self.secret.nonce(node, entry.epoch, seq);
        entry.peer.send(&self.settings, nonce, now);

        // A whole number of periods later, so that the peers stay spread.
        let period = entry.peer.period(&self.settings, now).max(Duration::from_millis(1));
        let late = now.saturating_sub(entry.due).as_nanos() / period.as_nanos();
        entry.due += period * u32::try_from(late + 1).unwrap_or(u32::MAX);
        self.due.insert((entry.due, node));

        let gap = Duration::from_secs(1) / self.settings.probes_per_second.max(1);
        self.evenly = self.evenly.max(now) + gap;
        self.expect(node);
        Some(Probe { node, seq, sent: now, nonce })
    }

    /// Brings the next probe forward, where the peer is to be probed more often than before.
    fn hurry(&mut self, node: NodeId, now: Duration) {
        if let Some(entry) = self.peers.get_mut(&node) {
            let latest = now + entry.peer.period(&self.settings, now);
            if entry.due > latest {
                self.due.remove(&(entry.due, node));
                entry.due = latest;
                self.due.insert((latest, node));
            }
        }
    }

    /// Computes anew when a peer is down if nothing comes.
    fn expect(&mut self, node: NodeId) {
        let Some(entry) = self.peers.get_mut(&node) else { return };
        let down_at = entry.peer.down_at(&self.settings);
        if down_at != entry.down_at {
            if let Some(at) = entry.down_at {
                self.verdicts.remove(&(at, node));
            }
            self.verdicts.extend(down_at.map(|at| (at, node)));
            entry.down_at = down_at;
        }
    }
}

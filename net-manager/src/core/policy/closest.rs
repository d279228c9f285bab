//! Closest: the instances at the shortest round trip, and the next ones for what they cannot take.
//!
//! **Distance.** Two round trips are *alike* unless the longer exceeds the shorter by both more
//! than a fifth and more than 1 ms. 1 ms is 100 km of fibre; below it, queues and scheduling
//! decide and not distance, so all of a LAN (0.1 ms, with jitter of several times that) is one
//! place. What counts is not the measurement but the distance *held* of a node: it is replaced
//! once the measurement was unlike it in 3 successive rounds (500 ms apart or more). Noise
//! therefore changes nothing, and what is sustained counts within 1.5 s. A first measurement
//! counts at once; one that is lost (the node answers no probes any more) counts as any change.
//!
//! From this follows, for instances with room: with measurements that hold still for three
//! rounds, no instance is in the nearest ring while another is nearer by more than
//! `1.2³ + 3 ms` (held too short, ring wide, held too long); at rest it is far less.
//!
//! **Rings.** This node is a ring of its own: nothing is nearer, and no tunnel is needed. The
//! others follow by held distance: the nearest one left and all that are alike form a ring. Nodes
//! of unknown distance are the last ring, together.
//!
//! **Room.** An instance has all its room (1) up to 70 % CPU and none (0) from 90 %, in a straight
//! line between; a limit on flows, where one is set, counts the same way from 80 % of it. A ring
//! keeps as much of what reaches it as its roomiest instance has room, divided by room; the rest
//! spills to the next ring. What no ring keeps is divided equally among all: where nobody has
//! room, spreading hurts least. In proportion, and not all at once, because a report is old when
//! it arrives: an instance declared full would empty, be declared free and be flooded again. Room
//! is held until it changed by an eighth.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Candidate, HERE};
use crate::core::tables::NodeId;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Round trips are alike within this part of the shorter …
    pub alike_share: f64,
    /// … or within this.
    pub alike: Duration,
    /// Rounds for which a measurement must be unlike what is held.
    pub rounds: u32,
    /// Least time from one round to the next: calls in between are none.
    pub round: Duration,
    /// CPU in percent from which on an instance has less than all its room …
    pub busy_cpu_percent: f64,
    /// … and none.
    pub full_cpu_percent: f64,
    /// Flows in progress at which an instance has no room; `None` = any number will do.
    pub full_flows: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            alike_share: 0.2,
            alike: Duration::from_millis(1),
            rounds: 3,
            round: Duration::from_millis(500),
            busy_cpu_percent: 70.0,
            full_cpu_percent: 90.0,
            full_flows: None,
        }
    }
}

/// Part of the limit on flows from which on room shrinks.
const BUSY_FLOWS: f64 = 0.8;
/// Room is held until it changed by this much.
const ROOM_STEP: f64 = 0.125;

impl Settings {
    fn are_alike(&self, one: Duration, other: Duration) -> bool {
        let (shorter, longer) = (one.min(other), one.max(other));
        longer - shorter <= self.alike || longer <= shorter.mul_f64(1.0 + self.alike_share.max(0.0))
    }

    fn room(&self, candidate: &Candidate) -> f64 {
        let below = |value: f64, busy: f64, full: f64| {
            if value >= full { 0.0 } else { ((full - value) / (full - busy)).clamp(0.0, 1.0) }
        };
        let cpu = candidate.cpu().map_or(1.0, |cpu| {
            below(cpu, self.busy_cpu_percent.min(self.full_cpu_percent), self.full_cpu_percent)
        });
        let flows = self.full_flows.map_or(1.0, |full| {
            let full = f64::from(full);
            below(f64::from(candidate.flows), full * BUSY_FLOWS, full)
        });
        cpu.min(flows)
    }
}

/// What is held of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Distance {
    /// `None` = unknown.
    held: Option<Duration>,
    /// Successive rounds in which it was measured otherwise.
    unlike: u32,
}

/// What one table remembers from one update to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    distances: BTreeMap<NodeId, Distance>,
    /// By the number of the instance.
    rooms: BTreeMap<u32, f64>,
    last_round: Option<Duration>,
}

impl Memory {
    /// The distance that counts for a node; `None` = unknown, or no candidate is there.
    pub fn distance(&self, node: NodeId) -> Option<Duration> {
        if node == HERE { Some(Duration::ZERO) } else { self.distances.get(&node)?.held }
    }

    /// The share of new flows for each candidate, in their order; all of them take flows.
    pub(super) fn shares(
        &mut self,
        settings: &Settings,
        candidates: &[Candidate],
        now: Duration,
    ) -> Vec<f64> {
        self.measure(settings, candidates, now);
        self.look_for_room(settings, candidates);

        let mut shares = vec![0.0; candidates.len()];
        let mut arriving = 1.0;
        for ring in self.rings(settings, candidates) {
            let members =
                || (0..candidates.len()).filter(|at| ring.contains(&candidates[*at].node));
            let room = |at: usize| self.rooms[&candidates[at].number];
            let all: f64 = members().map(room).sum();
            let kept = arriving * members().map(room).fold(0.0, f64::max);
            if all > 0.0 {
                members().for_each(|at| shares[at] += kept * room(at) / all);
            }
            arriving -= kept;
        }
        let each = arriving / candidates.len() as f64;
        shares.iter_mut().for_each(|share| *share += each);
        shares
    }

    fn measure(&mut self, settings: &Settings, candidates: &[Candidate], now: Duration) {
        let is_round =
            self.last_round.is_none_or(|last| now.saturating_sub(last) >= settings.round);
        if is_round {
            self.last_round = Some(now);
        }
        // The same for all instances of a node; where it is not, the shortest, in any order.
        let mut measured: BTreeMap<NodeId, Option<Duration>> = BTreeMap::new();
        for candidate in candidates {
            let rtt = measured.entry(candidate.node).or_default();
            *rtt = [*rtt, candidate.rtt].into_iter().flatten().min();
        }
        self.distances.retain(|node, _| measured.contains_key(node));
        for (node, rtt) in measured {
            let distance = self.distances.entry(node).or_insert(Distance { held: rtt, unlike: 0 });
            match (distance.held, rtt) {
                (None, Some(_)) => *distance = Distance { held: rtt, unlike: 0 },
                (Some(held), Some(rtt)) if settings.are_alike(held, rtt) => distance.unlike = 0,
                (None, None) => distance.unlike = 0,
                (Some(_), _) if is_round => {
                    distance.unlike += 1;
                    if distance.unlike >= settings.rounds {
                        *distance = Distance { held: rtt, unlike: 0 };
                    }
                }
                (Some(_), _) => {}
            }
        }
    }

    fn look_for_room(&mut self, settings: &Settings, candidates: &[Candidate]) {
        let numbers: BTreeSet<u32> = candidates.iter().map(|candidate| candidate.number).collect();
        self.rooms.retain(|number, _| numbers.contains(number));
        for candidate in candidates {
            let room = settings.room(candidate);
            let held = self.rooms.entry(candidate.number).or_insert(room);
            let at_an_end = room == 0.0 || room == 1.0;
            if at_an_end || (room - *held).abs() >= ROOM_STEP {
                *held = room;
            }
        }
    }

    /// Nodes by distance, those that are alike together.
    fn rings(&self, settings: &Settings, candidates: &[Candidate]) -> Vec<BTreeSet<NodeId>> {
        let nodes: BTreeSet<NodeId> = candidates.iter().map(|candidate| candidate.node).collect();
        let mut known: Vec<(Duration, NodeId)> = nodes
            .iter()
            .filter(|node| **node != HERE)
            .filter_map(|node| Some((self.distance(*node)?, *node)))
            .collect();
        known.sort_unstable();

        let mut rings: Vec<BTreeSet<NodeId>> = Vec::new();
        if nodes.contains(&HERE) {
            rings.push([HERE].into());
        }
        while let Some((nearest, _)) = known.first().copied() {
            let alike = known.partition_point(|(rtt, _)| settings.are_alike(nearest, *rtt));
            rings.push(known.drain(..alike).map(|(_, node)| node).collect());
        }
        let unknown: BTreeSet<NodeId> =
            nodes.into_iter().filter(|node| self.distance(*node).is_none()).collect();
        if !unknown.is_empty() {
            rings.push(unknown);
        }
        rings
    }
}

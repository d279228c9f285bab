//! Peers in a simulated network: what the daemon would see, at the times it would see it.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::{Change, Ignored, Probe, Probes, Reply, Secret, Settings, probes::Answered};
use crate::core::tables::NodeId;

const T0: Duration = Duration::from_secs(1000);
const PEER: NodeId = 7;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What happens to a probe: the round trip that its answer takes, or that none comes.
type Fate = Option<Duration>;

struct Sim {
    probes: Probes,
    now: Duration,
    /// How much later than asked for the daemon polls.
    lateness: Duration,
    on_the_way: BTreeMap<(Duration, u64), (NodeId, Reply)>,
    launched: Vec<(Duration, NodeId)>,
    changes: Vec<(Duration, Change)>,
}

impl Sim {
    fn new(settings: Settings) -> Self {
        Self {
            probes: Probes::new(settings, Secret::new([7; 32])),
            now: T0,
            lateness: Duration::ZERO,
            on_the_way: BTreeMap::new(),
            launched: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// One peer that must answer.
    fn with_peer(settings: Settings) -> Self {
        let mut sim = Self::new(settings);
        assert_eq!(sim.probes.set_peer(PEER, true, T0), None);
        sim
    }

    /// Many peers that must answer, numbered from 1 on.
    fn with_peers(count: u32, settings: Settings) -> Self {
        let mut sim = Self::new(settings);
        for node in 1..=count {
            assert_eq!(sim.probes.set_peer(node, true, T0), None);
        }
        sim
    }

    fn run(&mut self, time: Duration, mut fate: impl FnMut(&Probe) -> Fate) {
        let end = self.now + time;
        loop {
            let poll = self.probes.next_deadline().map(|at| at.max(self.now) + self.lateness);
            let arrival = self.on_the_way.keys().next().map(|(at, _)| *at);
            let Some(next) = poll.into_iter().chain(arrival).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = next;
            // Answers first, then the poll, as the shell does it.
            while let Some(entry) = self.on_the_way.first_entry().filter(|e| e.key().0 <= next) {
                let (node, reply) = entry.remove();
                if let Answered::Taken { change: Some(change), .. } =
                    self.probes.answer(node, &reply, next)
                {
                    self.changes.push((next, change));
                }
            }
            if poll.is_some_and(|at| at <= next) {
                self.poll(&mut fate);
            }
        }
    }

    fn poll(&mut self, mut fate: impl FnMut(&Probe) -> Fate) {
        let step = self.probes.poll(self.now);
        self.changes.extend(step.changes.into_iter().map(|change| (self.now, change)));
        for probe in step.probes {
            self.launched.push((self.now, probe.node));
            if let Some(rtt) = fate(&probe) {
                let received = self.now + rtt;
                let Probe { node, seq, sent, nonce } = probe;
                let reply = Reply { seq, sent, nonce, received };
                self.on_the_way.insert((received, self.launched.len() as u64), (node, reply));
            }
        }
        let deadline = self.probes.next_deadline();
        assert!(deadline.is_none_or(|at| at > self.now), "it would poll without end");
    }

    fn is_up(&self) -> bool {
        self.probes.is_up(PEER)
    }

    /// Runs until the peer is up; returns how long that took.
    fn until_up(&mut self, rtt: Duration) -> Duration {
        let start = self.now;
        while !self.is_up() {
            self.run(ms(10), |_| Some(rtt));
            assert!(self.now - start < Duration::from_secs(60), "it never comes back");
        }
        self.now - start
    }
}

#[test]
fn a_path_is_measured() {
    let mut sim = Sim::with_peer(Settings::default());
    let mut count = 0;
    sim.run(ms(20_000), |_| {
        count += 1;
        (count % 4 != 0).then_some(ms(20))
    });
    let path = sim.probes.path(PEER, sim.now).unwrap();
    assert!(path.is_up && path.has_answered);
    assert_eq!(path.rtt.map(|estimate| estimate.smoothed), Some(ms(20)));
    assert_eq!(path.rtt_min, Some(ms(20)));
    assert_eq!(path.loss, Some(0.25));
    assert_eq!(path.stats.sent, count);
    assert_eq!(sim.changes, []);
}

#[test]
fn a_peer_that_dies_is_out_within_half_a_second_and_comes_back_by_itself() {
    let mut sim = Sim::with_peer(Settings::default());
    sim.run(ms(3000), |_| Some(ms(1)));
    sim.run(ms(500), |_| None);
    assert!(!sim.is_up());
    assert!(sim.changes[0].0 - (T0 + ms(3000)) <= ms(401));
    assert!(sim.until_up(ms(1)) <= ms(210), "two answers");
    assert_eq!(sim.probes.path(PEER, sim.now).unwrap().stats.downs, 1);
}

#[test]
fn two_lost_probes_are_nothing() {
    let mut sim = Sim::with_peer(Settings::default());
    sim.run(ms(60_000), |probe| (probe.seq % 3 == 0).then_some(ms(5)));
    assert_eq!(sim.changes, []);
}

#[test]
fn a_peer_that_must_answer_and_never_does_is_down_soon() {
    let mut sim = Sim::with_peer(Settings::default());
    sim.run(ms(1_150), |_| None);
    assert!(sim.is_up(), "a far one needs the time");
    sim.run(ms(100), |_| None);
    assert!(!sim.is_up());
}

#[test]
fn a_peer_that_need_not_answer_is_up_until_it_has_and_then_stops() {
    let mut sim = Sim::new(Settings::default());
    sim.probes.set_peer(PEER, false, T0);
    sim.run(ms(60_000), |_| None);
    assert_eq!(sim.changes, []);
    assert!(sim.launched.len() < 70, "it is rarely asked: {}", sim.launched.len());
    sim.run(ms(3_000), |_| Some(ms(1)));
    assert!(sim.probes.path(PEER, sim.now).unwrap().has_answered);
    sim.run(ms(500), |_| None);
    assert!(!sim.is_up());
}

#[test]
fn what_the_control_plane_says_of_a_peer_starts_it_anew() {
    let mut sim = Sim::new(Settings::default());
    sim.probes.set_peer(PEER, false, T0);
    sim.run(ms(10_000), |_| None);
    // Upgraded to Xylem: old silence is not held against it, new silence is.
    assert_eq!(sim.probes.set_peer(PEER, true, sim.now), None);
    sim.run(ms(1_000), |_| None);
    assert!(sim.is_up());
    sim.run(ms(350), |_| None);
    assert!(!sim.is_up());
    let up = Some(Change { node: PEER, is_up: true });
    assert_eq!(sim.probes.set_peer(PEER, false, sim.now), up);
    sim.run(ms(10_000), |_| None);
    assert!(sim.is_up());
}

#[test]
fn a_path_that_becomes_slow_is_used_again_once_its_answers_are_there() {
    let mut sim = Sim::with_peer(Settings::default());
    sim.run(ms(5_000), |_| Some(ms(5)));
    sim.run(ms(5_000), |_| Some(ms(700)));
    assert!(sim.is_up());
    assert!(sim.changes.len() <= 2, "{:?}", sim.changes);
    let stats = sim.probes.path(PEER, sim.now).unwrap().stats;
    assert!(stats.slow > 0 && stats.late == 0);
}

#[test]
fn who_flaps_is_taken_back_later_each_time_and_forgiven_in_the_end() {
    let mut sim = Sim::with_peer(Settings::default());
    sim.run(ms(1_000), |_| Some(ms(1)));
    let waits: Vec<Duration> = (0..7)
        .map(|_| {
            sim.run(ms(600), |_| None);
            assert!(!sim.is_up());
            sim.until_up(ms(1))
        })
        .collect();
    assert!(waits.is_sorted(), "{waits:?}");
    assert!(waits[0] <= ms(210) && waits[4] >= ms(1_500), "{waits:?}");
    assert!(waits[6] <= ms(6_500), "{waits:?}");
    sim.run(ms(150_000), |_| Some(ms(1)));
    sim.run(ms(600), |_| None);
    assert!(sim.until_up(ms(1)) <= ms(310));
}

#[test]
fn answers_in_a_row_are_what_counts() {
    let mut sim = Sim::with_peer(Settings::default());
    sim.run(ms(1_000), |_| Some(ms(1)));
    for _ in 0..3 {
        sim.run(ms(600), |_| None);
        sim.until_up(ms(1));
    }
    sim.run(ms(600), |_| None);
    // Every other probe is lost: eight in a row never come.
    sim.run(ms(5_000), |probe| (probe.seq % 2 == 0).then_some(ms(1)));
    assert!(!sim.is_up());
}

#[test]
fn what_does_not_fit_is_ignored_and_counted() {
    let mut sim = Sim::with_peer(Settings::default());
    let mut probes = Vec::new();
    sim.run(ms(300), |probe| {
        probes.push(*probe);
        None
    });
    let now = sim.now;
    let Probe { node, seq, sent, nonce } = probes[0];
    let reply = Reply { seq, sent, nonce, received: sent + ms(2) };
    let mut answer = |node, reply| sim.probes.answer(node, &reply, now);
    let ignored = Answered::Ignored;
    assert_eq!(answer(node + 1, reply), ignored(Ignored::NoPeer));
    assert_eq!(answer(node, Reply { seq: 99, ..reply }), ignored(Ignored::NotAwaited));
    assert_eq!(answer(node, Reply { seq: u32::MAX, ..reply }), ignored(Ignored::NotAwaited));
    assert_eq!(answer(node, Reply { nonce: nonce ^ 1, ..reply }), ignored(Ignored::Forged));
    assert_eq!(answer(node, Reply { sent: sent - ms(1), ..reply }), ignored(Ignored::Forged));
    assert_eq!(answer(node, Reply { received: sent - ms(1), ..reply }), ignored(Ignored::Forged));
    assert_eq!(answer(node, Reply { received: sent + ms(2_001), ..reply }), ignored(Ignored::Late));
    assert_eq!(answer(node, reply), Answered::Taken { rtt: ms(2), change: None });
    assert_eq!(answer(node, reply), ignored(Ignored::Duplicate));
    let stats = sim.probes.path(PEER, now).unwrap().stats;
    assert_eq!((stats.answered, stats.not_awaited, stats.late), (1, 2, 1));
    assert_eq!((stats.duplicate, stats.forged), (1, 3));
}

#[test]
fn the_time_of_sending_is_what_the_sender_says() {
    let mut sim = Sim::with_peer(Settings::default());
    let mut probe = None;
    sim.run(ms(50), |sent| {
        probe = Some(*sent);
        None
    });
    let Probe { node, seq, sent, nonce } = probe.unwrap();
    let left = sent + Duration::from_micros(40);
    sim.probes.sent(node, seq, left);
    let reply = Reply { seq, sent: left, nonce, received: left + Duration::from_micros(90) };
    let rtt = Duration::from_micros(90);
    let taken = Answered::Taken { rtt, change: None };
    assert_eq!(sim.probes.answer(node, &reply, sim.now), taken);
    assert_eq!(sim.probes.rtt(PEER), Some(rtt));
}

#[test]
fn a_removed_peer_is_forgotten_and_its_id_starts_anew() {
    let mut sim = Sim::with_peer(Settings::default());
    sim.run(ms(1_000), |_| Some(ms(1)));
    let old = sim.probes.poll(sim.now + ms(100)).probes[0];
    sim.probes.remove_peer(PEER);
    assert_eq!(sim.probes.next_deadline(), None);
    assert_eq!(sim.probes.path(PEER, sim.now), None);
    assert!(sim.is_up(), "what is not probed is up");
    sim.probes.set_peer(PEER, true, sim.now + ms(100));
    let nonces: BTreeMap<u32, u64> = (0..20)
        .flat_map(|n| sim.probes.poll(sim.now + ms(200 + n * 100)).probes)
        .map(|probe| (probe.seq, probe.nonce))
        .collect();
    assert_ne!(nonces.get(&old.seq), Some(&old.nonce), "and what the other was told is of no use");
    assert!(nonces.contains_key(&old.seq));
    let Probe { node, seq, sent, nonce } = old;
    let reply = Reply { seq, sent, nonce, received: sent + ms(1) };
    let forged = Answered::Ignored(Ignored::Forged);
    assert_eq!(sim.probes.answer(node, &reply, sim.now), forged);
}

#[test]
fn a_daemon_that_was_stopped_blames_nobody() {
    let mut sim = Sim::with_peers(50, Settings::default());
    sim.run(ms(2_000), |_| Some(ms(350)));
    for pause in [150, 399, 1_000, 5_000, 600_000] {
        // Four answers of each peer are on the way or wait in the ring buffer, and are read late.
        sim.now += ms(pause);
        let now = sim.now;
        sim.poll(|_| Some(ms(350)));
        for (_, (node, reply)) in std::mem::take(&mut sim.on_the_way) {
            sim.on_the_way.insert((now + ms(40), u64::from(node)), (node, reply));
        }
        sim.run(ms(1_000), |_| Some(ms(350)));
        assert_eq!(sim.changes, [], "after {pause} ms");
    }
}

#[test]
fn a_thousand_peers_are_probed_ten_times_a_second_each_and_never_at_once() {
    let mut sim = Sim::with_peers(1000, Settings::default());
    sim.run(ms(1_000), |_| Some(ms(1)));
    let mut each = BTreeMap::<NodeId, u32>::new();
    let mut in_ms = BTreeMap::<u128, u32>::new();
    for (at, node) in &sim.launched {
        *each.entry(*node).or_default() += 1;
        *in_ms.entry(at.as_millis()).or_default() += 1;
    }
    assert!(each.len() == 1000 && each.values().all(|count| (10..=11).contains(count)));
    let most = in_ms.values().max().unwrap();
    assert!(*most <= 13, "{most} in a millisecond, where 10 are even");
    assert_eq!(sim.changes, []);
}

#[test]
fn more_peers_than_the_rate_allows_are_probed_less_often_and_all() {
    let settings = Settings { probes_per_second: 1_000, ..Settings::default() };
    let mut sim = Sim::with_peers(500, settings);
    sim.run(ms(4_000), |_| Some(ms(1)));
    assert!(sim.launched.len() <= 4_011, "{}", sim.launched.len());
    let mut each = BTreeMap::<NodeId, u32>::new();
    sim.launched.iter().for_each(|(_, node)| *each.entry(*node).or_default() += 1);
    assert!(each.len() == 500 && each.values().all(|count| (7..=9).contains(count)));
    assert_eq!(sim.changes, []);
}

/// A small generator for fates, from a seed of proptest's.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever was before, when the peer is cut off and the daemon is no later than 10 ms, it is
    /// out 0.5 s later and stays out.
    #[test]
    fn a_dead_peer_is_out_within_half_a_second(
        seed: u64,
        rtt_us in 30..40_000_u64,
        jitter_us in 1..10_000_u64,
        loss_percent in 0..40_u64,
        lateness_us in 0..10_000_u64,
        life_ms in 1500..8_000_u64,
    ) {
        let mut sim = Sim::with_peer(Settings::default());
        sim.lateness = Duration::from_micros(lateness_us);
        let mut dice = Dice(seed);
        sim.run(ms(life_ms), |_| {
            let rtt = Duration::from_micros(rtt_us + dice.below(jitter_us));
            (dice.below(100) >= loss_percent).then_some(rtt)
        });
        // Answers that were reflected before are still on the way.
        sim.run(ms(500), |_| None);
        prop_assert!(!sim.is_up());
        let changes = sim.changes.len();
        sim.run(ms(20_000), |_| None);
        prop_assert_eq!(sim.changes.len(), changes);
    }

    /// Nobody is taken out whose answers come, from however far.
    #[test]
    fn a_peer_that_answers_is_never_out(
        seed: u64,
        rtt_us in 30..600_000_u64,
        jitter_percent in 0..15_u64,
        lateness_us in 0..10_000_u64,
    ) {
        let mut sim = Sim::with_peer(Settings::default());
        sim.lateness = Duration::from_micros(lateness_us);
        let mut dice = Dice(seed);
        sim.run(ms(10_000), |_| {
            let jitter = dice.below(rtt_us * jitter_percent / 100 + 1);
            Some(Duration::from_micros(rtt_us + jitter))
        });
        prop_assert_eq!(&sim.changes, &[]);
        let path = sim.probes.path(PEER, sim.now).expect("it is a peer");
        let smoothed = path.rtt.expect("it answered").smoothed.as_micros() as u64;
        prop_assert!(smoothed + 1 >= rtt_us && smoothed <= rtt_us * 115 / 100 + 1);
    }

    /// With any loss: changes alternate, what is said of the peer agrees with them, it comes back
    /// within the longest patience once the path is whole.
    #[test]
    fn changes_alternate_and_a_whole_path_is_always_taken_back(
        seed: u64,
        phases in prop::collection::vec((0..=100_u64, 50..4_000_u64), 1..12),
    ) {
        let mut sim = Sim::with_peer(Settings::default());
        let mut dice = Dice(seed);
        for (loss_percent, time) in phases {
            sim.run(ms(time), |_| (dice.below(100) >= loss_percent).then_some(ms(2)));
            let last = sim.changes.last().is_none_or(|(_, change)| change.is_up);
            prop_assert_eq!(sim.is_up(), last);
        }
        // 64 answers, and a second until an idle peer is asked.
        sim.run(ms(7_600), |_| Some(ms(2)));
        prop_assert!(sim.is_up());
        for (n, (_, change)) in sim.changes.iter().enumerate() {
            prop_assert_eq!(change.is_up, n % 2 == 1);
        }
        let path = sim.probes.path(PEER, sim.now).expect("it is a peer");
        let downs = sim.changes.iter().filter(|(_, change)| !change.is_up).count() as u64;
        prop_assert_eq!(path.stats.downs, downs);
        prop_assert_eq!(path.answers_missing, 0);
    }
}

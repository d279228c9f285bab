//! One direction of a relay: what becomes of each packet, and when.
//!
//! Pure: time is an argument and chance comes from a seed. A packet's lot depends on the seed, its
//! number among the marked and the faults in force, and on nothing that happened to packets before
//! it.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::too_big::{self, Allowance};

/// Packets under way at most; more are dropped, as by a router whose queue is full.
const QUEUE_MAX: usize = 8192;

/// Outer IPv4 and UDP headers: what lies behind them is not covered by the tunnel's own checksum,
/// which is 0.
const OUTER_LEN: usize = 28;

/// What a line does to packets. The default is a line without faults. Jitter, loss, copies and
/// damage are for marked packets only.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    pub delay: Duration,
    /// Up to so much more, evenly distributed, so that packets overtake one another.
    pub jitter: Duration,
    /// Share of packets that vanish, from 0 to 1.
    pub loss: f64,
    /// Share of packets that arrive twice, the copy after a jitter of its own and unharmed.
    pub duplication: f64,
    /// Share of packets in which one bit is turned over, behind the outer headers.
    pub corruption: f64,
    /// Length of the longest IP packet that passes, in bytes. The sender of a longer one that must
    /// not be fragmented is told by ICMP, at a router's modest rate.
    pub mtu: Option<u16>,
    /// As fast as it goes without.
    pub bytes_per_second: Option<u32>,
}

/// What became of the marked packets of one direction since the relay began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Came to the relay.
    pub taken: u64,
    /// Went on, copies included.
    pub delivered: u64,
    pub lost: u64,
    /// Copies made.
    pub duplicated: u64,
    pub corrupted: u64,
    /// Went on after one that had come later.
    pub reordered: u64,
    /// Longer than the MTU.
    pub too_big: u64,
    /// Dropped because of a cut, also those that were under way.
    pub cut: u64,
    /// Dropped because too many were under way.
    pub overflowed: u64,
}

#[derive(Debug)]
pub(super) struct Lane {
    chance: StdRng,
    faults: Faults,
    is_cut: bool,
    /// When the line has sent what came before; for the rate.
    free_at: Option<Instant>,
    under_way: BinaryHeap<Reverse<Waiting>>,
    /// Packets that were ever queued.
    queued: u64,
    /// Highest number of a marked packet that has left.
    last_left: u64,
    errors: Allowance,
    counts: Counts,
}

/// Ordered by when it leaves; of two at once the earlier goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due: Instant,
    order: u64,
    /// Of a marked packet.
    number: Option<u64>,
    packet: Vec<u8>,
}

/// All that chance has to say on a marked packet. Drawn for each, whether it is of use or not, so
/// that other faults do not shift what happens to later packets.
struct Lot {
    loss: f64,
    duplication: f64,
    corruption: f64,
    bit: f64,
    jitter: f64,
    jitter_of_copy: f64,
}

impl Lane {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            chance: StdRng::seed_from_u64(seed),
            faults: Faults::default(),
            is_cut: false,
            free_at: None,
            under_way: BinaryHeap::new(),
            queued: 0,
            last_left: 0,
            errors: Allowance::default(),
            counts: Counts::default(),
        }
    }

    pub(super) fn faults(&self) -> Faults {
        self.faults
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// For packets that come from now on.
    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    /// Nothing passes any more, also what is under way.
    pub(super) fn cut(&mut self) {
        self.is_cut = true;
        let marked = self.under_way.drain().filter(|Reverse(waiting)| waiting.number.is_some());
        self.counts.cut += marked.count() as u64;
    }

    pub(super) fn heal(&mut self) {
        self.is_cut = false;
    }

    /// Takes a packet, and returns the ICMP error for its sender if there is to be one.
    pub(super) fn take(&mut self, packet: Vec<u8>, marked: bool, now: Instant) -> Option<Vec<u8>> {
        self.counts.taken += u64::from(marked);
        let lot = marked.then(|| self.draw());
        if self.is_cut {
            self.counts.cut += u64::from(marked);
            return None;
        }
        if let Some(mtu) = self.faults.mtu.filter(|mtu| packet.len() > usize::from(*mtu)) {
            self.counts.too_big += u64::from(marked);
            return too_big::error(&packet, mtu).filter(|_| self.errors.spend(now));
        }
        match lot {
            Some(lot) => self.take_chance(packet, &lot, now),
            None => {
                let due = self.sent(packet.len(), now) + self.faults.delay;
                self.queue(packet, due, None);
            }
        }
        None
    }

    fn take_chance(&mut self, mut packet: Vec<u8>, lot: &Lot, now: Instant) {
        if lot.loss < self.faults.loss {
            self.counts.lost += 1;
            return;
        }
        let number = Some(self.counts.taken);
        let earliest = self.sent(packet.len(), now) + self.faults.delay;
        let due = |jitter| earliest + self.faults.jitter.mul_f64(jitter);
        let (due, due_of_copy) = (due(lot.jitter), due(lot.jitter_of_copy));
        if lot.duplication < self.faults.duplication {
            self.counts.duplicated += 1;
            self.queue(packet.clone(), due_of_copy, number);
        }
        if lot.corruption < self.faults.corruption && turn_bit(&mut packet, lot.bit) {
            self.counts.corrupted += 1;
        }
        self.queue(packet, due, number);
    }

    /// When the next packet leaves.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(waiting)| waiting.due)
    }

    /// A packet that is to leave by now.
    pub(super) fn leave(&mut self, now: Instant) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(waiting) = self.under_way.pop()?;
        if let Some(number) = waiting.number {
            self.counts.delivered += 1;
            self.counts.reordered += u64::from(number < self.last_left);
            self.last_left = self.last_left.max(number);
        }
        Some(waiting.packet)
    }

    /// When a packet of this length has been put on the line.
    fn sent(&mut self, len: usize, now: Instant) -> Instant {
        let start = self.free_at.map_or(now, |free_at| free_at.max(now));
        let time = self.faults.bytes_per_second.map_or(Duration::ZERO, |rate| {
            Duration::from_secs_f64(len as f64 / f64::from(rate.max(1)))
        });
        self.free_at = Some(start + time);
        start + time
    }

    fn queue(&mut self, packet: Vec<u8>, due: Instant, number: Option<u64>) {
        if self.under_way.len() >= QUEUE_MAX {
            self.counts.overflowed += u64::from(number.is_some());
            return;
        }
        self.queued += 1;
        self.under_way.push(Reverse(Waiting { due, order: self.queued, number, packet }));
    }

    fn draw(&mut self) -> Lot {
        let mut next = || self.chance.random::<f64>();
        Lot {
            loss: next(),
            duplication: next(),
            corruption: next(),
            bit: next(),
            jitter: next(),
            jitter_of_copy: next(),
        }
    }
}

/// Whether there was a bit to turn over behind the outer headers; `at` is from 0 to 1.
fn turn_bit(packet: &mut [u8], at: f64) -> bool {
    let Some(inner) = packet.get_mut(OUTER_LEN..).filter(|inner| !inner.is_empty()) else {
        return false;
    };
    let bit = (at * (inner.len() * 8) as f64) as usize;
    inner[bit / 8] ^= 1 << (bit % 8);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn packet(number: u32) -> Vec<u8> {
        let mut packet = vec![0; 100];
        packet[28..32].copy_from_slice(&number.to_be_bytes());
        packet
    }

    /// Sends packets 1 ms apart; what leaves, with the time since the start, and the counts.
    fn run(seed: u64, faults: Faults, packets: u32) -> (Vec<(Duration, Vec<u8>)>, Counts) {
        let start = Instant::now();
        let mut lane = Lane::new(seed);
        lane.set_faults(faults);
        let mut left = Vec::new();
        for number in 0..packets + 1000 {
            let now = start + MS * number;
            if number < packets {
                lane.take(packet(number), true, now);
            }
            left.extend(std::iter::from_fn(|| lane.leave(now)).map(|packet| (now - start, packet)));
        }
        (left, lane.counts())
    }

    #[test]
    fn line_without_faults_changes_nothing() {
        let (left, counts) = run(1, Faults::default(), 100);
        let sent: Vec<_> = (0..100).map(|number| (MS * number, packet(number))).collect();
        assert_eq!(left, sent);
        assert_eq!(counts, Counts { taken: 100, delivered: 100, ..Counts::default() });
    }

    #[test]
    fn seed_decides_and_other_faults_do_not_shift_it() {
        let faults = Faults { loss: 0.3, jitter: MS * 5, ..Faults::default() };
        let numbers = |left: Vec<(Duration, Vec<u8>)>| {
            let mut numbers: Vec<_> = left.into_iter().map(|(_, p)| p[28..32].to_vec()).collect();
            numbers.sort();
            numbers
        };
        assert_eq!(run(7, faults, 500), run(7, faults, 500));
        assert_ne!(run(7, faults, 500), run(8, faults, 500));
        let calm = Faults { loss: 0.3, ..Faults::default() };
        assert_eq!(numbers(run(7, faults, 500).0), numbers(run(7, calm, 500).0));
    }

    #[test]
    fn chance_spares_what_is_not_marked_and_a_cut_does_not() {
        let now = Instant::now();
        let mut lane = Lane::new(1);
        lane.set_faults(Faults { loss: 1.0, ..Faults::default() });
        lane.take(packet(0), true, now);
        lane.take(packet(1), false, now);
        assert_eq!(lane.leave(now), Some(packet(1)));
        lane.cut();
        lane.take(packet(2), false, now);
        assert_eq!(lane.leave(now), None);
        assert_eq!(lane.counts(), Counts { taken: 1, lost: 1, ..Counts::default() });
    }

    #[test]
    fn shares_are_kept_and_every_packet_is_accounted_for() {
        let faults = Faults {
            jitter: MS * 4,
            loss: 0.1,
            duplication: 0.2,
            corruption: 0.3,
            ..Faults::default()
        };
        let (left, counts) = run(3, faults, 10_000);
        let near = |count: u64, wanted: u64| count.abs_diff(wanted) < wanted / 10;
        assert!(near(counts.lost, 1000), "{counts:?}");
        assert!(near(counts.duplicated, 1800), "{counts:?}");
        assert!(near(counts.corrupted, 2700), "{counts:?}");
        assert!(counts.reordered > 1000, "{counts:?}");
        assert_eq!(counts.delivered, left.len() as u64);
        assert_eq!(counts.taken + counts.duplicated, counts.delivered + counts.lost);
    }

    #[test]
    fn corruption_is_one_bit_behind_the_outer_headers() {
        let (left, _) = run(5, Faults { corruption: 1.0, ..Faults::default() }, 1000);
        for (number, (_, arrived)) in (0..).zip(left) {
            let sent = packet(number);
            let turned: u32 = sent.iter().zip(&arrived).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!((turned, &arrived[..28]), (1, &sent[..28]));
        }
    }

    #[test]
    fn delay_and_rate_add_up() {
        let faults = Faults { delay: MS * 10, bytes_per_second: Some(50_000), ..Faults::default() };
        let (left, _) = run(1, faults, 10);
        // 100 bytes take 2 ms; they come every millisecond.
        let times: Vec<_> = left.iter().map(|(time, _)| time.as_millis()).collect();
        assert_eq!(times, [12, 14, 16, 18, 20, 22, 24, 26, 28, 30]);
    }

    #[test]
    fn cut_stops_what_is_under_way_and_healing_lets_pass() {
        let now = Instant::now();
        let mut lane = Lane::new(1);
        lane.set_faults(Faults { delay: MS, ..Faults::default() });
        lane.take(packet(0), true, now);
        lane.cut();
        lane.take(packet(1), true, now);
        assert_eq!(lane.leave(now + MS), None);
        lane.heal();
        lane.take(packet(2), true, now);
        assert_eq!(lane.leave(now + MS), Some(packet(2)));
        let counts = Counts { taken: 3, cut: 2, delivered: 1, ..Counts::default() };
        assert_eq!(lane.counts(), counts);
    }

    #[test]
    fn queue_is_bounded() {
        let now = Instant::now();
        let mut lane = Lane::new(1);
        lane.set_faults(Faults { delay: MS, ..Faults::default() });
        for number in 0..QUEUE_MAX as u32 + 5 {
            lane.take(packet(number), true, now);
        }
        assert_eq!(lane.counts().overflowed, 5);
    }
}

//! Packets that wait until somebody says who their destination is.
//!
//! Each destination waits for itself: one that is never answered delays no other. Everything is
//! bounded, in bytes over all, and in packets for each destination and each sender, so that an
//! instance that scans addresses spends its own share and no one else's.
//!
//! Nothing is dropped here. What cannot wait, or has waited long enough, comes back to the
//! caller, who sends it on: the kernel then finds no answer for it a second time and counts the
//! drop where all drops are counted.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use net_common::Addr;

/// What a packet waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Awaited {
    /// Who this service IP or instance IP is.
    Destination(Addr),
    /// The instance IP of the local instance with this namespace IP.
    Sender(Addr),
}

/// A packet with its Ethernet header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Namespace IP of the instance that sent it.
    pub src: Addr,
    pub frame: Bytes,
    /// When it was handed over.
    pub since: Duration,
}

/// How much may wait, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Over all packets.
    pub bytes: usize,
    pub packets_per_destination: usize,
    pub packets_per_sender: usize,
    /// From the first packet for a destination on.
    pub patience: Duration,
    /// An answer can get lost: the question is repeated after this long, until patience ends.
    pub ask_again_after: Duration,
    /// How long a refused destination is not asked for again.
    pub refusal: Duration,
    /// Refused destinations that are remembered.
    pub refusals: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes: 8 * 1024 * 1024,
            packets_per_destination: 128,
            packets_per_sender: 512,
            patience: Duration::from_secs(2),
            ask_again_after: Duration::from_millis(500),
            refusal: Duration::from_secs(1),
            refusals: 4096,
        }
    }
}

/// What became of a packet.
#[derive(Debug, PartialEq, Eq)]
pub enum Parked {
    /// It waits, and nobody has asked yet: ask now.
    Ask,
    /// It waits for a question already asked.
    Waits,
    /// It cannot wait: send it on.
    Returned(Packet),
}

#[derive(Debug)]
struct Queue {
    since: Duration,
    asked: Duration,
    packets: Vec<Packet>,
}

/// The parked packets. Time is `CLOCK_MONOTONIC`, as an argument.
#[derive(Debug)]
pub struct Parking {
    limits: Limits,
    queues: BTreeMap<Awaited, Queue>,
    bytes: usize,
    per_sender: BTreeMap<Addr, usize>,
    /// Refused destinations, and until when.
    refused: BTreeMap<Awaited, Duration>,
}

impl Parking {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            queues: BTreeMap::new(),
            bytes: 0,
            per_sender: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Lets a packet wait.
    pub fn park(&mut self, awaited: Awaited, packet: Packet, now: Duration) -> Parked {
        if self.refused.get(&awaited).is_some_and(|until| now < *until) {
            return Parked::Returned(packet);
        }
        let waiting = self.queues.get(&awaited).map_or(0, |queue| queue.packets.len());
        let of_sender = self.per_sender.get(&packet.src).copied().unwrap_or(0);
        if waiting >= self.limits.packets_per_destination
            || of_sender >= self.limits.packets_per_sender
            || self.bytes + packet.frame.len() > self.limits.bytes
        {
            return Parked::Returned(packet);
        }
        self.bytes += packet.frame.len();
        *self.per_sender.entry(packet.src).or_default() += 1;
        let queue = self.queues.entry(awaited).or_insert_with(|| Queue {
            since: now,
            asked: now,
            packets: Vec::new(),
        });
        queue.packets.push(packet);
        if queue.packets.len() == 1 { Parked::Ask } else { Parked::Waits }
    }

    /// The question is answered: its packets, in the order in which they came.
    pub fn release(&mut self, awaited: Awaited) -> Vec<Packet> {
        self.refused.remove(&awaited);
        self.take(awaited)
    }

    /// The answer is no: its packets, and no more questions for a while.
    pub fn refuse(&mut self, awaited: Awaited, now: Duration) -> Vec<Packet> {
        if self.refused.len() >= self.limits.refusals {
            self.refused.retain(|_, until| now < *until);
        }
        if self.refused.len() < self.limits.refusals {
            self.refused.insert(awaited, now + self.limits.refusal);
        }
        self.take(awaited)
    }

    /// Refuses whatever has waited for longer than patience allows.
    pub fn expire(&mut self, now: Duration) -> Vec<Packet> {
        let late: Vec<Awaited> = self
            .queues
            .iter()
            .filter(|(_, queue)| now.saturating_sub(queue.since) >= self.limits.patience)
            .map(|(awaited, _)| *awaited)
            .collect();
        late.into_iter().flat_map(|awaited| self.refuse(awaited, now)).collect()
    }

    /// The questions that are due to be asked again.
    pub fn ask_again(&mut self, now: Duration) -> Vec<Awaited> {
        let after = self.limits.ask_again_after;
        self.queues
            .iter_mut()
            .filter(|(_, queue)| now.saturating_sub(queue.asked) >= after)
            .map(|(awaited, queue)| {
                queue.asked = now;
                *awaited
            })
            .collect()
    }

    /// Every question that is open.
    pub fn awaited(&self) -> impl Iterator<Item = Awaited> + '_ {
        self.queues.keys().copied()
    }

    /// When [`Parking::expire`] or [`Parking::ask_again`] next has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.queues
            .values()
            .map(|queue| {
                (queue.since + self.limits.patience).min(queue.asked + self.limits.ask_again_after)
            })
            .min()
    }

    fn take(&mut self, awaited: Awaited) -> Vec<Packet> {
        let packets = self.queues.remove(&awaited).map(|queue| queue.packets).unwrap_or_default();
        for packet in &packets {
            self.bytes -= packet.frame.len();
            if let Some(count) = self.per_sender.get_mut(&packet.src) {
                *count -= 1;
                if *count == 0 {
                    self.per_sender.remove(&packet.src);
                }
            }
        }
        packets
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, net::Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    const T0: Duration = Duration::from_secs(100);

    fn destination(last: u8) -> Awaited {
        Awaited::Destination(Ipv4Addr::new(10, 30, 0, last).into())
    }

    fn packet(sender: u8, len: usize) -> Packet {
        Packet {
            src: Ipv4Addr::new(10, 18, 0, sender).into(),
            frame: vec![sender; len].into(),
            since: T0,
        }
    }

    #[test]
    fn only_the_first_packet_asks_and_all_come_back_in_order() {
        let mut parking = Parking::new(Limits::default());
        assert_eq!(parking.park(destination(1), packet(2, 60), T0), Parked::Ask);
        assert_eq!(parking.park(destination(1), packet(3, 61), T0), Parked::Waits);
        assert_eq!(parking.park(destination(2), packet(2, 62), T0), Parked::Ask);
        assert_eq!(parking.release(destination(1)), [packet(2, 60), packet(3, 61)]);
        assert_eq!(parking.release(destination(1)), []);
        assert_eq!(parking.awaited().collect::<Vec<_>>(), [destination(2)]);
    }

    #[test]
    fn an_unanswered_destination_is_asked_for_again_then_refused_then_asked_anew() {
        let limits = Limits::default();
        let mut parking = Parking::new(limits);
        parking.park(destination(1), packet(2, 60), T0);
        assert_eq!(parking.next_deadline(), Some(T0 + limits.ask_again_after));
        assert_eq!(parking.ask_again(T0 + limits.ask_again_after), [destination(1)]);
        assert_eq!(parking.ask_again(T0 + limits.ask_again_after), []);
        let end = T0 + limits.patience;
        assert_eq!(parking.expire(end - Duration::from_millis(1)), []);
        assert_eq!(parking.expire(end), [packet(2, 60)]);
        assert_eq!(parking.next_deadline(), None);
        let refused = parking.park(destination(1), packet(2, 61), end);
        assert_eq!(refused, Parked::Returned(packet(2, 61)));
        let later = end + limits.refusal;
        assert_eq!(parking.park(destination(1), packet(2, 62), later), Parked::Ask);
    }

    #[test]
    fn one_sender_cannot_take_the_room_of_others() {
        let mut parking = Parking::new(Limits { packets_per_sender: 3, ..Limits::default() });
        for last in 0..3 {
            assert_eq!(parking.park(destination(last), packet(2, 60), T0), Parked::Ask);
        }
        let fourth = parking.park(destination(9), packet(2, 60), T0);
        assert!(matches!(fourth, Parked::Returned(_)));
        assert_eq!(parking.park(destination(9), packet(3, 60), T0), Parked::Ask);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Park(u8, u8, usize),
        Release(u8),
        Refuse(u8),
        Wait(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..6_u8, 0..4_u8, 1..400_usize).prop_map(|(d, s, len)| Step::Park(d, s, len)),
            1 => (0..6_u8).prop_map(Step::Release),
            1 => (0..6_u8).prop_map(Step::Refuse),
            2 => (0..900_u64).prop_map(Step::Wait),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn limits_hold_and_no_packet_is_lost_or_doubled(steps in steps()) {
            let limits = Limits {
                bytes: 4000,
                packets_per_destination: 5,
                packets_per_sender: 8,
                ..Limits::default()
            };
            let mut parking = Parking::new(limits);
            let mut now = T0;
            let (mut sent, mut back) = (0, 0);
            let mut since: HashMap<Awaited, Duration> = HashMap::new();
            for step in steps {
                match step {
                    Step::Park(d, s, len) => {
                        sent += 1;
                        match parking.park(destination(d), packet(s, len), now) {
                            Parked::Ask => {
                                prop_assert!(since.insert(destination(d), now).is_none());
                            }
                            Parked::Waits => prop_assert!(since.contains_key(&destination(d))),
                            Parked::Returned(_) => back += 1,
                        }
                    }
                    Step::Release(d) => {
                        back += parking.release(destination(d)).len();
                        since.remove(&destination(d));
                    }
                    Step::Refuse(d) => {
                        back += parking.refuse(destination(d), now).len();
                        since.remove(&destination(d));
                    }
                    Step::Wait(ms) => {
                        now += Duration::from_millis(ms);
                        back += parking.expire(now).len();
                        since.retain(|_, since| now - *since < limits.patience);
                    }
                }
                prop_assert!(parking.bytes <= limits.bytes);
                let packets = || parking.queues.values().flat_map(|queue| &queue.packets);
                prop_assert_eq!(packets().count() + back, sent);
                prop_assert_eq!(packets().map(|p| p.frame.len()).sum::<usize>(), parking.bytes);
                prop_assert!(parking.per_sender.values().all(|n| (1..=8).contains(n)));
                prop_assert_eq!(parking.per_sender.values().sum::<usize>(), packets().count());
                prop_assert_eq!(parking.awaited().count(), since.len());
            }
        }
    }
}

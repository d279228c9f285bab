//! What the programs count, and what a packet changed of it.

use std::fmt;

use net_common::{Counter, DropReason, ProgramCounter, Traffic};

use crate::{batch, harness::Datapath};

/// Service IPs and instances that a test can have.
pub const MOST: u32 = 32;

type Counts = fn(u32, Direction) -> Count;

/// One counter.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Count {
    Drop(DropReason),
    Did(ProgramCounter),
    /// Of the service IP in a slot.
    Service(u32, Direction),
    /// Of an instance.
    Instance(u32, Direction),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Egress,
    Ingress,
    New,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::New => "new flows",
        })
    }
}

impl fmt::Debug for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drop(reason) => write!(f, "drop {}", reason.name()),
            Self::Did(counter) => write!(f, "{}", counter.name()),
            Self::Service(slot, direction) => write!(f, "service {slot} {direction}"),
            Self::Instance(id, direction) => write!(f, "instance {id} {direction}"),
        }
    }
}

/// All counters at one time.
#[derive(Default)]
pub struct Counters {
    all: Vec<(Count, Counter)>,
}

impl Counters {
    pub fn read(datapath: &Datapath) -> Self {
        let mut all = Vec::new();
        let counters = |map, len| {
            batch::per_cpu_values::<Counter>(datapath.map(map), len)
                .into_iter()
                .map(|cpus| sum(cpus.iter()))
        };
        let reasons = DropReason::ALL.iter().map(|reason| Count::Drop(*reason));
        all.extend(reasons.zip(counters("drops", DropReason::COUNT)));
        let programs = ProgramCounter::ALL.into_iter().map(Count::Did);
        all.extend(programs.zip(counters("program_counters", ProgramCounter::COUNT)));
        let of_services: Counts = Count::Service;
        let maps = [("service_traffic", of_services), ("instance_traffic", Count::Instance)];
        for (map, count) in maps {
            let traffic = batch::per_cpu_values::<Traffic>(datapath.map(map), MOST);
            for (index, cpus) in traffic.iter().enumerate() {
                let index = index as u32;
                let flows = cpus.iter().map(|traffic| traffic.new_flows).sum();
                all.extend([
                    (count(index, Direction::Egress), sum(cpus.iter().map(|t| &t.egress))),
                    (count(index, Direction::Ingress), sum(cpus.iter().map(|t| &t.ingress))),
                    (count(index, Direction::New), Counter { packets: flows, bytes: 0 }),
                ]);
            }
        }
        Self { all }
    }

    /// What changed since `before`, and by how much.
    pub fn since(&self, before: &Self) -> Vec<(Count, Counter)> {
        let change = |((count, after), (_, before)): (&(Count, Counter), &(Count, Counter))| {
            let packets = after.packets - before.packets;
            let bytes = after.bytes - before.bytes;
            (packets != 0 || bytes != 0).then_some((*count, Counter { packets, bytes }))
        };
        self.all.iter().zip(&before.all).filter_map(change).collect()
    }
}

fn sum<'a>(cpus: impl Iterator<Item = &'a Counter>) -> Counter {
    cpus.fold(Counter::default(), |sum, cpu| Counter {
        packets: sum.packets + cpu.packets,
        bytes: sum.bytes + cpu.bytes,
    })
}

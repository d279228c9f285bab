//! Services beside the measured ones, written into the pinned maps of a node as its net manager
//! writes them.
//!
//! The net manager does not know of them and leaves them alone: it looks at what it changes. They
//! have the highest numbers, chunks and addresses, it hands out the lowest.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use net_common::{Addr, Instance, InstanceState, Policy, Service};
use net_maps::{MapsError, Name, PinnedMaps};

/// Most of them: half of the IPv4 addresses that services can have.
pub(crate) const COUNT_MAX: u32 = 32_000;

/// Those of one node.
#[derive(Debug)]
pub(crate) struct Fillers {
    bpffs_root: PathBuf,
    count: u32,
}

impl Fillers {
    pub(crate) fn new(bpffs_root: &Path) -> Self {
        Self { bpffs_root: bpffs_root.to_owned(), count: 0 }
    }

    /// Makes it `count`, with as few writes as it takes.
    pub(crate) fn set_count(&mut self, count: u32) -> Result<()> {
        self.check_there()?;
        if count > self.count {
            self.for_each(self.count..count, add)?;
        } else {
            self.for_each(count..self.count, remove)?;
        }
        self.count = count;
        self.check_there()
    }

    /// How long the writes for one more take, at the median of some; it is removed again.
    pub(crate) fn time_adding(&self) -> Result<Duration> {
        const TRIES: usize = 9;
        let mut maps = self.open()?;
        let one_more = Filler::new(self.count, &maps);
        let mut times = [Duration::ZERO; TRIES];
        for time in &mut times {
            let start = Instant::now();
            add(&mut maps, &one_more)?;
            *time = start.elapsed();
            remove(&mut maps, &one_more)?;
        }
        times.sort_unstable();
        Ok(times[TRIES / 2])
    }

    fn for_each(
        &self,
        indices: std::ops::Range<u32>,
        write: fn(&mut PinnedMaps, &Filler) -> Result<(), MapsError>,
    ) -> Result<()> {
        let mut maps = self.open()?;
        for index in indices {
            let filler = Filler::new(index, &maps);
            write(&mut maps, &filler)?;
        }
        Ok(())
    }

    /// Who measures with them must know that nobody removed them meanwhile.
    fn check_there(&self) -> Result<()> {
        let maps = self.open()?;
        let ours = IpAddr::V4(address(COUNT_MAX))..=IpAddr::V4(address(0));
        let is_ours = |(addr, _): &(Addr, Service)| ours.contains(&addr.to_ip());
        let there = maps.services()?.iter().filter(|entry| is_ours(entry)).count();
        ensure!(
            there == self.count as usize,
            "{there} services are in the maps beside the measured ones and not {}",
            self.count
        );
        Ok(())
    }

    fn open(&self) -> Result<PinnedMaps> {
        PinnedMaps::open(&self.bpffs_root).context("no maps of the client's node")
    }
}

/// A service with one instance; nobody dials it.
struct Filler {
    name: Name,
    addr: Addr,
    slot: u32,
    instance: u32,
    chunk: u32,
}

impl Filler {
    fn new(index: u32, maps: &PinnedMaps) -> Self {
        Self {
            name: Name::try_from(format!("bench.bench.filler{index}.bench").as_str())
                .expect("short, and without a zero byte"),
            addr: address(index).into(),
            slot: maps.slot_capacity() - 1 - index,
            instance: maps.instance_capacity() - 1 - index,
            chunk: maps.chunk_capacity() - 1 - index,
        }
    }
}

/// From the end of 10.30.0.0/16.
fn address(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 30, 255, 254).to_bits() - index)
}

/// In the order in which the net manager plans them.
fn add(maps: &mut PinnedMaps, filler: &Filler) -> Result<(), MapsError> {
    let instance = Instance {
        namespace_ip_v4: Ipv4Addr::new(10, 18, 255, 254).into(),
        instance_ip_v4: filler.addr,
        generation: 1,
        service: filler.slot,
        state: InstanceState::Up as u32,
        ..Instance::default()
    };
    let service =
        Service { policy: Policy::RoundRobin as u32, slot: filler.slot, ..Service::default() };
    maps.set_name(filler.slot, &filler.name)?;
    maps.set_instance(filler.instance, &instance)?;
    maps.set_table_at(filler.slot, filler.chunk, &[filler.instance])?;
    maps.set_service(filler.addr, &service)
}

fn remove(maps: &mut PinnedMaps, filler: &Filler) -> Result<(), MapsError> {
    maps.remove_service(filler.addr)?;
    maps.set_table(filler.slot, &[])?;
    maps.set_instance(filler.instance, &Instance::default())?;
    maps.remove_name(filler.slot)
}

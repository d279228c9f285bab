//! What the programs count, each CPU for itself; summed here.

use aya::{
    Pod,
    maps::{MapData, MapError, PerCpuArray, PerCpuValues},
    util::nr_cpus,
};
use net_common::{Counter, DropReason, ProgramCounter, Traffic};

use super::PinnedMaps;
use crate::error::{MapsError, read, write};

impl PinnedMaps {
    /// Drops by reason since the maps were made, over all CPUs; reasons that never occurred
    /// included.
    pub fn drops(&self) -> Result<Vec<(DropReason, Counter)>, MapsError> {
        let counted = |reason: &DropReason| {
            let values = self.drops.get(&(*reason as u32), 0).map_err(read("drops"))?;
            Ok((*reason, sum(&values)))
        };
        DropReason::ALL.iter().map(counted).collect()
    }

    /// What the programs did since the maps were made, over all CPUs.
    pub fn program_counters(&self) -> Result<Vec<(ProgramCounter, Counter)>, MapsError> {
        let counted = |counter: &ProgramCounter| Ok((*counter, self.program_counter(*counter)?));
        ProgramCounter::ALL.iter().map(counted).collect()
    }

    pub fn program_counter(&self, counter: ProgramCounter) -> Result<Counter, MapsError> {
        let values = self.program_counters.get(&(counter as u32), 0);
        Ok(sum(&values.map_err(read("program_counters"))?))
    }

    /// Traffic of a service IP or instance IP, by its slot.
    pub fn service_traffic(&self, slot: u32) -> Result<Traffic, MapsError> {
        let values = self.service_traffic.get(&slot, 0).map_err(read("service_traffic"))?;
        Ok(sum_traffic(&values))
    }

    /// Traffic of an instance, by its id.
    pub fn instance_traffic(&self, id: u32) -> Result<Traffic, MapsError> {
        let values = self.instance_traffic.get(&id, 0).map_err(read("instance_traffic"))?;
        Ok(sum_traffic(&values))
    }

    /// A slot has no owner any more: the next one's counts begin at zero, and so does its turn.
    pub fn reset_slot(&mut self, slot: u32) -> Result<(), MapsError> {
        reset(&mut self.service_traffic, slot).map_err(write("service_traffic"))?;
        self.cursors.set(slot, 0, 0).map_err(write("cursors"))
    }

    /// An instance id has no owner any more: the next one's counts begin at zero.
    pub fn reset_instance_traffic(&mut self, id: u32) -> Result<(), MapsError> {
        reset(&mut self.instance_traffic, id).map_err(write("instance_traffic"))
    }
}

fn reset<V: Pod + Default>(
    array: &mut PerCpuArray<MapData, V>,
    index: u32,
) -> Result<(), MapError> {
    let cpus = nr_cpus().map_err(|(_, source)| MapError::IoError(source))?;
    let zeros = PerCpuValues::try_from(vec![V::default(); cpus]).map_err(MapError::IoError)?;
    array.set(index, zeros, 0)
}

fn sum(values: &PerCpuValues<Counter>) -> Counter {
    values.iter().fold(Counter::default(), |sum, value| add(sum, *value))
}

fn add(a: Counter, b: Counter) -> Counter {
    Counter { packets: a.packets.wrapping_add(b.packets), bytes: a.bytes.wrapping_add(b.bytes) }
}

fn sum_traffic(values: &PerCpuValues<Traffic>) -> Traffic {
    values.iter().fold(Traffic::default(), |sum, value| Traffic {
        egress: add(sum.egress, value.egress),
        ingress: add(sum.ingress, value.ingress),
        new_flows: sum.new_flows.wrapping_add(value.new_flows),
        last_used_ns: sum.last_used_ns.max(value.last_used_ns),
    })
}

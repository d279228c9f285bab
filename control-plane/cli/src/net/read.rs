//! From the pinned maps to a [`Snapshot`]: the only part of `xylem net` that makes system calls.
//!
//! Each entry costs one call or more, so that only what a command shows is read.

use std::collections::BTreeSet;

use net_common::Traffic;
use net_maps::{MapsError, PinnedMaps};
use nix::time::{ClockId, clock_gettime};

use super::snapshot::{KnownInstance, Snapshot};

impl Snapshot {
    /// The names of things: services, instances and nodes, without their traffic.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub(super) fn read(maps: &PinnedMaps) -> anyhow::Result<Self> {
        let names = maps.names()?.into_iter().map(|(slot, name)| (slot, name.to_string()));
        let instances = maps.instances()?.into_iter().map(|(id, entry)| {
            let traffic = Traffic::default();
            (id, KnownInstance { entry, traffic })
        });
        Ok(Self {
            now_ns: monotonic_ns()?,
            config: maps.config()?,
            names: names.collect(),
            services: maps.services()?,
            instances: instances.collect(),
            nodes: maps.nodes()?.into_iter().collect(),
            ..Self::default()
        })
    }

    /// # Errors
    /// When a map cannot be read.
    pub(super) fn read_tables(&mut self, maps: &PinnedMaps) -> Result<(), MapsError> {
        let slots: BTreeSet<u32> = self.services.iter().map(|(_, service)| service.slot).collect();
        for slot in slots {
            self.tables.insert(slot, maps.table(slot)?);
            self.service_traffic.insert(slot, maps.service_traffic(slot)?);
        }
        Ok(())
    }

    /// # Errors
    /// When a map cannot be read.
    pub(super) fn read_instance_traffic(&mut self, maps: &PinnedMaps) -> Result<(), MapsError> {
        for (id, instance) in &mut self.instances {
            instance.traffic = maps.instance_traffic(*id)?;
        }
        Ok(())
    }
}

/// The clock that the programs take their times from.
pub(super) fn monotonic_ns() -> nix::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    Ok(seconds * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0))
}

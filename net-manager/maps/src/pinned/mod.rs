//! The maps themselves.

mod counters;
mod flows;
mod tables;

use std::{
    fmt,
    hash::Hash,
    io,
    path::{Path, PathBuf},
};

use aya::{
    Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    sys::SyscallError,
};
use net_common::{
    Addr, Chunk, Config, Counter, Endpoint, Explanation, Flow, FlowKey, Instance, Node, PeerKey,
    Published, PublishedKey, Service, Table, Traffic, config::features, limits,
};

pub use flows::{FlowTable, FlowWalk};

use crate::{
    chunks,
    error::{MapsError, optional, read, removed, write},
    name::Name,
    observe,
    open::{OpenError, find, unreadable},
    shared::SharedArray,
    snapshot,
    turns::Turn,
};
use tables::WrittenTables;

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapUsage {
    pub name: &'static str,
    pub entries: u32,
    pub capacity: u32,
}

/// All pinned maps of one data path.
pub struct PinnedMaps {
    dir: PathBuf,
    config: Array<MapData, Config>,
    services: HashMap<MapData, Addr, Service>,
    tables: HashMap<MapData, u32, Table>,
    chunks: SharedArray<Chunk>,
    /// Known once the first table is written: who only reads does without.
    written_tables: Option<WrittenTables>,
    cursors: Array<MapData, u64>,
    instances: SharedArray<Instance>,
    nodes: Array<MapData, Node>,
    peers: HashMap<MapData, PeerKey, u32>,
    endpoints: HashMap<MapData, Addr, Endpoint>,
    flows: HashMap<MapData, FlowKey, Flow>,
    opening: HashMap<MapData, FlowKey, Flow>,
    published: HashMap<MapData, PublishedKey, Published>,
    explain: Array<MapData, Explanation>,
    service_traffic: PerCpuArray<MapData, Traffic>,
    instance_traffic: PerCpuArray<MapData, Traffic>,
    drops: PerCpuArray<MapData, Counter>,
    program_counters: PerCpuArray<MapData, Counter>,
    names: HashMap<MapData, u32, [u8; limits::NAME_BYTES]>,
}

impl fmt::Debug for PinnedMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedMaps").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl PinnedMaps {
    /// Opens the maps below a bpffs root (by default `/sys/fs/bpf/xylem`).
    ///
    /// # Errors
    /// There are none, they are of another layout, or they may not be opened.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let dir = find(root)?;
        Ok(Self {
            config: open(&dir, "config")?,
            services: open(&dir, "services")?,
            tables: open(&dir, "tables")?,
            chunks: SharedArray::new(open(&dir, "chunks")?),
            written_tables: None,
            cursors: open(&dir, "cursors")?,
            instances: SharedArray::new(open(&dir, "instances")?),
            nodes: open(&dir, "nodes")?,
            peers: open(&dir, "peers")?,
            endpoints: open(&dir, "endpoints")?,
            flows: open(&dir, "flows")?,
            opening: open(&dir, "opening")?,
            published: open(&dir, "published")?,
            explain: open(&dir, "explain")?,
            service_traffic: open(&dir, "service_traffic")?,
            instance_traffic: open(&dir, "instance_traffic")?,
            drops: open(&dir, "drops")?,
            program_counters: open(&dir, "program_counters")?,
            names: open(&dir, "names")?,
            dir,
        })
    }

    /// The folder of the maps.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The ring buffer of what must be acted on, which has one reader: the net manager.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open_events(root: &Path) -> Result<RingBuf<MapData>, OpenError> {
        open(&find(root)?, "events")
    }

    /// How full the maps are whose entries are counted by what there is, not by the machine.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn usage(&self) -> Result<Vec<MapUsage>, MapsError> {
        fn of<K: Pod + Eq + Hash, V: Pod>(
            name: &'static str,
            map: &HashMap<MapData, K, V>,
        ) -> Result<MapUsage, MapsError> {
            let mut entries = 0;
            snapshot::for_each(
                map,
                |error| read(name)(error),
                |_, _| {
                    entries += 1;
                    Ok(())
                },
            )?;
            let capacity = snapshot::capacity(map).map_err(read(name))?;
            Ok(MapUsage { name, entries, capacity })
        }
        let array = |name, entries: usize, capacity| MapUsage {
            name,
            entries: u32::try_from(entries).unwrap_or(u32::MAX),
            capacity,
        };
        let tables = snapshot::entries(&self.tables).map_err(read("tables"))?;
        let chunks = tables.iter().map(|(_, table)| chunks::of(table).len()).sum();
        Ok(vec![
            of("services", &self.services)?,
            array("chunks", chunks, self.chunks.array().len()),
            array("instances", self.instances()?.len(), self.instances.array().len()),
            array("nodes", self.nodes()?.len(), self.nodes.len()),
            of("peers", &self.peers)?,
            of("endpoints", &self.endpoints)?,
            of("published", &self.published)?,
            of("flows", &self.flows)?,
            of("opening", &self.opening)?,
        ])
    }

    pub fn config(&self) -> Result<Config, MapsError> {
        self.config.get(&0, 0).map_err(read("config"))
    }

    /// Replaces the entry, but for [`net_common::config::features::OBSERVE`], which belongs to who
    /// watches: see [`crate::Observer`].
    pub fn set_config(&mut self, config: &Config) -> Result<(), MapsError> {
        let failed = |source| write("config")(MapError::IoError(source));
        let _writing = Turn::Config.wait(&self.dir).map_err(failed)?;
        let mut config = *config;
        config.features &= !features::OBSERVE;
        if observe::is_watched(&self.dir).map_err(failed)? {
            config.features |= features::OBSERVE;
        }
        self.config.set(0, config, 0).map_err(write("config"))
    }

    pub fn services(&self) -> Result<Vec<(Addr, Service)>, MapsError> {
        snapshot::entries(&self.services).map_err(read("services"))
    }

    pub fn service(&self, addr: Addr) -> Result<Option<Service>, MapsError> {
        optional(self.services.get(&addr, 0)).map_err(read("services"))
    }

    pub fn set_service(&mut self, addr: Addr, service: &Service) -> Result<(), MapsError> {
        self.services.insert(addr, service, 0).map_err(write("services"))
    }

    pub fn remove_service(&mut self, addr: Addr) -> Result<(), MapsError> {
        removed(self.services.remove(&addr)).map_err(write("services"))
    }

    /// Every entry that was ever written, those of instances that are gone included.
    pub fn instances(&self) -> Result<Vec<(u32, Instance)>, MapsError> {
        snapshot::written(self.instances.array()).map_err(read("instances"))
    }

    pub fn instance(&self, id: u32) -> Result<Instance, MapsError> {
        self.instances.array().get(&id, 0).map_err(read("instances"))
    }

    pub fn set_instance(&mut self, id: u32, instance: &Instance) -> Result<(), MapsError> {
        self.instances.set(id, instance).map_err(write("instances"))
    }

    /// How many ids the map `instances` has.
    pub fn instance_capacity(&self) -> u32 {
        self.instances.array().len()
    }

    /// How many slots `tables`, `cursors` and `service_traffic` have.
    pub fn slot_capacity(&self) -> u32 {
        self.cursors.len().min(self.service_traffic.len())
    }

    pub fn nodes(&self) -> Result<Vec<(u32, Node)>, MapsError> {
        snapshot::written(&self.nodes).map_err(read("nodes"))
    }

    pub fn node(&self, id: u32) -> Result<Node, MapsError> {
        self.nodes.get(&id, 0).map_err(read("nodes"))
    }

    pub fn set_node(&mut self, id: u32, node: &Node) -> Result<(), MapsError> {
        self.nodes.set(id, node, 0).map_err(write("nodes"))
    }

    pub fn node_capacity(&self) -> u32 {
        self.nodes.len()
    }

    pub fn peers(&self) -> Result<Vec<(PeerKey, u32)>, MapsError> {
        snapshot::entries(&self.peers).map_err(read("peers"))
    }

    pub fn set_peer(&mut self, peer: &PeerKey, node: u32) -> Result<(), MapsError> {
        self.peers.insert(peer, node, 0).map_err(write("peers"))
    }

    pub fn remove_peer(&mut self, peer: &PeerKey) -> Result<(), MapsError> {
        removed(self.peers.remove(peer)).map_err(write("peers"))
    }

    pub fn endpoints(&self) -> Result<Vec<(Addr, Endpoint)>, MapsError> {
        snapshot::entries(&self.endpoints).map_err(read("endpoints"))
    }

    pub fn set_endpoint(&mut self, addr: Addr, endpoint: &Endpoint) -> Result<(), MapsError> {
        self.endpoints.insert(addr, endpoint, 0).map_err(write("endpoints"))
    }

    pub fn remove_endpoint(&mut self, addr: Addr) -> Result<(), MapsError> {
        removed(self.endpoints.remove(&addr)).map_err(write("endpoints"))
    }

    pub fn published(&self) -> Result<Vec<(PublishedKey, Published)>, MapsError> {
        snapshot::entries(&self.published).map_err(read("published"))
    }

    pub fn set_published(
        &mut self,
        key: &PublishedKey,
        published: &Published,
    ) -> Result<(), MapsError> {
        self.published.insert(key, published, 0).map_err(write("published"))
    }

    pub fn remove_published(&mut self, key: &PublishedKey) -> Result<(), MapsError> {
        removed(self.published.remove(key)).map_err(write("published"))
    }

    /// What was noted of the decision about the last packet that was looked at only.
    pub fn explanation(&self) -> Result<Explanation, MapsError> {
        self.explain.get(&0, 0).map_err(read("explain"))
    }

    pub fn clear_explanation(&mut self) -> Result<(), MapsError> {
        self.explain.set(0, Explanation::default(), 0).map_err(write("explain"))
    }

    /// By slot. Entries that are not names are left out.
    pub fn names(&self) -> Result<Vec<(u32, Name)>, MapsError> {
        let entries = snapshot::entries(&self.names).map_err(read("names"))?;
        let names = entries.into_iter();
        Ok(names.filter_map(|(slot, bytes)| Some((slot, Name::from_bytes(bytes).ok()?))).collect())
    }

    pub fn name(&self, slot: u32) -> Result<Option<Name>, MapsError> {
        let bytes = optional(self.names.get(&slot, 0)).map_err(read("names"))?;
        Ok(bytes.and_then(|bytes| Name::from_bytes(bytes).ok()))
    }

    pub fn set_name(&mut self, slot: u32, name: &Name) -> Result<(), MapsError> {
        self.names.insert(slot, name.to_bytes(), 0).map_err(write("names"))
    }

    pub fn remove_name(&mut self, slot: u32) -> Result<(), MapsError> {
        removed(self.names.remove(&slot)).map_err(write("names"))
    }
}

pub(crate) fn open<M: TryFrom<Map, Error = MapError>>(
    dir: &Path,
    name: &str,
) -> Result<M, OpenError> {
    let path = dir.join(name);
    let map = MapData::from_pin(&path).and_then(Map::from_map_data).and_then(M::try_from);
    map.map_err(|source| match source {
        MapError::SyscallError(SyscallError { io_error, .. })
            if io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            unreadable(&path, io_error)
        }
        source => OpenError::Map { path, source: Box::new(source) },
    })
}

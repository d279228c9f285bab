//! What the maps of the data path hold, as a value: once as it should be (desired), once as it
//! is (held).
//!
//! Every change goes through a `set_…`, which remembers the key, so that a plan looks at what
//! changed and not at ten thousand services.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use net_common::{
    Addr, Endpoint, Instance, InstanceState, Node, NodeState, PeerKey, Published, Service,
};
use net_maps::Name;
use xylem_types::port::NodePort;

/// A slot of a service IP or instance IP: index of its name, counters and lookup table. 0 is
/// never used.
pub type Slot = u32;
/// Index in the map `instances`; 0 is never used.
pub type InstanceId = u32;
/// Index in the map `nodes`; 0 is this node.
pub type NodeId = u32;

/// The outer source of a peer's packets, in an order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerAddr {
    pub addr: Addr,
    /// Host byte order.
    pub port: u16,
}

impl From<PeerAddr> for PeerKey {
    fn from(peer: PeerAddr) -> Self {
        Self { addr: peer.addr, port: peer.port.to_be(), _pad: 0 }
    }
}

impl From<PeerKey> for PeerAddr {
    fn from(key: PeerKey) -> Self {
        Self { addr: key.addr, port: u16::from_be(key.port) }
    }
}

impl fmt::Debug for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.addr, self.port)
    }
}

/// The contents of one map, and the keys whose value changed since they were last planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries<K, V> {
    entries: BTreeMap<K, V>,
    touched: BTreeSet<K>,
}

impl<K, V> Default for Entries<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), touched: BTreeSet::new() }
    }
}

impl<K: Copy + Ord, V: PartialEq> Entries<K, V> {
    pub fn get(&self, key: K) -> Option<&V> {
        self.entries.get(&key)
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (K, &V)> {
        self.entries.iter().map(|(key, value)| (*key, value))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn set(&mut self, key: K, value: V) {
        if self.entries.get(&key) != Some(&value) {
            self.entries.insert(key, value);
            self.touched.insert(key);
        }
    }

    pub fn remove(&mut self, key: K) {
        if self.entries.remove(&key).is_some() {
            self.touched.insert(key);
        }
    }

    /// The keys to plan for: those changed here.
    pub fn touched(&self) -> impl DoubleEndedIterator<Item = K> {
        self.touched.iter().copied()
    }

    /// Looks at every key of both sides with the next plan.
    pub fn touch_all(&mut self, other: &Self) {
        self.touched.extend(self.entries.keys().chain(other.entries.keys()));
    }

    pub fn planned(&mut self) {
        self.touched.clear();
    }
}

impl<K: Copy + Ord, V: PartialEq> FromIterator<(K, V)> for Entries<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(iter: I) -> Self {
        Self { entries: iter.into_iter().collect(), touched: BTreeSet::new() }
    }
}

/// The contents of all maps that user space writes.
///
/// An instance or a node that is gone stays as an entry in state `Absent`: the maps are arrays,
/// and the generation of an instance must survive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub services: Entries<Addr, Service>,
    /// Lookup tables that are not empty.
    pub tables: Entries<Slot, Vec<InstanceId>>,
    pub instances: Entries<InstanceId, Instance>,
    pub nodes: Entries<NodeId, Node>,
    pub peers: Entries<PeerAddr, NodeId>,
    pub endpoints: Entries<Addr, Endpoint>,
    pub published: Entries<NodePort, Published>,
    pub names: Entries<Slot, Name>,
}

impl Tables {
    /// Whether this instance exists.
    pub fn is_present(&self, id: InstanceId) -> bool {
        self.instances.get(id).is_some_and(is_present)
    }

    /// Looks at everything with the next plan.
    pub fn touch_all(&mut self, other: &Self) {
        self.services.touch_all(&other.services);
        self.tables.touch_all(&other.tables);
        self.instances.touch_all(&other.instances);
        self.nodes.touch_all(&other.nodes);
        self.peers.touch_all(&other.peers);
        self.endpoints.touch_all(&other.endpoints);
        self.published.touch_all(&other.published);
        self.names.touch_all(&other.names);
    }

    /// Forgets what changed.
    pub fn planned(&mut self) {
        self.services.planned();
        self.tables.planned();
        self.instances.planned();
        self.nodes.planned();
        self.peers.planned();
        self.endpoints.planned();
        self.published.planned();
        self.names.planned();
    }
}

/// Whether the entry is of an instance that exists.
pub fn is_present(instance: &Instance) -> bool {
    instance.state != InstanceState::Absent as u32
}

/// Whether the entry is of a node that exists.
pub fn is_known(node: &Node) -> bool {
    node.state != NodeState::Absent as u32
}

/// What stays of an instance that is gone.
pub fn absent(generation: u32) -> Instance {
    Instance { generation, state: InstanceState::Absent as u32, ..Instance::default() }
}

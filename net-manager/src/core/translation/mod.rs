//! The translation table: what the cluster answered, as the contents of the maps.
//!
//! Its state *is* the desired contents of the maps, plus indices over them that can be made anew
//! from the maps: a net manager that was killed continues from what the kernel holds.
//!
//! Ids and slots are stable for as long as they have an owner, because flows, counters and
//! cursors refer to them. The generation of an instance rises whenever its id gets another owner
//! or it moves, so that no flow follows an id to somewhere else.
//!
//! Of a service that is known, only the addresses that were dialled are in the maps; the others are
//! remembered here, so that dialling one of them asks nobody ([`Translation::dial`]).

mod balance;
mod dial;
mod learn;
mod local;
mod mtu;
mod nodes;
mod published;
mod recover;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use net_common::{Addr, Instance, InstanceState, NodeKind, Policy, limits};
use net_maps::Name;

use super::{
    ids::{Ids, NoIdLeft},
    ipam::Subnet,
    tables::{InstanceId, NodeId, PeerAddr, Slot, Tables, absent, is_present},
};
use balance::Balance;
pub use balance::Moved;
use dial::Offer;
pub use mtu::Carried;
use mtu::Mtus;
pub use nodes::{Macs, Path, Target, Targets};

/// What a slot of a service is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    /// The service itself, which its instances name; also its round-robin addresses. Its lookup
    /// table is there whether those were dialled or not.
    Service,
    /// Addresses of another policy, by its number.
    Policy(u32),
    /// The instance IP of the instance with this number.
    Instance(u32),
}

impl Purpose {
    fn of(policy: Policy) -> Self {
        match policy {
            Policy::RoundRobin => Self::Service,
            other => Self::Policy(other as u32),
        }
    }

    /// Of slots with a lookup table.
    fn choosing(self) -> Option<Policy> {
        match self {
            Self::Service => Some(Policy::RoundRobin),
            Self::Policy(raw) => Policy::from_raw(raw),
            Self::Instance(_) => None,
        }
    }
}

/// One service that this node knows.
#[derive(Clone, Debug, Default)]
struct Known {
    slots: BTreeMap<Purpose, Slot>,
    /// Every address that leads to it, dialled or not.
    offered: BTreeMap<Addr, Offer>,
    /// Its keys in the map `services`.
    addresses: BTreeSet<Addr>,
    instances: BTreeMap<u32, InstanceId>,
    /// Numbers of the instances that the cluster lists.
    listed: BTreeSet<u32>,
    /// What the instances use, by number, percent of one CPU, as far as that was told.
    cpu: BTreeMap<u32, f32>,
    balances: BTreeMap<Purpose, Balance>,
    /// Numbers of the instances that run here, and the host ends of their veth pairs.
    local: BTreeMap<u32, u32>,
}

/// A map that has no room for what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the map `{map}` is full with {capacity} entries; raise its size and start anew")]
pub struct MapFull {
    pub map: &'static str,
    pub capacity: u32,
}

/// Sizes of the maps whose indices are handed out here.
#[derive(Clone, Copy, Debug)]
pub struct Capacities {
    pub slots: u32,
    pub instances: u32,
    pub nodes: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self { slots: limits::SERVICES, instances: limits::INSTANCES, nodes: limits::NODES }
    }
}

/// An instance that runs on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalInstance {
    pub name: Name,
    pub number: u32,
    /// Host end of its veth pair.
    pub ifindex: u32,
    pub instance: Instance,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Translation {
    desired: Tables,
    services: BTreeMap<Name, Known>,
    /// Whose address it is, dialled or not.
    offers: BTreeMap<Addr, Name>,
    /// Services whose lookup tables are to be computed anew.
    unbalanced: BTreeSet<Name>,
    /// Flows in progress to an instance, as far as that was told.
    flows: BTreeMap<InstanceId, u32>,
    capacities: Capacities,
    slots: Ids,
    instance_ids: Ids,
    node_ids: Ids,
    nodes: BTreeMap<PeerAddr, NodeId>,
    /// How many instances are on a node.
    residents: BTreeMap<NodeId, u32>,
    /// The nodes that the cluster announced as peers.
    announced: BTreeSet<NodeId>,
    /// Where each was, by the worker's id.
    workers: BTreeMap<String, PeerAddr>,
    /// Whether the cluster has announced any since the start.
    confirmed: bool,
    mtus: Mtus,
    targets_changed: bool,
    /// What an unannounced host runs: Oakestra's proxy, unless the cluster announces peers.
    unannounced: NodeKind,
    me: PeerAddr,
    subnet: Option<Subnet>,
}

impl Translation {
    /// Nothing known but this node itself.
    pub fn new(me: PeerAddr, capacities: Capacities) -> Self {
        let none = BTreeSet::new();
        let mut translation = Self {
            desired: Tables::default(),
            services: BTreeMap::new(),
            offers: BTreeMap::new(),
            unbalanced: BTreeSet::new(),
            flows: BTreeMap::new(),
            capacities,
            slots: Ids::new(capacities.slots, &none),
            instance_ids: Ids::new(capacities.instances, &none),
            node_ids: Ids::new(capacities.nodes, &none),
            nodes: BTreeMap::new(),
            residents: BTreeMap::new(),
            announced: BTreeSet::new(),
            workers: BTreeMap::new(),
            confirmed: false,
            mtus: Mtus::default(),
            targets_changed: true,
            unannounced: NodeKind::Oakestra,
            me,
            subnet: None,
        };
        translation.desired.nodes.set(0, nodes::node(me, NodeKind::Xylem));
        translation
    }

    /// The namespace IPs of this node, or that it has none yet.
    pub fn set_subnet(&mut self, subnet: Option<Subnet>) {
        self.subnet = subnet;
    }

    pub fn desired(&self) -> &Tables {
        &self.desired
    }

    /// The maps hold what is desired: freed ids may be used again.
    pub fn settle(&mut self) {
        self.desired.planned();
        self.slots.settle();
        self.instance_ids.settle();
        self.node_ids.settle();
    }

    /// A write failed: everything is to be compared with `held` again.
    pub fn unsettle(&mut self, held: &Tables) {
        self.desired.touch_all(held);
    }

    /// Every service that this node knows.
    pub fn names(&self) -> impl Iterator<Item = Name> + '_ {
        self.services.keys().copied()
    }

    pub fn knows(&self, name: Name) -> bool {
        self.services.contains_key(&name)
    }

    /// The service and instance IPs of a service, dialled or not.
    pub fn addresses(&self, name: Name) -> impl Iterator<Item = Addr> + '_ {
        self.services.get(&name).into_iter().flat_map(|known| known.offered.keys().copied())
    }

    /// The slots of a service: its counters tell when it was last used.
    pub fn slots(&self, name: Name) -> impl Iterator<Item = Slot> + '_ {
        self.services.get(&name).into_iter().flat_map(|known| known.slots.values().copied())
    }

    /// Whether an instance of the service runs on this node.
    pub fn runs_here(&self, name: Name) -> bool {
        self.services.get(&name).is_some_and(|known| !known.local.is_empty())
    }

    /// The instances of this node.
    pub fn local(&self) -> impl Iterator<Item = LocalInstance> + '_ {
        self.services.iter().flat_map(move |(name, known)| {
            known.local.iter().filter_map(move |(number, ifindex)| {
                let instance = *self.desired.instances.get(*known.instances.get(number)?)?;
                Some(LocalInstance { name: *name, number: *number, ifindex: *ifindex, instance })
            })
        })
    }

    pub fn local_instance(&self, name: Name, number: u32) -> Option<LocalInstance> {
        let known = self.services.get(&name)?;
        let ifindex = *known.local.get(&number)?;
        let instance = *self.desired.instances.get(*known.instances.get(&number)?)?;
        Some(LocalInstance { name, number, ifindex, instance })
    }

    /// The instance of this node with this namespace IP.
    pub fn local_by_namespace_ip(&self, addr: Addr) -> Option<LocalInstance> {
        let endpoint = self.desired.endpoints.get(addr)?;
        let instance = self.desired.instances.get(endpoint.instance)?;
        self.local_instance(*self.desired.names.get(instance.service)?, instance.number)
    }

    /// The slot for one purpose of a service, made if it is not there.
    fn slot(&mut self, name: Name, purpose: Purpose) -> Result<Slot, MapFull> {
        if let Some(slot) = self.services.get(&name).and_then(|known| known.slots.get(&purpose)) {
            return Ok(*slot);
        }
        let capacity = self.capacities.slots;
        let slot = self.slots.take().map_err(|NoIdLeft| MapFull { map: "tables", capacity })?;
        self.desired.names.set(slot, name);
        self.services.entry(name).or_default().slots.insert(purpose, slot);
        Ok(slot)
    }

    /// Gives back the slot for one purpose, with the addresses that lead to it.
    fn drop_purpose(&mut self, name: Name, purpose: Purpose) {
        let Some(known) = self.services.get_mut(&name) else { return };
        known.balances.remove(&purpose);
        let Some(slot) = known.slots.remove(&purpose) else { return };
        let desired = &mut self.desired;
        known.addresses.retain(|addr| {
            let leads_here = desired.services.get(*addr).is_some_and(|own| own.slot == slot);
            if leads_here {
                desired.services.remove(*addr);
            }
            !leads_here
        });
        self.drop_slot(slot);
    }

    fn drop_slot(&mut self, slot: Slot) {
        self.desired.tables.remove(slot);
        self.desired.names.remove(slot);
        self.slots.give_back(slot);
    }

    fn instance(&self, name: Name, number: u32) -> Option<Instance> {
        let id = self.services.get(&name)?.instances.get(&number)?;
        self.desired.instances.get(*id).copied()
    }

    /// Writes an instance under its id, or a new one. Its generation is set here; what is not
    /// draining is up.
    fn put_instance(&mut self, name: Name, wanted: Instance) -> Result<(), MapFull> {
        let known = self.services.entry(name).or_default();
        let id = match known.instances.get(&wanted.number) {
            Some(id) => *id,
            None => {
                let capacity = self.capacities.instances;
                let full = MapFull { map: "instances", capacity };
                let id = self.instance_ids.take().map_err(|NoIdLeft| full)?;
                known.instances.insert(wanted.number, id);
                id
            }
        };
        let before = self.desired.instances.get(id).copied().unwrap_or_default();
        let stays = is_present(&before)
            && before.node == wanted.node
            && before.namespace_ip_v4 == wanted.namespace_ip_v4;
        let generation = if stays { before.generation } else { next_generation(before.generation) };
        let state = if wanted.state == InstanceState::Draining as u32 {
            InstanceState::Draining
        } else {
            InstanceState::Up
        };
        self.join_node(wanted.node);
        if is_present(&before) {
            self.leave_node(before.node);
        }
        let instance = Instance { generation, state: state as u32, ..wanted };
        self.desired.instances.set(id, instance);
        self.unbalanced.insert(name);
        Ok(())
    }

    /// Removes an instance and its instance IPs.
    fn drop_instance(&mut self, name: Name, number: u32) {
        self.withdraw_instance(name, number);
        self.drop_purpose(name, Purpose::Instance(number));
        let Some(known) = self.services.get_mut(&name) else { return };
        let Some(id) = known.instances.remove(&number) else { return };
        known.listed.remove(&number);
        known.cpu.remove(&number);
        self.flows.remove(&id);
        if let Some(instance) = self.desired.instances.get(id).copied() {
            self.leave_node(instance.node);
            self.desired.instances.set(id, absent(next_generation(instance.generation)));
        }
        self.instance_ids.give_back(id);
        self.unbalanced.insert(name);
    }
}

/// Never 0.
fn next_generation(generation: u32) -> u32 {
    generation.wrapping_add(1).max(1)
}

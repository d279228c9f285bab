//! The translation table made anew from what the maps hold, after a net manager was stopped,
//! killed or upgraded.
//!
//! What contradicts itself there is the half of a change that was not finished: it is left out
//! of what is desired, so the next plan removes it. Of a service, the maps know the addresses that
//! were dialled; the cluster tells the others again.

use std::collections::{BTreeMap, BTreeSet};

use net_common::{InstanceState, NodeKind, Policy};
use net_maps::Name;

use super::{
    Capacities, Known, Purpose, Translation, dial::Offer, next_generation, nodes::peer_addr,
};
use crate::core::{
    ids::Ids,
    tables::{InstanceId, PeerAddr, Slot, Tables, absent, is_known, is_present},
};

impl Translation {
    /// What `held` says, as the state to continue from.
    pub fn recover(held: &Tables, me: PeerAddr, capacities: Capacities) -> Self {
        let mut translation = Self::new(me, capacities);
        translation.recover_nodes(held);
        translation.recover_services(held);
        translation.recover_instances(held);
        translation.recover_addresses(held);
        translation.recover_listed(held);
        translation.recover_endpoints(held);
        let names: Vec<Name> = translation.services.keys().copied().collect();
        for name in names {
            translation.recover_balances(name, held);
        }
        translation.recover_published(held);
        translation.announced = translation.nodes.values().copied().collect();

        let desired = &translation.desired;
        translation.slots = Ids::new(capacities.slots, &keys(desired.names.iter()));
        let in_use = desired.instances.iter().filter(|(_, instance)| is_present(instance));
        translation.instance_ids = Ids::new(capacities.instances, &keys(in_use));
        let in_use = desired.nodes.iter().filter(|(_, node)| is_known(node));
        translation.node_ids = Ids::new(capacities.nodes, &keys(in_use));
        translation.desired.touch_all(held);
        translation
    }

    fn recover_nodes(&mut self, held: &Tables) {
        for (id, node) in held.nodes.iter().filter(|(id, node)| *id != 0 && is_known(node)) {
            let addr = peer_addr(node);
            if NodeKind::from_raw(node.kind).is_some() && !self.nodes.contains_key(&addr) {
                self.nodes.insert(addr, id);
                self.residents.insert(id, 0);
                self.desired.nodes.set(id, *node);
                self.desired.peers.set(addr, id);
            }
        }
    }

    /// The services themselves: each has the slot that its instances name, or, without any, the
    /// lowest of its slots that no other purpose claims.
    fn recover_services(&mut self, held: &Tables) {
        let mut slots: BTreeMap<Name, BTreeSet<Slot>> = BTreeMap::new();
        for (slot, name) in held.names.iter().filter(|(slot, _)| *slot != 0) {
            slots.entry(*name).or_default().insert(slot);
        }
        let mut claimed: BTreeMap<Slot, Policy> = BTreeMap::new();
        for (_, service) in held.services.iter() {
            claimed.extend(Policy::from_raw(service.policy).map(|policy| (service.slot, policy)));
        }
        let named: BTreeSet<Slot> = held
            .instances
            .iter()
            .filter(|(_, instance)| is_present(instance))
            .map(|(_, instance)| instance.service)
            .collect();
        for (name, slots) in slots {
            let is_free =
                |slot: &&Slot| claimed.get(slot).is_none_or(|policy| *policy == Policy::RoundRobin);
            let home = slots.iter().find(|slot| named.contains(slot)).or_else(|| {
                slots.iter().filter(is_free).max_by_key(|slot| claimed.contains_key(slot))
            });
            if let Some(home) = home {
                self.desired.names.set(*home, name);
                let known = Known { slots: [(Purpose::Service, *home)].into(), ..Known::default() };
                self.services.insert(name, known);
            }
        }
    }

    fn recover_instances(&mut self, held: &Tables) {
        for (id, instance) in held.instances.iter().filter(|(id, _)| *id != 0) {
            let name = self.desired.names.get(instance.service).copied();
            let known = name.and_then(|name| self.services.get_mut(&name));
            let node = instance.node == 0 || self.residents.contains_key(&instance.node);
            match known {
                Some(known)
                    if is_present(instance)
                        && node
                        && instance.generation != 0
                        && known.slots[&Purpose::Service] == instance.service
                        && !known.instances.contains_key(&instance.number) =>
                {
                    known.instances.insert(instance.number, id);
                    *self.residents.entry(instance.node).or_default() += 1;
                    self.desired.instances.set(id, *instance);
                }
                Some(_) | None => {
                    let generation = if is_present(instance) {
                        next_generation(instance.generation)
                    } else {
                        instance.generation
                    };
                    self.desired.instances.set(id, absent(generation));
                }
            }
        }
    }

    fn recover_addresses(&mut self, held: &Tables) {
        for (addr, service) in held.services.iter() {
            let Some(name) = held.names.get(service.slot).copied() else { continue };
            let Some(policy) = Policy::from_raw(service.policy) else { continue };
            let Some(known) = self.services.get_mut(&name) else { continue };
            let purpose = match policy {
                Policy::Instance => match number_of(known, service.instance) {
                    Some(number) => Purpose::Instance(number),
                    None => continue,
                },
                choosing => Purpose::of(choosing),
            };
            let taken = known.slots.iter().any(|(p, s)| *s == service.slot && *p != purpose);
            if taken || *known.slots.entry(purpose).or_insert(service.slot) != service.slot {
                continue;
            }
            known.addresses.insert(addr);
            let number = if let Purpose::Instance(number) = purpose { number } else { 0 };
            known.offered.insert(addr, Offer { policy, number });
            self.offers.insert(addr, name);
            self.desired.names.set(service.slot, name);
            self.desired.services.set(addr, *service);
        }
    }

    /// Instances of other nodes are known because the cluster lists them. Those of this node are
    /// in the round-robin table once they are listed.
    fn recover_listed(&mut self, held: &Tables) {
        for known in self.services.values_mut() {
            let table = held.tables.get(known.slots[&Purpose::Service]);
            let is_listed = |id: InstanceId| {
                let instance = self.desired.instances.get(id);
                instance.is_some_and(|i| i.node != 0 || i.state == InstanceState::Draining as u32)
                    || table.is_some_and(|ids| ids.contains(&id))
            };
            let listed = known.instances.iter().filter(|(_, id)| is_listed(**id));
            known.listed = listed.map(|(number, _)| *number).collect();
        }
    }

    fn recover_endpoints(&mut self, held: &Tables) {
        for (addr, endpoint) in held.endpoints.iter() {
            let Some(instance) = self.desired.instances.get(endpoint.instance).copied() else {
                continue;
            };
            if addr == endpoint.namespace_ip
                && is_present(&instance)
                && instance.node == 0
                && instance.namespace_ip_v4 == addr
                && let Some(name) = self.desired.names.get(instance.service)
                && let Some(known) = self.services.get_mut(name)
            {
                known.local.insert(instance.number, endpoint.ifindex);
            }
        }
        // What is on this node and has no endpoint was being undeployed.
        let names: Vec<Name> = self.services.keys().copied().collect();
        for name in names {
            let known = &self.services[&name];
            let half: Vec<u32> = known
                .instances
                .iter()
                .filter(|(number, id)| {
                    let node = self.desired.instances.get(**id).map(|instance| instance.node);
                    node == Some(0) && !known.local.contains_key(number)
                })
                .map(|(number, _)| *number)
                .collect();
            for number in half {
                self.drop_local(name, number);
            }
            self.refresh_endpoints(name);
        }
    }
}

fn number_of(known: &Known, id: InstanceId) -> Option<u32> {
    known.instances.iter().find(|(_, own)| **own == id).map(|(number, _)| *number)
}

fn keys<V>(entries: impl Iterator<Item = (u32, V)>) -> BTreeSet<u32> {
    entries.map(|(key, _)| key).filter(|key| *key != 0).collect()
}

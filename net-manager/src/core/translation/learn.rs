//! What an answer changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use net_common::{Addr, Instance, InstanceState, Policy};
use net_maps::Name;

use super::{MapFull, Purpose, Translation, dial::Offer};
use crate::core::answer::{InstanceView, Location, ServiceView};

impl Translation {
    /// Takes over what the cluster says of a service.
    ///
    /// # Errors
    /// A map has no room for all of it; what fits is taken over.
    pub fn learn(&mut self, view: &ServiceView) -> Result<(), MapFull> {
        let name = view.name;
        self.slot(name, Purpose::Service)?;
        let mut full = None;

        let mut dialable = BTreeSet::new();
        for (number, instance) in &view.instances {
            match self.learn_instance(name, *number, instance) {
                Ok(true) => {
                    dialable.insert(*number);
                }
                Ok(false) => {}
                Err(error) => full = Some(error),
            }
        }
        let known = self.services.entry(name).or_default();
        let gone: Vec<u32> = known
            .instances
            .keys()
            .filter(|number| !dialable.contains(number) && !known.local.contains_key(number))
            .copied()
            .collect();
        known.listed.clone_from(&dialable);
        let told = view.instances.iter().filter_map(|(n, i)| Some((*n, i.cpu_percent?)));
        known.cpu.extend(told);
        for number in gone {
            self.drop_instance(name, number);
        }

        if let Err(error) = self.offer(name, offered(view, &dialable)) {
            full = Some(error);
        }
        self.unbalanced.insert(name);
        self.refresh_endpoints(name);
        self.drop_unused_nodes();
        full.map_or(Ok(()), Err)
    }

    /// Forgets a service, unless it runs here.
    pub fn forget(&mut self, name: Name) {
        if self.runs_here(name) {
            return;
        }
        let Some(known) = self.services.get(&name).cloned() else { return };
        for addr in known.offered.keys() {
            self.withdraw(name, *addr);
        }
        for number in known.instances.keys() {
            self.drop_instance(name, *number);
        }
        let left = self.services.remove(&name).unwrap_or_default();
        for slot in left.slots.into_values() {
            self.drop_slot(slot);
        }
        self.unbalanced.remove(&name);
        self.drop_unused_nodes();
    }

    /// Whether the instance can be dialled.
    fn learn_instance(
        &mut self,
        name: Name,
        number: u32,
        view: &InstanceView,
    ) -> Result<bool, MapFull> {
        let service = self.slot(name, Purpose::Service)?;
        let placed = match (self.local_instance(name, number), view.location) {
            // What runs here is known better here than anywhere.
            (Some(local), _) => local.instance,
            (None, Some(location)) if !self.is_here(location) => self.remote(location)?,
            // It ran here and is gone, or the answer is ahead of its deployment.
            (None, _) => return Ok(false),
        };
        // An instance keeps its instance IP for life, so an answer without it takes nothing away.
        let state = if view.draining { InstanceState::Draining } else { InstanceState::Up };
        let either = |told: Addr, known: Addr| if told.is_unspecified() { known } else { told };
        self.put_instance(
            name,
            Instance {
                instance_ip_v4: either(view.instance_ip_v4, placed.instance_ip_v4),
                instance_ip_v6: either(view.instance_ip_v6, placed.instance_ip_v6),
                service,
                number,
                state: state as u32,
                ..placed
            },
        )?;
        Ok(true)
    }

    /// Behind a NAT, the cluster may see this node at another address than it has.
    fn is_here(&self, location: Location) -> bool {
        let in_subnet = match (self.subnet, location.namespace_ip_v4.to_ip()) {
            (Some(subnet), IpAddr::V4(ip)) => subnet.contains(ip),
            _ => false,
        };
        in_subnet || location.node == self.me
    }

    fn remote(&mut self, location: Location) -> Result<Instance, MapFull> {
        Ok(Instance {
            namespace_ip_v4: location.namespace_ip_v4,
            namespace_ip_v6: location.namespace_ip_v6,
            node: self.node(location.node)?,
            ..Instance::default()
        })
    }
}

/// Every address of the service, and what it leads to.
fn offered(view: &ServiceView, dialable: &BTreeSet<u32>) -> BTreeMap<Addr, Offer> {
    let choosing = view.addresses.iter();
    let mut offered: BTreeMap<Addr, Offer> =
        choosing.map(|(addr, policy)| (*addr, Offer { policy: *policy, number: 0 })).collect();
    for number in dialable {
        let view = &view.instances[number];
        for addr in [view.instance_ip_v4, view.instance_ip_v6] {
            if !addr.is_unspecified() {
                offered.insert(addr, Offer { policy: Policy::Instance, number: *number });
            }
        }
    }
    offered
}

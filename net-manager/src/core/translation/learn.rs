//! What an answer changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use net_common::{Addr, Instance, Policy, Service};
use net_maps::Name;

use super::{MapFull, Purpose, Translation};
use crate::core::{
    answer::{InstanceView, Location, ServiceView},
    tables::InstanceId,
};

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
        for number in gone {
            self.drop_instance(name, number);
        }

        if let Err(error) = self.learn_addresses(view, &dialable) {
            full = Some(error);
        }
        self.refresh_tables(name);
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
        for addr in &known.addresses {
            self.drop_address(&known, *addr);
        }
        for number in known.instances.keys() {
            self.drop_instance(name, *number);
        }
        for slot in known.slots.values() {
            self.drop_slot(*slot);
        }
        self.services.remove(&name);
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
        let either = |told: Addr, known: Addr| if told.is_unspecified() { known } else { told };
        self.put_instance(
            name,
            Instance {
                instance_ip_v4: either(view.instance_ip_v4, placed.instance_ip_v4),
                instance_ip_v6: either(view.instance_ip_v6, placed.instance_ip_v6),
                service,
                number,
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

    fn learn_addresses(
        &mut self,
        view: &ServiceView,
        dialable: &BTreeSet<u32>,
    ) -> Result<(), MapFull> {
        let name = view.name;
        let mut full = None;
        let mut wanted: BTreeMap<Addr, (Purpose, Policy, InstanceId)> = BTreeMap::new();
        for (addr, policy) in &view.addresses {
            wanted.insert(*addr, (Purpose::of(*policy), *policy, 0));
        }
        for number in dialable {
            let view = view.instances[number];
            let id = self.services[&name].instances[number];
            for addr in [view.instance_ip_v4, view.instance_ip_v6] {
                if !addr.is_unspecified() {
                    wanted.insert(addr, (Purpose::Instance(*number), Policy::Instance, id));
                }
            }
        }

        let known = self.services.get(&name).cloned().unwrap_or_default();
        for addr in known.addresses.iter().filter(|addr| !wanted.contains_key(addr)) {
            self.drop_address(&known, *addr);
        }
        let needed: BTreeSet<Purpose> = wanted.values().map(|(purpose, ..)| *purpose).collect();
        for purpose in known.slots.into_keys() {
            if purpose != Purpose::Service && !needed.contains(&purpose) {
                self.drop_purpose(name, purpose);
            }
        }
        let mut addresses = BTreeSet::new();
        for (addr, (purpose, policy, instance)) in wanted {
            match self.slot(name, purpose) {
                Ok(slot) => {
                    let service = Service { policy: policy as u32, slot, instance, _pad: 0 };
                    self.desired.services.set(addr, service);
                    addresses.insert(addr);
                }
                Err(error) => full = Some(error),
            }
        }
        self.services.entry(name).or_default().addresses = addresses;
        full.map_or(Ok(()), Err)
    }
}

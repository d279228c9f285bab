//! The instances of this node.

use net_common::{Addr, Endpoint, Instance, InstanceState};
use net_maps::Name;

use super::{MapFull, Purpose, Translation};
use crate::core::ipam::Lease;

impl Translation {
    /// An instance has its network on this node.
    ///
    /// # Errors
    /// A map has no room; nothing is changed.
    pub fn attach(
        &mut self,
        name: Name,
        number: u32,
        lease: Lease,
        ifindex: u32,
    ) -> Result<(), MapFull> {
        let is_new = !self.knows(name);
        let result = self.slot(name, Purpose::Service).and_then(|service| {
            let wanted = Instance {
                namespace_ip_v4: lease.v4.into(),
                namespace_ip_v6: lease.v6.map(Addr::from).unwrap_or_default(),
                service,
                number,
                ..self.instance(name, number).unwrap_or_default()
            };
            let state = InstanceState::Up as u32;
            self.put_instance(name, Instance { node: 0, state, ..wanted })
        });
        if let Err(full) = result {
            if is_new {
                self.forget(name);
            }
            return Err(full);
        }
        self.drop_endpoints(name, number);
        self.services.entry(name).or_default().local.insert(number, ifindex);
        self.refresh_endpoints(name);
        self.drop_unused_nodes();
        Ok(())
    }

    /// An instance of this node is going: no packet reaches it any more.
    pub fn detach(&mut self, name: Name, number: u32) {
        if self.local_instance(name, number).is_some() {
            self.drop_local(name, number);
        }
    }

    pub(super) fn drop_local(&mut self, name: Name, number: u32) {
        self.drop_endpoints(name, number);
        if let Some(id) = self.services.get(&name).and_then(|known| known.instances.get(&number)) {
            self.drop_published(*id);
        }
        if let Some(known) = self.services.get_mut(&name) {
            known.local.remove(&number);
        }
        self.drop_instance(name, number);
    }

    /// The endpoints of a service's local instances: of each family by namespace IP, and by
    /// instance IP once it is known.
    pub(super) fn refresh_endpoints(&mut self, name: Name) {
        self.refresh_published(name);
        let Some(known) = self.services.get(&name) else { return };
        for (number, ifindex) in &known.local {
            let Some(id) = known.instances.get(number) else { continue };
            let Some(instance) = self.desired.instances.get(*id) else { continue };
            let families = [
                (instance.namespace_ip_v4, instance.instance_ip_v4),
                (instance.namespace_ip_v6, instance.instance_ip_v6),
            ];
            for (namespace_ip, instance_ip) in families {
                if namespace_ip.is_unspecified() {
                    continue;
                }
                let endpoint = Endpoint {
                    namespace_ip,
                    instance_ip,
                    ifindex: *ifindex,
                    instance: *id,
                    generation: instance.generation,
                    _pad: 0,
                };
                let stale = self.desired.endpoints.get(namespace_ip).map(|e| e.instance_ip);
                if let Some(stale) = stale
                    && stale != instance_ip
                    && !stale.is_unspecified()
                {
                    self.desired.endpoints.remove(stale);
                }
                self.desired.endpoints.set(namespace_ip, endpoint);
                if !instance_ip.is_unspecified() {
                    self.desired.endpoints.set(instance_ip, endpoint);
                }
            }
        }
    }

    pub(super) fn drop_endpoints(&mut self, name: Name, number: u32) {
        let Some(id) = self.services.get(&name).and_then(|known| known.instances.get(&number))
        else {
            return;
        };
        let keys: Vec<Addr> = self
            .desired
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.instance == *id)
            .map(|(addr, _)| addr)
            .collect();
        for addr in keys {
            self.desired.endpoints.remove(addr);
        }
    }
}

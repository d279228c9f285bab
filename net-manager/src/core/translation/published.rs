//! The published ports of this node's instances.
//!
//! What is desired is the only copy: a port's entry names the instance, and goes with it.

use net_common::Published;
use net_maps::Name;
use xylem_types::port::{NodePort, PortMapping};

use super::{Tables, Translation};
use crate::core::{
    published::{self, PortsRefused},
    tables::InstanceId,
};

impl Translation {
    /// Whether an instance can have these ports.
    ///
    /// # Errors
    /// One of them is another instance's.
    pub fn check_ports(
        &self,
        name: Name,
        number: u32,
        ports: &[PortMapping],
    ) -> Result<(), PortsRefused> {
        for mapping in ports {
            let owner = self.desired.published.get(mapping.node).map(|entry| entry.instance);
            if let Some((other, other_number)) = owner.and_then(|id| self.owner(id))
                && (other, other_number) != (name, number)
            {
                let port = mapping.node;
                let name = other.to_string();
                return Err(PortsRefused::Taken { port, name, number: other_number });
            }
        }
        Ok(())
    }

    /// Publishes these ports for a local instance, and no others.
    ///
    /// # Errors
    /// One of them is another instance's; nothing is changed.
    pub fn publish(
        &mut self,
        name: Name,
        number: u32,
        ports: &[PortMapping],
    ) -> Result<(), PortsRefused> {
        self.check_ports(name, number, ports)?;
        let Some(id) = self.instance_id(name, number) else { return Ok(()) };
        self.drop_published(id);
        for mapping in ports {
            let entry = Published {
                instance: id,
                port: mapping.instance_port.to_be(),
                ..Published::default()
            };
            self.desired.published.set(mapping.node, entry);
        }
        self.refresh_published(name);
        Ok(())
    }

    /// The published ports of a local instance, by port of the node.
    pub fn ports(&self, name: Name, number: u32) -> Vec<PortMapping> {
        let Some(id) = self.instance_id(name, number) else { return Vec::new() };
        let own = self.desired.published.iter().filter(|(_, entry)| entry.instance == id);
        own.map(|(node, entry)| PortMapping { node, instance_port: u16::from_be(entry.port) })
            .collect()
    }

    /// Instances of this node move and get other interfaces; their ports follow.
    pub(super) fn refresh_published(&mut self, name: Name) {
        let Some(known) = self.services.get(&name) else { return };
        if self.desired.published.is_empty() {
            return;
        }
        for (number, ifindex) in &known.local {
            let Some(id) = known.instances.get(number) else { continue };
            let Some(instance) = self.desired.instances.get(*id) else { continue };
            let own: Vec<(NodePort, u16)> = self
                .desired
                .published
                .iter()
                .filter(|(_, entry)| entry.instance == *id)
                .map(|(port, entry)| (port, u16::from_be(entry.port)))
                .collect();
            for (port, to) in own {
                self.desired.published.set(port, published::entry(*id, instance, *ifindex, to));
            }
        }
    }

    pub(super) fn drop_published(&mut self, id: InstanceId) {
        let own: Vec<NodePort> = self
            .desired
            .published
            .iter()
            .filter(|(_, entry)| entry.instance == id)
            .map(|(port, _)| port)
            .collect();
        for port in own {
            self.desired.published.remove(port);
        }
    }

    /// Ports of instances that are there; those of others are left out, so that the next plan
    /// removes them.
    pub(super) fn recover_published(&mut self, held: &Tables) {
        for (port, entry) in held.published.iter() {
            let Some((name, number)) = self.owner(entry.instance) else { continue };
            let same = self.desired.instances.get(entry.instance).is_some_and(|instance| {
                instance.generation == entry.generation
                    && instance.namespace_ip_v4 == entry.namespace_ip_v4
            });
            if same && self.local_instance(name, number).is_some() {
                self.desired.published.set(port, *entry);
                self.refresh_published(name);
            }
        }
    }

    fn instance_id(&self, name: Name, number: u32) -> Option<InstanceId> {
        self.services.get(&name)?.instances.get(&number).copied()
    }

    /// Whose id it is.
    fn owner(&self, id: InstanceId) -> Option<(Name, u32)> {
        let instance = self.desired.instances.get(id).filter(|i| super::is_present(i))?;
        Some((*self.desired.names.get(instance.service)?, instance.number))
    }
}

//! What is done about the instances of this node.

use std::time::Duration;

use net_maps::Name;
use xylem_types::{mqtt::NetDeployed, port::PortMapping};

use super::{Effect, NoLease, Worker, by_name};
use crate::core::{
    ipam::Lease,
    published::PortsRefused,
    translation::{LocalInstance, MapFull},
};

impl Worker {
    /// Addresses for an instance that is about to be attached.
    ///
    /// # Errors
    /// There are none.
    pub fn lease(&mut self) -> Result<Lease, NoLease> {
        match (&mut self.ipam, &self.refusal) {
            (Some(ipam), _) => Ok(ipam.take()?),
            (None, Some(refusal)) => Err(NoLease::Refused(refusal.clone())),
            (None, None) => Err(NoLease::NoSubnet),
        }
    }

    /// The addresses of an instance that is gone, or was never attached.
    pub fn release(&mut self, lease: Lease) {
        if let Some(ipam) = &mut self.ipam {
            ipam.give_back(lease.v4);
        }
    }

    /// An instance has its network: this node announces it and asks for its instance IP.
    ///
    /// # Errors
    /// A map has no room; nothing is changed.
    pub fn attach(
        &mut self,
        name: Name,
        number: u32,
        lease: Lease,
        ifindex: u32,
        now: Duration,
    ) -> Result<(), MapFull> {
        self.translation.attach(name, number, lease, ifindex)?;
        self.farewells.remove(&(name, number));
        self.interest(name, now);
        if let Some(local) = self.translation.local_instance(name, number) {
            self.effects.push(Effect::Deployed(self.announcement(&local, "DEPLOYED")));
        }
        self.effects.push(Effect::Query(by_name(name)));
        Ok(())
    }

    /// A local instance has these published ports and no others.
    ///
    /// # Errors
    /// Another one has one of them; nothing is changed.
    pub fn publish(
        &mut self,
        name: Name,
        number: u32,
        ports: &[PortMapping],
    ) -> Result<(), PortsRefused> {
        self.translation.publish(name, number, ports)
    }

    /// An instance is going; what it was, unless it never ran here. Its addresses stay taken
    /// until [`Worker::release`].
    pub fn detach(&mut self, name: Name, number: u32, now: Duration) -> Option<LocalInstance> {
        let local = self.translation.local_instance(name, number)?;
        self.translation.detach(name, number);
        self.interest(name, now);
        let farewell = self.announcement(&local, "UNDEPLOYED");
        if self.connected {
            self.effects.push(Effect::Undeployed(farewell));
        } else {
            self.farewells.insert((name, number), farewell);
        }
        Some(local)
    }

    pub(super) fn announcement(&self, local: &LocalInstance, status: &str) -> NetDeployed {
        let v6 = local.instance.namespace_ip_v6;
        NetDeployed {
            appname: local.name.to_string(),
            status: status.into(),
            instance_number: local.number,
            nsip: local.instance.namespace_ip_v4.to_string(),
            nsipv6: if v6.is_unspecified() { String::new() } else { v6.to_string() },
            host_ip: self.me.host_ip.to_string(),
            host_port: self.me.host_port,
        }
    }
}

//! Which ports of the node are kept for which instance.
//!
//! Hosts elsewhere dial them at the node's addresses; what the node's own processes dial there does
//! not come by the uplink, and they use the instance's addresses. A port at which a process of the
//! node listens is refused, as container runtimes do, and while it is published no process gets it.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use net_maps::Name;
use tracing::warn;
use xylem_types::port::{NodePort, PortMapping};

use crate::{
    core::published::{PortsRefused, check_tunnel},
    kernel::reserve::{Reservation, reserve},
};

type Owner = (Name, u32);

/// The ports of the node that its instances have.
#[derive(Debug)]
pub(super) struct Ports {
    tunnel_port: u16,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    /// The node's addresses at which ports are published.
    addresses: Vec<IpAddr>,
    owners: HashMap<Owner, BTreeMap<NodePort, Reservation>>,
}

impl Ports {
    pub(super) fn new(addresses: Vec<IpAddr>, tunnel_port: u16) -> Self {
        Self { tunnel_port, held: Mutex::new(Held { addresses, owners: HashMap::new() }) }
    }

    /// Keeps these ports for an instance, together with those that it has.
    ///
    /// # Errors
    /// One of them is the tunnel's, another instance's, or in use by a process of the node; then
    /// it gets none of them.
    pub(super) fn reserve(&self, owner: Owner, ports: &[PortMapping]) -> Result<(), PortsRefused> {
        check_tunnel(ports, self.tunnel_port)?;
        let mut held = self.lock();
        let mut new = BTreeMap::new();
        for port in ports.iter().map(|mapping| mapping.node) {
            match held.owners.iter().find(|(_, has)| has.contains_key(&port)) {
                Some((has, _)) if *has == owner => continue,
                Some(((name, number), _)) => {
                    let (name, number) = (name.to_string(), *number);
                    return Err(PortsRefused::Taken { port, name, number });
                }
                None => {}
            }
            let reservation = reserve(&held.addresses, port).map_err(|error| {
                if error.kind() == io::ErrorKind::AddrInUse {
                    return PortsRefused::InUse { port };
                }
                PortsRefused::Refused { port, reason: error.to_string() }
            })?;
            new.insert(port, reservation);
        }
        if !new.is_empty() {
            held.owners.entry(owner).or_default().extend(new);
        }
        Ok(())
    }

    /// What was published before this net manager started. A port that a process has taken
    /// meanwhile stays published.
    pub(super) fn take_over(&self, owner: Owner, ports: &[PortMapping]) {
        for port in ports {
            if let Err(error) = self.reserve(owner, &[*port]) {
                let (name, number) = owner;
                warn!(%error, service = %name, instance = number, "a published port is used twice");
            }
        }
    }

    /// Gives up what an instance has beyond these ports.
    pub(super) fn retain(&self, owner: Owner, ports: &[PortMapping]) {
        let mut held = self.lock();
        if let Some(has) = held.owners.get_mut(&owner) {
            has.retain(|port, _| ports.iter().any(|mapping| mapping.node == *port));
            if has.is_empty() {
                held.owners.remove(&owner);
            }
        }
    }

    /// The node has these addresses now: every port is kept there, and no longer where it was. One
    /// that a process has at a new address stays published, so that process hears nothing.
    pub(super) fn move_to(&self, addresses: Vec<IpAddr>) {
        let mut held = self.lock();
        let Held { addresses: before, owners } = &mut *held;
        let gone = before.iter().any(|address| !addresses.contains(address));
        let new: Vec<IpAddr> =
            addresses.iter().filter(|address| !before.contains(address)).copied().collect();
        if !gone && new.is_empty() {
            return;
        }
        for ((name, number), ports) in owners {
            for (port, reservation) in ports {
                reservation.release_but(&addresses);
                if let Err(error) = reservation.extend(&new, *port) {
                    warn!(
                        %error, service = %name, instance = number, %port,
                        "a published port is used by a process at the node's new address"
                    );
                }
            }
        }
        *before = addresses;
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn list(text: &str) -> Vec<PortMapping> {
        xylem_types::port::published(text).unwrap()
    }

    #[test]
    fn an_instance_gets_all_its_ports_or_none() {
        let name = |text| Name::try_from(text).unwrap();
        let (web, shop) = ((name("web.a.b.c"), 0), (name("shop.a.b.c"), 3));
        // An address of the loopback interface that no other test has.
        let address = Ipv4Addr::new(127, 77, 0, 1);
        let ports = Ports::new(vec![address.into()], 50103);
        ports.reserve(web, &list("8080:80")).unwrap();
        ports.reserve(web, &list("8080:81;8081:80")).unwrap();
        let refused = ports.reserve(shop, &list("9090:80;8081:80")).unwrap_err().to_string();
        assert!(refused.contains("8081/tcp") && refused.contains("web.a.b.c"), "{refused}");
        let process = TcpListener::bind((address, 9090)).expect("nothing is left of a refusal");
        let refused = ports.reserve(shop, &list("9090:80")).unwrap_err().to_string();
        assert!(refused.contains("9090/tcp") && refused.contains("process"), "{refused}");
        drop(process);
        ports.reserve(shop, &list("50103:80/udp")).unwrap_err();

        ports.retain(web, &list("8080:81"));
        ports.reserve(shop, &list("9090:80;8081:80")).unwrap();
        ports.retain(shop, &[]);
        TcpListener::bind((address, 8081)).unwrap();
    }
    #[test]
    fn ports_move_with_the_node() {
        let web = (Name::try_from("web.a.b.c").unwrap(), 0);
        let [old, new, both] = [1, 2, 3].map(|last| Ipv4Addr::new(127, 77, 1, last));
        let ports = Ports::new(vec![old.into(), both.into()], 50103);
        ports.reserve(web, &list("8080:80;8081:80")).unwrap();
        // A process was there before the node had the address.
        let process = TcpListener::bind((new, 8081)).unwrap();
        ports.move_to(vec![new.into(), both.into()]);
        TcpListener::bind((old, 8080)).expect("nobody needs it there any more");
        for address in [new, both] {
            TcpListener::bind((address, 8080)).expect_err("it is published there");
        }
        drop(process);
        ports.reserve(web, &list("8082:80")).unwrap();
        TcpListener::bind((new, 8082)).expect_err("what comes later as well");
        ports.retain(web, &[]);
        TcpListener::bind((new, 8080)).unwrap();
    }
}

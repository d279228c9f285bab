//! Which of a service's addresses are in the maps: those that were dialled. The others are known
//! here, and put into the maps when somebody dials them.

use std::collections::{BTreeMap, BTreeSet};

use net_common::{Addr, Policy, Service};
use net_maps::Name;

use super::{MapFull, Purpose, Translation};

/// What an address of a service leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) policy: Policy,
    /// Of [`Policy::Instance`], which one; else 0.
    pub(super) number: u32,
}

impl Offer {
    fn purpose(self) -> Purpose {
        match self.policy {
            Policy::Instance => Purpose::Instance(self.number),
            choosing => Purpose::of(choosing),
        }
    }
}

impl Translation {
    /// Puts an address into the maps if it is one of a service that is known; whether it is.
    ///
    /// # Errors
    /// A map has no room.
    pub fn dial(&mut self, addr: Addr) -> Result<bool, MapFull> {
        if self.desired.services.get(addr).is_some() {
            return Ok(true);
        }
        let Some(name) = self.offers.get(&addr).copied() else { return Ok(false) };
        self.install(name, addr)?;
        Ok(self.desired.services.get(addr).is_some())
    }

    /// The service that an address leads to.
    pub fn service_of(&self, addr: Addr) -> Option<Name> {
        self.offers.get(&addr).copied()
    }

    /// Every address of a service is told; what was dialled and is there no more leaves the maps.
    pub(super) fn offer(
        &mut self,
        name: Name,
        offered: BTreeMap<Addr, Offer>,
    ) -> Result<(), MapFull> {
        let before = std::mem::take(&mut self.services.entry(name).or_default().offered);
        for addr in before.keys().filter(|addr| !offered.contains_key(addr)) {
            self.withdraw(name, *addr);
        }
        let mut installed: BTreeSet<Addr> = self.services[&name].addresses.clone();
        for addr in offered.keys() {
            match self.offers.insert(*addr, name) {
                Some(other) if other != name => {
                    // Whoever dialled it meant the address, whose it may be.
                    if self.uninstall(other, *addr) {
                        installed.insert(*addr);
                    }
                    if let Some(known) = self.services.get_mut(&other) {
                        known.offered.remove(addr);
                    }
                    self.drop_idle_purposes(other);
                }
                Some(_) | None => {}
            }
        }
        // The local instances' own: no peer may send in their name.
        let known = self.services.entry(name).or_default();
        let is_local = |offer: &Offer| {
            offer.policy == Policy::Instance && known.local.contains_key(&offer.number)
        };
        installed.extend(offered.iter().filter(|(_, o)| is_local(o)).map(|(addr, _)| *addr));
        known.offered = offered;
        let mut full = None;
        for addr in installed {
            if let Err(error) = self.install(name, addr) {
                full = Some(error);
            }
        }
        self.drop_idle_purposes(name);
        full.map_or(Ok(()), Err)
    }

    /// The instance IPs of an instance that is going.
    pub(super) fn withdraw_instance(&mut self, name: Name, number: u32) {
        let Some(known) = self.services.get_mut(&name) else { return };
        let own = |(_, offer): &(&Addr, &Offer)| {
            offer.policy == Policy::Instance && offer.number == number
        };
        let gone: Vec<Addr> = known.offered.iter().filter(own).map(|(addr, _)| *addr).collect();
        for addr in gone {
            self.withdraw(name, addr);
        }
    }

    /// Forgets an address of a service.
    pub(super) fn withdraw(&mut self, name: Name, addr: Addr) {
        self.uninstall(name, addr);
        if let Some(known) = self.services.get_mut(&name) {
            known.offered.remove(&addr);
        }
        if self.offers.get(&addr) == Some(&name) {
            self.offers.remove(&addr);
        }
    }

    /// Takes an address out of the maps; whether it was there.
    fn uninstall(&mut self, name: Name, addr: Addr) -> bool {
        let was_there =
            self.services.get_mut(&name).is_some_and(|known| known.addresses.remove(&addr));
        if was_there {
            self.desired.services.remove(addr);
        }
        was_there
    }

    /// Puts an offered address into the maps, or brings its entry up to date.
    fn install(&mut self, name: Name, addr: Addr) -> Result<(), MapFull> {
        let known = self.services.entry(name).or_default();
        let Some(offer) = known.offered.get(&addr).copied() else { return Ok(()) };
        let instance = match offer.policy {
            Policy::Instance => match known.instances.get(&offer.number) {
                Some(id) => *id,
                None => return Ok(()),
            },
            _ => 0,
        };
        let purpose = offer.purpose();
        let slot = match self.slot(name, purpose) {
            Ok(slot) => slot,
            Err(full) => {
                self.uninstall(name, addr);
                return Err(full);
            }
        };
        let service = Service { policy: offer.policy as u32, slot, instance, _pad: 0 };
        self.desired.services.set(addr, service);
        let known = self.services.entry(name).or_default();
        known.addresses.insert(addr);
        if purpose.choosing().is_some() && !known.balances.contains_key(&purpose) {
            self.unbalanced.insert(name);
        }
        Ok(())
    }

    /// Gives back the slots to which no dialled address leads any more.
    fn drop_idle_purposes(&mut self, name: Name) {
        let Some(known) = self.services.get(&name) else { return };
        let needed: BTreeSet<Purpose> = known
            .addresses
            .iter()
            .filter_map(|addr| known.offered.get(addr))
            .map(|offer| offer.purpose())
            .collect();
        let idle: Vec<Purpose> = known
            .slots
            .keys()
            .filter(|purpose| **purpose != Purpose::Service && !needed.contains(purpose))
            .copied()
            .collect();
        for purpose in idle {
            self.drop_purpose(name, purpose);
        }
    }
}

//! A range from which addresses are given out one by one, never the same one twice.
//!
//! An address that comes back is used again as late as possible: what was never given comes
//! first, then what has been free the longest. Somebody may still send to an address for a
//! while after its owner is gone.

use serde::{Deserialize, Serialize};
use xylem_types::session::InstanceKey;

use super::rows::{RowKey, Rows};

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Owner {
    /// By id.
    Service(String),
    Instance(InstanceKey),
    /// By id.
    Worker(String),
}

/// An address that was given out at least once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Lease {
    Held(Owner),
    /// Free again; a smaller number was released earlier.
    Released(u64),
}

impl RowKey for u128 {
    fn encode(&self) -> String {
        format!("{self:032x}")
    }
    fn decode(text: &str) -> Option<Self> {
        u128::from_str_radix(text, 16).ok()
    }
}

/// Every address of the pool is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

/// The address is held already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken;

/// The addresses from `first` to `last`, as numbers. Others may be claimed, but are never chosen.
#[derive(Debug)]
pub(crate) struct Pool {
    first: u128,
    last: u128,
    pub(crate) leases: Rows<u128, Lease>,
    /// No address below was never given, unless a change was rolled back.
    fresh_from: u128,
    next_release: u64,
}

impl Pool {
    pub(crate) fn new(first: u128, last: u128, leases: Rows<u128, Lease>) -> Self {
        let released = leases.values().filter_map(|lease| match lease {
            Lease::Released(order) => Some(order + 1),
            Lease::Held(_) => None,
        });
        let next_release = released.max().unwrap_or(0);
        Self { first, last, leases, fresh_from: first, next_release }
    }

    /// Gives an address to `owner`.
    pub(crate) fn allocate(&mut self, owner: Owner) -> Result<u128, Exhausted> {
        let address = self.never_given().or_else(|| self.longest_released()).ok_or(Exhausted)?;
        self.leases.put(address, Lease::Held(owner));
        Ok(address)
    }

    /// Gives this very address to `owner`.
    pub(crate) fn claim(&mut self, address: u128, owner: Owner) -> Result<(), Taken> {
        if let Some(Lease::Held(_)) = self.leases.get(&address) {
            return Err(Taken);
        }
        self.leases.put(address, Lease::Held(owner));
        Ok(())
    }

    /// Takes an address back from `owner`; nothing happens when somebody else holds it.
    pub(crate) fn release(&mut self, address: u128, owner: &Owner) {
        if self.owner(address) != Some(owner) {
            return;
        }
        if (self.first..=self.last).contains(&address) {
            self.leases.put(address, Lease::Released(self.next_release));
            self.next_release += 1;
        } else {
            self.leases.remove(&address);
        }
    }

    pub(crate) fn owner(&self, address: u128) -> Option<&Owner> {
        match self.leases.get(&address)? {
            Lease::Held(owner) => Some(owner),
            Lease::Released(_) => None,
        }
    }

    /// The address that `owner` holds.
    pub(crate) fn held_by(&self, owner: &Owner) -> Option<u128> {
        self.leases
            .iter()
            .find(|(_, lease)| matches!(lease, Lease::Held(holder) if holder == owner))
            .map(|(address, _)| *address)
    }

    pub(crate) fn held(&self) -> usize {
        self.leases.values().filter(|lease| matches!(lease, Lease::Held(_))).count()
    }

    fn never_given(&mut self) -> Option<u128> {
        let from = [self.fresh_from, self.first];
        let found = from.into_iter().find_map(|from| self.first_gap(from))?;
        self.fresh_from = found;
        Some(found)
    }

    fn first_gap(&self, from: u128) -> Option<u128> {
        let mut candidate = from;
        for (address, _) in self.leases.range(from..=self.last) {
            if *address != candidate {
                break;
            }
            candidate += 1;
        }
        (candidate <= self.last).then_some(candidate)
    }

    fn longest_released(&self) -> Option<u128> {
        self.leases
            .range(self.first..=self.last)
            .filter_map(|(address, lease)| match lease {
                Lease::Released(order) => Some((*order, *address)),
                Lease::Held(_) => None,
            })
            .min()
            .map(|(_, address)| address)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};

    use proptest::prelude::*;

    use super::*;

    const FIRST: u128 = 100;
    const LAST: u128 = 107;

    fn owner(n: u8) -> Owner {
        Owner::Worker(n.to_string())
    }

    fn pool() -> Pool {
        Pool::new(FIRST, LAST, Rows::default())
    }

    /// What the pool is after the process was started again with what it had written.
    fn restarted(pool: &mut Pool, disk: &mut BTreeMap<u128, Lease>) -> Pool {
        write(pool, disk);
        Pool::new(FIRST, LAST, Rows::written(disk.clone()))
    }

    fn write(pool: &mut Pool, disk: &mut BTreeMap<u128, Lease>) {
        pool.leases.keep();
        for (key, lease) in pool.leases.take_unwritten() {
            let key = u128::decode(&key).unwrap();
            match lease {
                Some(lease) => disk.insert(key, lease),
                None => disk.remove(&key),
            };
        }
    }

    #[test]
    fn a_full_pool_refuses_and_serves_again_after_a_release() {
        let mut pool = pool();
        let given: Vec<_> = (0..8).map(|n| pool.allocate(owner(n)).unwrap()).collect();
        assert_eq!(given, (FIRST..=LAST).collect::<Vec<_>>());
        assert_eq!(pool.allocate(owner(9)), Err(Exhausted));
        pool.release(given[3], &owner(3));
        assert_eq!(pool.allocate(owner(9)), Ok(given[3]));
    }

    #[test]
    fn a_released_address_comes_back_last() {
        let mut pool = pool();
        let first = pool.allocate(owner(0)).unwrap();
        pool.release(first, &owner(0));
        let next: Vec<_> = (1..=8).map(|n| pool.allocate(owner(n)).unwrap()).collect();
        assert_eq!(next.last(), Some(&first));
    }

    #[test]
    fn only_the_owner_can_give_back() {
        let mut pool = pool();
        let address = pool.allocate(owner(0)).unwrap();
        pool.release(address, &owner(1));
        assert_eq!(pool.owner(address), Some(&owner(0)));
    }

    #[test]
    fn an_address_outside_can_be_claimed_once_and_leaves_nothing_behind() {
        let mut pool = pool();
        assert_eq!(pool.claim(5, owner(0)), Ok(()));
        assert_eq!(pool.claim(5, owner(1)), Err(Taken));
        pool.release(5, &owner(0));
        assert_eq!(pool.leases.len(), 0);
    }

    #[test]
    fn an_allocation_rolled_back_is_fresh_again() {
        let mut pool = pool();
        pool.allocate(owner(0)).unwrap();
        pool.leases.roll_back();
        let given: Vec<_> = (0..8).map(|n| pool.allocate(owner(n)).unwrap()).collect();
        assert_eq!(given, (FIRST..=LAST).collect::<Vec<_>>());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u8),
        Claim(u128, u8),
        Release(prop::sample::Index),
        RollBack,
        Restart,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => any::<u8>().prop_map(Step::Allocate),
            2 => (FIRST - 2..=LAST + 2, any::<u8>()).prop_map(|(at, n)| Step::Claim(at, n)),
            4 => any::<prop::sample::Index>().prop_map(Step::Release),
            1 => Just(Step::RollBack),
            1 => Just(Step::Restart),
        ]
    }

    proptest! {
        /// Against a model: whatever happens, no address has two holders, a refusal means that
        /// all are held, and a released one is only given when nothing never given is left and
        /// nothing was released before it.
        #[test]
        fn no_address_is_given_twice(steps in prop::collection::vec(step(), 0..80)) {
            let mut pool = pool();
            let mut disk = BTreeMap::new();
            let mut held: BTreeMap<u128, u8> = BTreeMap::new();
            let mut released: VecDeque<u128> = VecDeque::new();
            for step in steps {
                match step {
                    Step::Allocate(n) => match pool.allocate(owner(n)) {
                        Ok(address) => {
                            prop_assert!((FIRST..=LAST).contains(&address));
                            prop_assert_eq!(held.insert(address, n), None);
                            if let Some(position) = released.iter().position(|a| *a == address) {
                                prop_assert_eq!(position, 0);
                                released.remove(position);
                                let inside = held.range(FIRST..=LAST).count();
                                prop_assert_eq!(inside + released.len(), 8);
                            }
                        }
                        Err(Exhausted) => prop_assert_eq!(held.range(FIRST..=LAST).count(), 8),
                    },
                    Step::Claim(address, n) => {
                        let claimed = pool.claim(address, owner(n));
                        prop_assert_eq!(claimed.is_err(), held.contains_key(&address));
                        if claimed.is_ok() {
                            held.insert(address, n);
                            released.retain(|a| *a != address);
                        }
                    }
                    Step::Release(which) if !held.is_empty() => {
                        let (&address, &n) = held.iter().nth(which.index(held.len())).unwrap();
                        pool.release(address, &owner(n));
                        held.remove(&address);
                        if (FIRST..=LAST).contains(&address) {
                            released.push_back(address);
                        }
                    }
                    Step::Release(_) => {}
                    Step::RollBack => {
                        write(&mut pool, &mut disk);
                        let _ = pool.allocate(owner(0));
                        let _ = pool.claim(FIRST + 1, owner(0));
                        pool.leases.roll_back();
                    }
                    Step::Restart => pool = restarted(&mut pool, &mut disk),
                }
                for (address, n) in &held {
                    prop_assert_eq!(pool.owner(*address), Some(&owner(*n)));
                }
                prop_assert_eq!(pool.held(), held.len());
            }
        }
    }
}

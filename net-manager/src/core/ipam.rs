//! The namespace IPs of this node: which of its /26 are taken.
//!
//! An instance has the same offset in the /26 and in the /120, so the IPv4 address alone says
//! everything, and the endpoints in the kernel are the only record of what is taken.
//!
//! An address that was given back is used again as late as possible: peers may still have flows
//! to its last owner.

use std::{
    collections::{BTreeSet, VecDeque},
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};
use xylem_types::mqtt::SubnetGrant;

/// Prefix length of a node's share of the namespace IPs.
pub const PREFIX_V4: u8 = 26;
/// Prefix length of a node's share of the IPv6 namespace IPs.
pub const PREFIX_V6: u8 = 120;

/// Offsets handed out: not the network address, not `.1` (Oakestra's bridge has it, and its
/// tools expect nobody else there), not the broadcast address.
const FIRST: u8 = 2;
const LAST: u8 = 62;

/// How many instances one node can hold.
pub const CAPACITY: usize = (LAST - FIRST + 1) as usize;

/// A node's share of the namespace IPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    v4: Ipv4Net,
    v6: Option<Ipv6Net>,
}

/// Why a grant cannot be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadGrant {
    #[error("the cluster gave no subnet: {0}")]
    Refused(String),
    #[error("the cluster's subnet {0:?} is no address of a /{PREFIX_V4} network")]
    NotV4(String),
    #[error("the cluster's IPv6 subnet {0:?} is no address of a /{PREFIX_V6} network")]
    NotV6(String),
}

impl Subnet {
    /// The network address; host bits are cleared.
    pub fn new(v4: Ipv4Addr, v6: Option<Ipv6Addr>) -> Self {
        let v4 = Ipv4Net::new_assert(v4, PREFIX_V4).trunc();
        let v6 = v6.map(|v6| Ipv6Net::new_assert(v6, PREFIX_V6).trunc());
        Self { v4, v6 }
    }

    pub fn v4(&self) -> Ipv4Net {
        self.v4
    }

    pub fn v6(&self) -> Option<Ipv6Net> {
        self.v6
    }

    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        self.v4.contains(&ip)
    }

    /// The IPv6 address that goes with an IPv4 address of this subnet.
    pub fn v6_of(&self, ip: Ipv4Addr) -> Option<Ipv6Addr> {
        let offset = self.offset(ip)?;
        Some(Ipv6Addr::from(u128::from(self.v6?.network()) + u128::from(offset)))
    }

    fn offset(&self, ip: Ipv4Addr) -> Option<u8> {
        let offset = u32::from(ip).checked_sub(u32::from(self.v4.network()))?;
        u8::try_from(offset).ok().filter(|_| self.v4.contains(&ip))
    }

    fn at(&self, offset: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.v4.network()) + u32::from(offset))
    }
}

impl TryFrom<&SubnetGrant> for Subnet {
    type Error = BadGrant;

    fn try_from(grant: &SubnetGrant) -> Result<Self, BadGrant> {
        if let Some(error) = &grant.error {
            return Err(BadGrant::Refused(error.clone()));
        }
        if grant.address.is_empty() {
            return Err(BadGrant::Refused("the answer is empty".into()));
        }
        let v4: Ipv4Addr =
            grant.address.parse().map_err(|_| BadGrant::NotV4(grant.address.clone()))?;
        let v6 = match grant.addressv6.as_str() {
            "" => None,
            text => Some(text.parse::<Ipv6Addr>().map_err(|_| BadGrant::NotV6(text.into()))?),
        };
        let subnet = Self::new(v4, v6);
        if subnet.v4.network() != v4 {
            return Err(BadGrant::NotV4(grant.address.clone()));
        }
        if subnet.v6.map(|net| net.network()) != v6 {
            return Err(BadGrant::NotV6(grant.addressv6.clone()));
        }
        Ok(subnet)
    }
}

/// The addresses of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub v4: Ipv4Addr,
    pub v6: Option<Ipv6Addr>,
}

/// All addresses of the subnet are in use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "all {CAPACITY} addresses of this worker's subnet {subnet} are in use; \
     undeploy an instance here or deploy to another worker"
)]
pub struct SubnetFull {
    subnet: Ipv4Net,
}

/// Which addresses of one [`Subnet`] are taken.
#[derive(Clone, Debug)]
pub struct Ipam {
    subnet: Subnet,
    /// Least recently used first.
    free: VecDeque<u8>,
    taken: BTreeSet<u8>,
}

impl Ipam {
    /// All of `subnet` free but the addresses in `taken`; those of another subnet are ignored.
    pub fn new(subnet: Subnet, taken: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let taken: BTreeSet<u8> = taken
            .into_iter()
            .filter_map(|ip| subnet.offset(ip))
            .filter(|offset| (FIRST..=LAST).contains(offset))
            .collect();
        let free = (FIRST..=LAST).filter(|offset| !taken.contains(offset)).collect();
        Self { subnet, free, taken }
    }

    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Takes the address that has been free for longest.
    ///
    /// # Errors
    /// Every address is taken.
    pub fn take(&mut self) -> Result<Lease, SubnetFull> {
        let offset = self.free.pop_front().ok_or(SubnetFull { subnet: self.subnet.v4 })?;
        self.taken.insert(offset);
        let v4 = self.subnet.at(offset);
        Ok(Lease { v4, v6: self.subnet.v6_of(v4) })
    }

    /// Gives an address back; one that is not taken, or of another subnet, changes nothing.
    pub fn give_back(&mut self, ip: Ipv4Addr) {
        if let Some(offset) = self.subnet.offset(ip)
            && self.taken.remove(&offset)
        {
            self.free.push_back(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet() -> Subnet {
        Subnet::new("10.18.3.64".parse().unwrap(), Some("fc00::1:0".parse().unwrap()))
    }

    fn grant(address: &str, addressv6: &str) -> SubnetGrant {
        SubnetGrant { address: address.into(), addressv6: addressv6.into(), error: None }
    }

    #[test]
    fn addresses_share_their_offset_and_spare_the_reserved_ones() {
        let mut ipam = Ipam::new(subnet(), []);
        let first = ipam.take().unwrap();
        assert_eq!(first.v4, Ipv4Addr::new(10, 18, 3, 66));
        assert_eq!(first.v6, Some("fc00::1:2".parse().unwrap()));
        for _ in 1..CAPACITY {
            assert!(ipam.take().unwrap().v4 <= Ipv4Addr::new(10, 18, 3, 126));
        }
        let refusal = ipam.take().unwrap_err().to_string();
        assert!(refusal.contains("10.18.3.64/26"), "{refusal}");
    }

    #[test]
    fn an_address_given_back_is_used_again_last() {
        let mut ipam = Ipam::new(subnet(), []);
        let first = ipam.take().unwrap();
        ipam.give_back(first.v4);
        ipam.give_back(first.v4);
        let taken: Vec<_> = (0..CAPACITY).map(|_| ipam.take().unwrap()).collect();
        assert_eq!(taken.last(), Some(&first));
        ipam.take().unwrap_err();
    }

    #[test]
    fn grants_are_checked() {
        assert_eq!(
            Subnet::try_from(&grant("10.18.0.128", "")),
            Ok(Subnet::new([10, 18, 0, 128].into(), None))
        );
        assert!(matches!(Subnet::try_from(&grant("10.18.0.129", "")), Err(BadGrant::NotV4(_))));
        assert!(matches!(Subnet::try_from(&grant("nonsense", "")), Err(BadGrant::NotV4(_))));
        assert!(matches!(
            Subnet::try_from(&grant("10.18.0.0", "fc00::1")),
            Err(BadGrant::NotV6(_))
        ));
        assert!(matches!(Subnet::try_from(&grant("", "")), Err(BadGrant::Refused(_))));
        let refused = SubnetGrant { error: Some("none left".into()), ..grant("10.18.0.0", "") };
        assert_eq!(Subnet::try_from(&refused), Err(BadGrant::Refused("none left".into())));
    }

    proptest! {
        #[test]
        fn no_address_is_held_twice(steps in prop::collection::vec(any::<Option<u8>>(), 0..300)) {
            let mut held: Vec<Lease> = Vec::new();
            let mut ipam = Ipam::new(subnet(), []);
            for step in steps {
                match step {
                    None => match ipam.take() {
                        Ok(lease) => {
                            prop_assert!(!held.contains(&lease));
                            prop_assert!(subnet().contains(lease.v4));
                            prop_assert_eq!(subnet().v6_of(lease.v4), lease.v6);
                            held.push(lease);
                        }
                        Err(_) => prop_assert_eq!(held.len(), CAPACITY),
                    },
                    Some(index) if !held.is_empty() => {
                        let lease = held.swap_remove(usize::from(index) % held.len());
                        ipam.give_back(lease.v4);
                    }
                    Some(_) => {}
                }
                // What a restart reads back from the kernel leaves the same addresses free.
                let mut recovered = Ipam::new(subnet(), held.iter().map(|l| l.v4));
                let mut left = 0;
                while let Ok(lease) = recovered.take() {
                    prop_assert!(!held.contains(&lease));
                    left += 1;
                }
                prop_assert_eq!(left, CAPACITY - held.len());
            }
        }
    }
}

//! The root network component's addresses: a subnet per worker, service IPs and instance IPs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use xylem_types::{
    address::{
        NAMESPACE_RANGE, NAMESPACE_RANGE_V6, SERVICE_RANGE, WORKER_SUBNET_PREFIX,
        WORKER_SUBNET_PREFIX_V6,
    },
    mqtt::{IpType, ServiceAddress},
    session::InstanceKey,
    sla::{Addresses, FieldError, WantedAddress},
};

use super::{
    pool::{Lease, Owner, Pool},
    refusal::Refusal,
    rows::Rows,
};

/// Workers that can have a subnet at a time.
const SUBNETS: u128 = 1 << (WORKER_SUBNET_PREFIX - 16);
/// IPv6 addresses chosen from a range: as many as there are of IPv4, because every service and
/// instance has both. A user may ask for others of the range.
const CHOSEN_V6: u128 = 0xffff;

/// A worker's subnets, by network address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkerSubnet {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

/// A pair for a service or an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressPair {
    pub(crate) v4: Ipv4Addr,
    pub(crate) v6: Ipv6Addr,
}

/// All pools.
#[derive(Debug)]
pub(crate) struct Ipam {
    /// Service IPs and instance IPs.
    pub(crate) service: Pool,
    /// IPv6 service IPs by policy, in the order of [`IpType::CHOOSING`].
    pub(crate) service_v6: [Pool; 4],
    pub(crate) instance_v6: Pool,
    /// By number of the subnet, from 0.
    pub(crate) subnets: Pool,
}

/// The leases of every pool, as they are in the store.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    pub(crate) service: Rows<u128, Lease>,
    /// In the order of [`IpType::CHOOSING`].
    pub(crate) service_v6: [Rows<u128, Lease>; 4],
    pub(crate) instance_v6: Rows<u128, Lease>,
    pub(crate) subnets: Rows<u128, Lease>,
}

impl Ipam {
    pub(crate) fn new(leases: Leases) -> Self {
        let service =
            (bits(SERVICE_RANGE.network().into()) + 1, bits(SERVICE_RANGE.broadcast().into()) - 1);
        let v6 = |range: Ipv6Net, rows| {
            let first = bits(range.network().into()) + 1;
            Pool::new(first, first + CHOSEN_V6 - 1, rows)
        };
        let mut of_services = leases.service_v6.into_iter();
        Self {
            service: Pool::new(service.0, service.1, leases.service),
            service_v6: IpType::CHOOSING
                .map(|policy| v6(policy.range_v6(), of_services.next().unwrap_or_default())),
            instance_v6: v6(IpType::Instance.range_v6(), leases.instance_v6),
            subnets: Pool::new(0, SUBNETS - 1, leases.subnets),
        }
    }

    /// The subnet of a worker: the one it has, else one that nobody has.
    pub(crate) fn subnet(&mut self, worker_id: &str) -> Result<WorkerSubnet, Refusal> {
        let owner = Owner::Worker(worker_id.to_owned());
        let number = match self.subnets.held_by(&owner) {
            Some(number) => number,
            None => self.subnets.allocate(owner).map_err(|_| {
                exhausted("worker subnets", SUBNETS, "remove workers that are gone")
            })?,
        };
        Ok(WorkerSubnet {
            v4: v4(bits(NAMESPACE_RANGE.network().into()) + (number << (32 - WORKER_SUBNET_PREFIX))),
            v6: Ipv6Addr::from(
                bits(NAMESPACE_RANGE_V6.network().into())
                    + (number << (128 - WORKER_SUBNET_PREFIX_V6)),
            ),
        })
    }

    pub(crate) fn release_subnet(&mut self, worker_id: &str) {
        let owner = Owner::Worker(worker_id.to_owned());
        if let Some(number) = self.subnets.held_by(&owner) {
            self.subnets.release(number, &owner);
        }
    }

    /// Gives the service those service IPs that its user wants. `field` is the path of
    /// `addresses` in the user's SLA.
    ///
    /// # Errors
    /// Every one that another has.
    pub(crate) fn claim(
        &mut self,
        job_id: &str,
        wanted: &Addresses,
        field: &str,
    ) -> Result<Vec<ServiceAddress>, Refusal> {
        let mut claimed = Vec::new();
        let mut taken = Vec::new();
        for wanted in wanted.by_policy() {
            let got = self.claim_free(job_id, wanted);
            let v4 = wanted.v4.1.filter(|_| got.address.is_none()).map(IpAddr::V4);
            let v6 = wanted.v6.1.filter(|_| got.address_v6.is_none()).map(IpAddr::V6);
            for (name, refused) in [(wanted.v4.0, v4), (wanted.v6.0, v6)] {
                let Some(ip) = refused else { continue };
                let reason =
                    format!("{ip} is taken; choose another, or leave it out to get a free one");
                taken.push(FieldError::new(format!("{field}.{name}"), reason));
            }
            claimed.push(got);
        }
        for (i, range) in wanted.instances.iter().enumerate() {
            let each = range.each().map_err(|(name, reason)| {
                let name = format!("{field}.instances[{i}].{name}");
                Refusal::Invalid(vec![FieldError::new(name, reason)])
            })?;
            for (instance_number, ip) in each {
                let key = InstanceKey { job_id: job_id.to_owned(), instance_number };
                if self.instance_pool(ip).claim(bits(ip), Owner::Instance(key)).is_err() {
                    let name = format!("{field}.instances[{i}].start");
                    let reason = format!("{ip}, of instance {instance_number}, is taken");
                    taken.push(FieldError::new(name, reason));
                    break;
                }
            }
        }
        if taken.is_empty() { Ok(claimed) } else { Err(Refusal::Invalid(taken)) }
    }

    /// Gives the service those of the wanted addresses that nobody has.
    pub(crate) fn claim_free(&mut self, job_id: &str, wanted: WantedAddress) -> ServiceAddress {
        let owner = Owner::Service(job_id.to_owned());
        let place = IpType::CHOOSING.iter().position(|policy| *policy == wanted.policy);
        let mut v6_pool = place.map(|place| &mut self.service_v6[place]);
        ServiceAddress {
            ip_type: wanted.policy,
            address: wanted
                .v4
                .1
                .filter(|ip| self.service.claim(bits((*ip).into()), owner.clone()).is_ok()),
            address_v6: wanted.v6.1.filter(|ip| {
                let pool = v6_pool.as_mut();
                pool.is_some_and(|pool| pool.claim(bits((*ip).into()), owner.clone()).is_ok())
            }),
        }
    }

    /// One service IP a policy and family: those that the service has, the rest chosen.
    pub(crate) fn complete(
        &mut self,
        job_id: &str,
        has: &[ServiceAddress],
    ) -> Result<Vec<ServiceAddress>, Refusal> {
        let owner = Owner::Service(job_id.to_owned());
        let mut complete = Vec::with_capacity(IpType::CHOOSING.len());
        for (place, ip_type) in IpType::CHOOSING.into_iter().enumerate() {
            let known = has.iter().find(|address| address.ip_type == ip_type);
            let v4 = match known.and_then(|known| known.address) {
                Some(ip) => ip,
                None => self.next_service_ip(owner.clone())?,
            };
            let v6 = match known.and_then(|known| known.address_v6) {
                Some(ip) => ip,
                None => next_v6(&mut self.service_v6[place], owner.clone(), "IPv6 service IPs")?,
            };
            complete.push(ServiceAddress { ip_type, address: Some(v4), address_v6: Some(v6) });
        }
        Ok(complete)
    }

    pub(crate) fn release_service(&mut self, job_id: &str, addresses: &[ServiceAddress]) {
        let owner = Owner::Service(job_id.to_owned());
        for address in addresses {
            if let Some(v4) = address.address {
                self.service.release(bits(v4.into()), &owner);
            }
            if let Some(v6) = address.address_v6 {
                for pool in &mut self.service_v6 {
                    pool.release(bits(v6.into()), &owner);
                }
            }
        }
    }

    /// Instance IPs: those that were claimed for it when its service was made, else any.
    /// `wanted` are those of the service.
    pub(crate) fn instance(
        &mut self,
        key: &InstanceKey,
        wanted: &Addresses,
    ) -> Result<AddressPair, Refusal> {
        let owner = Owner::Instance(key.clone());
        let mut claimed = (None, None);
        for (number, ip) in each_instance(wanted) {
            let ours = number == key.instance_number && self.owner_of(ip) == Some(&owner);
            match ip {
                IpAddr::V4(v4) if ours => claimed.0 = Some(v4),
                IpAddr::V6(v6) if ours => claimed.1 = Some(v6),
                _ => {}
            }
        }
        let v4 = match claimed.0 {
            Some(v4) => v4,
            None => self.next_service_ip(owner.clone())?,
        };
        let v6 = match claimed.1 {
            Some(v6) => v6,
            None => next_v6(&mut self.instance_v6, owner, "IPv6 instance IPs")?,
        };
        Ok(AddressPair { v4, v6 })
    }

    /// Gives back what was claimed for instances of a service that there will never be. `exists`
    /// says of which there are some yet: they give back theirs themselves.
    pub(crate) fn release_claims(
        &mut self,
        job_id: &str,
        wanted: &Addresses,
        exists: impl Fn(&InstanceKey) -> bool,
    ) {
        for (instance_number, ip) in each_instance(wanted) {
            let key = InstanceKey { job_id: job_id.to_owned(), instance_number };
            if !exists(&key) {
                self.instance_pool(ip).release(bits(ip), &Owner::Instance(key));
            }
        }
    }

    fn instance_pool(&mut self, ip: IpAddr) -> &mut Pool {
        match ip {
            IpAddr::V4(_) => &mut self.service,
            IpAddr::V6(_) => &mut self.instance_v6,
        }
    }

    pub(crate) fn release_instance(&mut self, key: &InstanceKey, pair: AddressPair) {
        let owner = Owner::Instance(key.clone());
        self.service.release(bits(pair.v4.into()), &owner);
        self.instance_v6.release(bits(pair.v6.into()), &owner);
    }

    /// Whose service or instance IP this is.
    pub(crate) fn owner_of(&self, ip: IpAddr) -> Option<&Owner> {
        let number = bits(ip);
        match ip {
            IpAddr::V4(_) => self.service.owner(number),
            IpAddr::V6(_) => self
                .service_v6
                .iter()
                .chain([&self.instance_v6])
                .find_map(|pool| pool.owner(number)),
        }
    }

    fn next_service_ip(&mut self, owner: Owner) -> Result<Ipv4Addr, Refusal> {
        let all = (1 << (32 - SERVICE_RANGE.prefix_len())) - 2;
        self.service
            .allocate(owner)
            .map(v4)
            .map_err(|_| exhausted("service and instance IPs", all, "remove services or instances"))
    }

    pub(crate) fn pools_mut(&mut self) -> impl Iterator<Item = &mut Pool> {
        let others = [&mut self.service, &mut self.instance_v6, &mut self.subnets];
        others.into_iter().chain(&mut self.service_v6)
    }
}

/// Every address that is wanted for an instance, with the instance's number. Older roots did not
/// look at ranges, so one that makes no sense may have been accepted; nothing was claimed for it.
fn each_instance(wanted: &Addresses) -> impl Iterator<Item = (u32, IpAddr)> {
    wanted.instances.iter().flat_map(|range| range.each().unwrap_or_default())
}

fn next_v6(pool: &mut Pool, owner: Owner, what: &'static str) -> Result<Ipv6Addr, Refusal> {
    pool.allocate(owner)
        .map(Ipv6Addr::from)
        .map_err(|_| exhausted(what, CHOSEN_V6, "remove services or instances"))
}

fn exhausted(what: &'static str, all: u128, remedy: &'static str) -> Refusal {
    Refusal::Exhausted { what, all, remedy }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn v4(bits: u128) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::try_from(bits).expect("the pool holds IPv4 addresses only"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipnet::Ipv4Net;

    use super::*;

    fn key(n: u32) -> InstanceKey {
        InstanceKey { job_id: "job".to_owned(), instance_number: n }
    }

    fn any() -> Addresses {
        Addresses::default()
    }

    #[test]
    fn a_worker_keeps_its_subnet_and_no_two_overlap() {
        let mut ipam = Ipam::new(Leases::default());
        let mut seen = BTreeSet::new();
        for n in 0..SUBNETS {
            let subnet = ipam.subnet(&format!("worker {n}")).unwrap();
            assert_eq!(ipam.subnet(&format!("worker {n}")).unwrap(), subnet);
            assert!(seen.insert((subnet.v4, subnet.v6)));
            let net = Ipv4Net::new(subnet.v4, WORKER_SUBNET_PREFIX).unwrap();
            assert_eq!(net.network(), subnet.v4);
            assert!(NAMESPACE_RANGE.contains(&net));
        }
        let refused = ipam.subnet("one too many").unwrap_err().to_string();
        assert_eq!(refused, "all 1024 worker subnets are in use: remove workers that are gone");
        ipam.release_subnet("worker 7");
        ipam.subnet("one too many").unwrap();
    }

    #[test]
    fn first_subnets_are_those_of_the_ranges() {
        let mut ipam = Ipam::new(Leases::default());
        ipam.subnet("a").unwrap();
        let second = ipam.subnet("b").unwrap();
        assert_eq!(second.v4, Ipv4Addr::new(10, 18, 0, 64));
        assert_eq!(second.v6, "fc00::100".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn services_and_instances_share_one_range() {
        let mut ipam = Ipam::new(Leases::default());
        let wanted = Addresses { rr_ip: Some(Ipv4Addr::new(10, 30, 0, 2)), ..Addresses::default() };
        let claimed = ipam.claim("job", &wanted, "addresses").unwrap();
        let service = ipam.complete("job", &claimed).unwrap();
        let v4: Vec<_> = service.iter().map(|a| (a.ip_type, a.address.unwrap().octets())).collect();
        assert_eq!(
            v4,
            [
                (IpType::RoundRobin, [10, 30, 0, 2]),
                (IpType::Closest, [10, 30, 0, 1]),
                (IpType::Underutilized, [10, 30, 0, 3]),
                (IpType::Affinity, [10, 30, 0, 4]),
            ]
        );
        for address in &service {
            let v6 = address.address_v6.unwrap();
            assert!(address.ip_type.range_v6().contains(&v6), "{v6}");
            for ip in [v6.into(), address.address.unwrap().into()] {
                assert_eq!(ipam.owner_of(ip), Some(&Owner::Service("job".to_owned())));
            }
        }
        assert_eq!(ipam.instance(&key(0), &any()).unwrap().v4, Ipv4Addr::new(10, 30, 0, 5));
        let refused = ipam.claim("other", &wanted, "applications[0].addresses").unwrap_err();
        let Refusal::Invalid(errors) = refused else { panic!("{refused:?}") };
        assert_eq!(errors[0].field, "applications[0].addresses.rr_ip");

        ipam.release_service("job", &service);
        for pool in ipam.pools_mut() {
            assert!(pool.held() <= 1, "only the instance's");
        }
        assert_eq!(ipam.complete("next", &[]).unwrap().len(), 4);
    }

    #[test]
    fn a_full_service_range_is_refused_with_what_to_do() {
        let mut ipam = Ipam::new(Leases::default());
        for n in 0..65_534 {
            ipam.instance(&key(n), &any()).unwrap();
        }
        let refused = ipam.instance(&key(65_534), &any()).unwrap_err().to_string();
        assert_eq!(
            refused,
            "all 65534 service and instance IPs are in use: remove services or instances"
        );
    }
}

//! Whatever the cluster says, in whatever order, and wherever a net manager is killed: the maps
//! end up as desired, and no packet meets a dangling reference on the way.

mod chosen;
mod peers;
mod published;
mod steps;

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use super::*;
use crate::core::{
    answer::{InstanceView, Location, ServiceView},
    ipam::Lease,
    plan::{MapOp, plan},
    policy,
    tables::is_known,
};
use net_common::{NodeState, Published};
use xylem_types::{
    load::{InstanceLoad, Loads, ServiceLoad},
    mqtt::{Peer, PeerKind, TunnelEndpoint},
    port::{NodePort, PortMapping, Protocol},
};

const SMALL: Capacities = Capacities { slots: 24, instances: 12, nodes: 6 };

fn me() -> PeerAddr {
    host(0)
}

fn host(n: u8) -> PeerAddr {
    PeerAddr { addr: Ipv4Addr::new(192, 0, 2, n).into(), port: 50103 }
}

fn name(n: u8) -> Name {
    Name::try_from(format!("app{n}.ns.svc.ns").as_str()).unwrap()
}

fn service_ip(n: u8, policy: Policy) -> Addr {
    Ipv4Addr::new(10, 30, policy as u8, n).into()
}

fn instance_ip(service: u8, number: u32) -> Addr {
    Ipv4Addr::new(10, 30, 100 + service, number as u8).into()
}

fn namespace_ip(host: u8, last: u8) -> Addr {
    Ipv4Addr::new(10, 18, host, last).into()
}

/// Service `n` with these instances, each a number, a host and an address there.
fn view(n: u8, policies: &[Policy], instances: &[(u32, u8, u8)]) -> ServiceView {
    let instance = |(number, host_number, last): &(u32, u8, u8)| {
        let location = Location {
            namespace_ip_v4: namespace_ip(*host_number, *last),
            namespace_ip_v6: Addr::UNSPECIFIED,
            node: host(*host_number),
        };
        let view = InstanceView {
            location: Some(location),
            instance_ip_v4: instance_ip(n, *number),
            instance_ip_v6: Addr::UNSPECIFIED,
            draining: false,
            cpu_percent: None,
        };
        (*number, view)
    };
    ServiceView {
        name: name(n),
        addresses: policies.iter().map(|policy| (service_ip(n, *policy), *policy)).collect(),
        instances: instances.iter().map(instance).collect(),
    }
}

fn lease(last: u8) -> Lease {
    Lease { v4: Ipv4Addr::new(10, 18, 0, last), v6: None }
}

/// The maps, written by plans.
#[derive(Default)]
struct Maps {
    held: Tables,
    now: Duration,
}

impl Maps {
    /// Applies the plan, or the first `until` writes of it, looking at the maps after each.
    fn apply(&mut self, translation: &mut Translation, until: usize) {
        translation.balance(&policy::Settings::default(), self.now);
        let ops = plan(&self.held, translation.desired());
        for op in ops.iter().take(until) {
            op.apply(&mut self.held);
            check(&self.held, op);
        }
        if until >= ops.len() {
            self.held.planned();
            let mut desired = translation.desired().clone();
            desired.planned();
            assert_eq!(self.held, desired);
            translation.settle();
            let again = plan(&self.held, translation.desired());
            assert_eq!(again, [], "a plan leaves nothing to plan");
        }
        self.held.planned();
    }

    fn dialled(&self, addr: Addr) -> Option<BTreeSet<(Addr, PeerAddr)>> {
        let service = self.held.services.get(addr)?;
        let ids = match Policy::from_raw(service.policy).unwrap() {
            Policy::Instance => vec![service.instance],
            _ => self.held.tables.get(service.slot).cloned().unwrap_or_default(),
        };
        let place = |id: &u32| {
            let instance = self.held.instances.get(*id).unwrap();
            let node = self.held.nodes.get(instance.node).unwrap();
            (instance.namespace_ip_v4, nodes::peer_addr(node))
        };
        Some(ids.iter().map(place).collect())
    }
}

/// The invariants of the module `plan`, on the maps as they are.
fn check(held: &Tables, op: &MapOp) {
    let owner = |id: u32| {
        let instance = held.instances.get(id).filter(|instance| is_present(instance));
        let instance = instance.unwrap_or_else(|| panic!("instance {id} is absent after {op:?}"));
        held.names.get(instance.service)
    };
    for (slot, ids) in held.tables.iter() {
        let name = held.names.get(slot);
        assert!(name.is_some(), "slot {slot} has no name after {op:?}");
        for id in ids {
            assert_eq!(owner(*id), name, "slot {slot} leads to another service after {op:?}");
        }
    }
    for (addr, service) in held.services.iter() {
        let name = held.names.get(service.slot);
        assert!(name.is_some(), "{addr} has a slot without name after {op:?}");
        if service.policy == Policy::Instance as u32 {
            assert_eq!(owner(service.instance), name, "{addr} leads elsewhere after {op:?}");
        }
    }
    for (id, instance) in held.instances.iter().filter(|(_, instance)| is_present(instance)) {
        let node = held.nodes.get(instance.node);
        assert!(node.is_some_and(is_known), "instance {id} is on no node after {op:?}");
        assert_ne!(instance.generation, 0);
    }
    for (addr, endpoint) in held.endpoints.iter() {
        assert!(held.is_present(endpoint.instance), "endpoint {addr} dangles after {op:?}");
    }
    for (port, to) in held.published.iter() {
        let instance = held.instances.get(to.instance).filter(|instance| is_present(instance));
        let instance = instance.unwrap_or_else(|| panic!("port {port} dangles after {op:?}"));
        assert_eq!(instance.node, 0, "port {port} leads elsewhere after {op:?}");
    }
    for (peer, id) in held.peers.iter() {
        assert!(held.nodes.get(*id).is_some_and(is_known), "{peer:?} is no node after {op:?}");
    }
}

/// Nobody is in a lookup table who takes no new flows; everybody who does is in that of round
/// robin, and a policy's table is there if somebody takes flows.
fn check_tables(held: &Tables) {
    let takes = |id: &u32| {
        let instance = held.instances.get(*id).unwrap();
        let node = held.nodes.get(instance.node).unwrap();
        instance.state == InstanceState::Up as u32
            && (instance.node == 0 || node.state == NodeState::Up as u32)
    };
    for (slot, ids) in held.tables.iter() {
        assert!(ids.iter().all(takes), "slot {slot}: {ids:?}");
    }
    for (addr, service) in held.services.iter() {
        if Policy::from_raw(service.policy) != Some(Policy::Instance) {
            let name = held.names.get(service.slot);
            let of_service = |i: &Instance| is_present(i) && held.names.get(i.service) == name;
            let remote = held.instances.iter().filter(|(_, i)| of_service(i) && i.node != 0);
            let somebody = remote.filter(|(id, _)| takes(id)).count() != 0;
            let ids = held.tables.get(service.slot);
            assert!(ids.is_some() || !somebody, "{addr} has no table");
        }
    }
}

#[test]
fn an_answer_becomes_a_service_that_can_be_dialled() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    translation
        .learn(&view(1, &[Policy::RoundRobin, Policy::Closest], &[(0, 1, 2), (1, 2, 2)]))
        .unwrap();
    maps.apply(&mut translation, usize::MAX);
    assert!(maps.held.services.is_empty(), "nobody has dialled it");
    for addr in [service_ip(1, Policy::RoundRobin), service_ip(1, Policy::Closest)] {
        assert_eq!(translation.dial(addr), Ok(true));
    }
    assert_eq!(translation.dial(instance_ip(1, 1)), Ok(true));
    assert_eq!(translation.dial(instance_ip(1, 2)), Ok(false), "nobody has that");
    maps.apply(&mut translation, usize::MAX);
    assert_eq!(maps.held.services.len(), 3);

    let both = BTreeSet::from([(namespace_ip(1, 2), host(1)), (namespace_ip(2, 2), host(2))]);
    assert_eq!(maps.dialled(service_ip(1, Policy::RoundRobin)), Some(both.clone()));
    assert_eq!(maps.dialled(service_ip(1, Policy::Closest)), Some(both));
    let one = BTreeSet::from([(namespace_ip(2, 2), host(2))]);
    assert_eq!(maps.dialled(instance_ip(1, 1)), Some(one));
    assert_eq!(maps.dialled(instance_ip(1, 2)), None);
    assert_eq!(maps.held.peers.get(host(2)), Some(&maps.held.instances.get(2).unwrap().node));
}

#[test]
fn both_families_of_a_policy_share_a_table() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut view = view(1, &[Policy::Closest, Policy::Affinity], &[(0, 1, 2)]);
    let v6: Addr = "fdff:1000::1".parse::<std::net::Ipv6Addr>().unwrap().into();
    view.addresses.insert(v6, Policy::Closest);
    translation.learn(&view).unwrap();
    for addr in [service_ip(1, Policy::Closest), v6, service_ip(1, Policy::Affinity)] {
        assert_eq!(translation.dial(addr), Ok(true));
    }
    let slot = |addr| translation.desired().services.get(addr).unwrap().slot;
    assert_eq!(slot(v6), slot(service_ip(1, Policy::Closest)));
    assert_ne!(slot(v6), slot(service_ip(1, Policy::Affinity)));
}

#[test]
fn a_local_instance_is_known_by_name_before_its_instance_ip_is() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    translation.attach(name(1), 0, lease(2), 77).unwrap();
    maps.apply(&mut translation, usize::MAX);
    let endpoint = *maps.held.endpoints.get(namespace_ip(0, 2)).unwrap();
    assert_eq!((endpoint.ifindex, endpoint.instance_ip), (77, Addr::UNSPECIFIED));
    assert_eq!(translation.local_by_namespace_ip(namespace_ip(0, 2)).unwrap().name, name(1));

    translation.learn(&view(1, &[Policy::RoundRobin], &[(0, 0, 2)])).unwrap();
    maps.apply(&mut translation, usize::MAX);
    for addr in [namespace_ip(0, 2), instance_ip(1, 0)] {
        let endpoint = *maps.held.endpoints.get(addr).unwrap();
        assert_eq!(endpoint.instance_ip, instance_ip(1, 0));
        assert_eq!(endpoint.namespace_ip, namespace_ip(0, 2));
    }
    let here = BTreeSet::from([(namespace_ip(0, 2), me())]);
    assert_eq!(maps.dialled(instance_ip(1, 0)), Some(here.clone()), "nobody else is it");
    translation.dial(service_ip(1, Policy::RoundRobin)).unwrap();
    maps.apply(&mut translation, usize::MAX);
    assert_eq!(maps.dialled(service_ip(1, Policy::RoundRobin)), Some(here));

    translation.detach(name(1), 0);
    maps.apply(&mut translation, usize::MAX);
    assert!(maps.held.endpoints.is_empty());
    assert_eq!(maps.dialled(service_ip(1, Policy::RoundRobin)), Some(BTreeSet::new()));
    translation.forget(name(1));
    maps.apply(&mut translation, usize::MAX);
    assert!(maps.held.services.is_empty() && maps.held.names.is_empty());
}

#[test]
fn an_instance_that_moves_or_goes_takes_its_flows_along() {
    let mut translation = Translation::new(me(), Capacities::default());
    let generation = |translation: &Translation| {
        let (_, instance) = translation.desired().instances.iter().next().unwrap();
        instance.generation
    };
    translation.learn(&view(1, &[], &[(0, 1, 2)])).unwrap();
    let first = generation(&translation);
    translation.learn(&view(1, &[], &[(0, 1, 2)])).unwrap();
    assert_eq!(generation(&translation), first, "nothing changed");
    translation.learn(&view(1, &[], &[(0, 2, 2)])).unwrap();
    let moved = generation(&translation);
    assert!(moved > first);
    translation.learn(&view(1, &[], &[])).unwrap();
    assert!(generation(&translation) > moved);
}

#[test]
fn a_full_map_is_said_and_what_fits_works() {
    let mut translation = Translation::new(me(), SMALL);
    let mut maps = Maps::default();
    let instances: Vec<_> = (0..20).map(|number| (number, 1, number as u8)).collect();
    let full = translation.learn(&view(1, &[Policy::RoundRobin], &instances)).unwrap_err();
    assert_eq!(full, MapFull { map: "instances", capacity: SMALL.instances });
    translation.dial(service_ip(1, Policy::RoundRobin)).unwrap();
    maps.apply(&mut translation, usize::MAX);
    assert_eq!(maps.dialled(service_ip(1, Policy::RoundRobin)).unwrap().len(), 11);
    assert_eq!(
        translation.attach(name(2), 0, lease(2), 7),
        Err(MapFull { map: "instances", capacity: SMALL.instances })
    );
    assert!(!translation.knows(name(2)), "a refusal leaves nothing");
    translation.forget(name(1));
    maps.apply(&mut translation, usize::MAX);
    translation.attach(name(2), 0, lease(2), 7).unwrap();
}

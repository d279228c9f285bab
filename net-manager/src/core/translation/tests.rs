//! Whatever the cluster says, in whatever order, and wherever a net manager is killed: the maps
//! end up as desired, and no packet meets a dangling reference on the way.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use proptest::prelude::*;

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
fn a_draining_instance_and_one_on_a_dead_node_get_no_new_flows() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    let addresses = [Policy::RoundRobin, Policy::Closest, Policy::Underutilized, Policy::Affinity];
    let mut view = view(1, &addresses, &[(0, 1, 2), (1, 2, 2), (2, 3, 2)]);
    translation.learn(&view).unwrap();
    for policy in addresses {
        translation.dial(service_ip(1, policy)).unwrap();
    }
    maps.apply(&mut translation, usize::MAX);
    let places = |maps: &Maps, policy| maps.dialled(service_ip(1, policy)).unwrap();
    let generations =
        |maps: &Maps| maps.held.instances.iter().map(|(_, i)| i.generation).collect::<Vec<_>>();
    let before = generations(&maps);
    for policy in addresses {
        assert_eq!(places(&maps, policy).len(), 3, "{policy:?}");
    }

    view.instances.get_mut(&0).unwrap().draining = true;
    translation.learn(&view).unwrap();
    let id = *translation.desired().peers.get(host(2)).unwrap();
    let down = Path { addr: host(2), is_up: false, rtt: None };
    translation.set_path(id, &Path { addr: host(3), ..down });
    translation.set_path(id, &down);
    maps.apply(&mut translation, usize::MAX);
    let left = BTreeSet::from([(namespace_ip(3, 2), host(3))]);
    for policy in addresses {
        assert_eq!(places(&maps, policy), left, "{policy:?}");
    }
    assert_eq!(maps.held.instances.get(1).unwrap().state, InstanceState::Draining as u32);
    // The flows that are there stay: nobody has another generation.
    assert_eq!(generations(&maps), before);
    let moved: Vec<_> = translation.moved().collect();
    let [(of, Policy::Affinity, moved)] = moved[..] else { panic!("{moved:?}") };
    assert_eq!((of, moved.changes), (name(1), 1));
    assert!((0.6..0.75).contains(&moved.last_ratio), "{moved:?}");
    translation.forget(name(1));
    assert_eq!(translation.moved().count(), 0);

    // A net manager that starts now goes on from there.
    let mut again = Translation::recover(&maps.held, me(), Capacities::default());
    maps.apply(&mut again, usize::MAX);
    assert_eq!(places(&maps, Policy::Closest), left);
    again.set_path(id, &Path { is_up: true, ..down });
    maps.now += Duration::from_secs(5);
    maps.apply(&mut again, usize::MAX);
    assert_eq!(places(&maps, Policy::RoundRobin).len(), 2);
}

#[test]
fn the_closest_instance_is_chosen_by_the_measured_path() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    translation.learn(&view(1, &[Policy::Closest], &[(0, 1, 2), (1, 2, 2)])).unwrap();
    translation.dial(service_ip(1, Policy::Closest)).unwrap();
    let targets = translation.changed_targets().unwrap();
    assert_eq!(targets.values().map(|t| t.addr).collect::<Vec<_>>(), [host(1), host(2)]);
    assert_eq!(translation.changed_targets(), None);
    for (id, target) in targets {
        assert!(!target.must_answer, "nobody has announced it");
        let ms = if target.addr == host(1) { 30 } else { 5 };
        let path = Path { addr: target.addr, is_up: true, rtt: Some(Duration::from_millis(ms)) };
        translation.set_path(id, &path);
    }
    maps.apply(&mut translation, usize::MAX);
    let near = BTreeSet::from([(namespace_ip(2, 2), host(2))]);
    assert_eq!(maps.dialled(service_ip(1, Policy::Closest)), Some(near));

    // Nobody looks after the path to a node without instances.
    translation.learn(&view(1, &[Policy::Closest], &[(1, 2, 2)])).unwrap();
    let targets = translation.changed_targets().unwrap();
    assert_eq!(targets.values().map(|t| t.addr).collect::<Vec<_>>(), [host(2)]);
}

#[test]
fn load_and_flows_weigh_underutilized() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    translation.learn(&view(1, &[Policy::Underutilized], &[(0, 1, 2), (1, 2, 2)])).unwrap();
    translation.dial(service_ip(1, Policy::Underutilized)).unwrap();
    let [first, second] = translation.weighed_by_flows()[..] else { panic!("two instances") };
    let share = |maps: &Maps| {
        let (_, ids) = maps.held.tables.iter().max_by_key(|(_, ids)| ids.len()).unwrap();
        ids.iter().filter(|id| **id == first).count() as f64 / ids.len() as f64
    };
    translation.set_flows([(first, 30)].into());
    maps.apply(&mut translation, usize::MAX);
    assert!(share(&maps) < 0.1, "{}", share(&maps));
    translation.set_flows([(first, 1), (second, 1)].into());
    let cpu = |instance_number, cpu_percent| InstanceLoad { instance_number, cpu_percent };
    translation.set_load(&Loads {
        services: vec![ServiceLoad {
            app_name: name(1).to_string(),
            instances: vec![cpu(0, 0.0), cpu(1, 100.0), cpu(7, 1.0)],
        }],
    });
    for _ in 0..20 {
        maps.now += Duration::from_millis(500);
        translation.rebalance();
        maps.apply(&mut translation, usize::MAX);
    }
    assert!((0.65..0.8).contains(&share(&maps)), "{}", share(&maps));
}

#[test]
fn what_a_router_says_of_a_path_is_checked_and_forgotten() {
    let mut translation = Translation::new(me(), Capacities::default());
    translation.learn(&view(1, &[], &[(0, 1, 2)])).unwrap();
    let id = *translation.desired().peers.get(host(1)).unwrap();
    let at = Duration::from_secs;
    translation.set_carried(Carried { uplink_mtu: 1500, instance_mtu: 1472, is_enforced: false });
    let mut told = |bytes, now| translation.set_path_mtu(id, host(1), bytes, at(now));
    assert_eq!(told(575, 0), None);
    assert_eq!(told(1500, 0), None);
    assert_eq!(told(1400, 0), Some(1372));
    assert_eq!(told(1450, 1), None, "it was less a moment ago");
    assert_eq!(told(1300, 2), Some(1272));
    assert_eq!(translation.set_path_mtu(id, host(2), 1200, at(3)), None, "another's path");
    let mtu = |translation: &Translation| translation.desired().nodes.get(id).unwrap().mtu;
    translation.forget_path_mtus(at(601));
    assert_eq!(mtu(&translation), 1272);
    translation.forget_path_mtus(at(602));
    assert_eq!(mtu(&translation), 0);
}

#[test]
fn announced_peers_are_accepted_until_they_are_no_longer() {
    let peer = |n, kind| Peer {
        worker_id: format!("w{n}"),
        endpoint: TunnelEndpoint { host_ip: host(n).addr.to_ip(), host_port: host(n).port },
        subnet: Some(Ipv4Addr::new(10, 18, n, 64)),
        subnet_v6: None,
        kind,
    };
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    translation.set_peers(&[peer(0, PeerKind::Xylem), peer(1, PeerKind::Oakestra)]).unwrap();
    maps.apply(&mut translation, usize::MAX);
    assert_eq!(maps.held.peers.len(), 1, "not this node itself");
    let id = *maps.held.peers.get(host(1)).unwrap();
    let node = maps.held.nodes.get(id).unwrap();
    assert_eq!(node.kind, NodeKind::Oakestra as u32);
    assert_eq!(node.subnet_net_v4, u32::from_be_bytes([10, 18, 1, 64]).to_be());
    assert_eq!(node.subnet_mask_v4, 0xffff_ffc0_u32.to_be());

    // It moves, and what flows to it goes on.
    let mut two = view(2, &[], &[(0, 1, 66)]);
    translation.learn(&two).unwrap();
    maps.apply(&mut translation, usize::MAX);
    let instances = maps.held.instances.clone();
    let mut moved = peer(4, PeerKind::Oakestra);
    moved.worker_id = "w1".into();
    translation.set_peers(&[moved]).unwrap();
    two.instances.get_mut(&0).unwrap().location.as_mut().unwrap().node = host(4);
    translation.learn(&two).unwrap();
    maps.apply(&mut translation, usize::MAX);
    assert_eq!(maps.held.peers.iter().collect::<Vec<_>>(), [(host(4), &id)]);
    assert_eq!(maps.held.nodes.get(id).unwrap().addr, host(4).addr);
    assert_eq!(maps.held.instances, instances);
    translation.forget(name(2));
    translation.set_peers(&[peer(1, PeerKind::Oakestra)]).unwrap();
    maps.apply(&mut translation, usize::MAX);
    assert_eq!(maps.held.peers.get(host(1)), Some(&id));

    translation.learn(&view(1, &[], &[(0, 1, 65)])).unwrap();
    translation.set_peers(&[]).unwrap();
    maps.apply(&mut translation, usize::MAX);
    assert_eq!(maps.held.peers.get(host(1)), Some(&id), "an instance in use is on it");
    translation.forget(name(1));
    maps.apply(&mut translation, usize::MAX);
    assert!(maps.held.peers.is_empty());
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

/// Each port of the node to the same port of the instance and 80.
fn ports_of(ports: &[u16]) -> Vec<PortMapping> {
    let ports: BTreeSet<u16> = ports.iter().copied().collect();
    let mapping = |port: u16| PortMapping {
        node: NodePort { port, protocol: Protocol::Tcp },
        instance_port: port + 80,
    };
    ports.into_iter().map(mapping).collect()
}

#[test]
fn a_published_port_leads_to_its_instance_and_goes_with_it() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    let ports = ports_of(&[1, 2]);
    translation.attach(name(1), 0, lease(2), 77).unwrap();
    translation.attach(name(1), 1, lease(3), 78).unwrap();
    translation.publish(name(1), 0, &ports).unwrap();
    maps.apply(&mut translation, usize::MAX);
    let to = *maps.held.published.get(ports[0].node).unwrap();
    assert_eq!((to.namespace_ip_v4, to.ifindex), (namespace_ip(0, 2), 77));
    assert_eq!(u16::from_be(to.port), 81);

    let refused = translation.publish(name(1), 1, &ports[1..]).unwrap_err().to_string();
    assert_eq!(
        refused,
        format!("port 2/tcp of this node is published for instance 0 of {}", name(1))
    );
    assert_eq!(translation.ports(name(1), 1), [], "a refusal changes nothing");
    // A process of its own again, elsewhere: the port follows, and old flows do not.
    translation.attach(name(1), 0, lease(4), 79).unwrap();
    maps.apply(&mut translation, usize::MAX);
    let moved = *maps.held.published.get(ports[0].node).unwrap();
    assert_eq!((moved.namespace_ip_v4, moved.ifindex), (namespace_ip(0, 4), 79));
    assert!(moved.generation > to.generation);

    // The instance is replaced behind our back: its ports are nobody's.
    let mut stale = maps.held.clone();
    stale.published.set(ports[1].node, Published { generation: to.generation, ..moved });
    let again = Translation::recover(&stale, me(), Capacities::default());
    assert_eq!(again.ports(name(1), 0), ports[..1]);

    translation.detach(name(1), 0);
    maps.apply(&mut translation, usize::MAX);
    assert!(maps.held.published.is_empty());
    translation.publish(name(1), 1, &ports).unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    Learn(u8, Vec<Policy>, Vec<(u32, u8, u8)>),
    /// Instances with these numbers drain.
    Drain(u8, Vec<Policy>, Vec<(u32, u8, u8)>, BTreeSet<u32>),
    /// A service IP, or the instance IP of an instance.
    Dial(u8, Policy),
    DialInstance(u8, u32),
    /// What was measured of a host.
    Path(u8, bool, u64),
    Wait(u64),
    Forget(u8),
    Attach(u8, u32, u8),
    Detach(u8, u32),
    Publish(u8, u32, Vec<u16>),
    Peers(Vec<u8>),
    /// Killed after so many writes of the next plan, and started again.
    Killed(usize),
    Apply,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let policy = || {
        prop::sample::select(vec![
            Policy::RoundRobin,
            Policy::Closest,
            Policy::Underutilized,
            Policy::Affinity,
        ])
    };
    let policies = || prop::collection::vec(policy(), 0..4);
    let instances = || prop::collection::vec((0..4_u32, 0..5_u8, 2..6_u8), 0..4);
    let draining = prop::collection::btree_set(0..4_u32, 0..3);
    let (policies, policies_too) = (policies(), policies());
    let (instances, instances_too) = (instances(), instances());
    let step = prop_oneof![
        2 => (0..5_u8, policies_too, instances_too, draining)
            .prop_map(|(n, p, i, d)| Step::Drain(n, p, i, d)),
        4 => (0..5_u8, policy()).prop_map(|(n, p)| Step::Dial(n, p)),
        2 => (0..5_u8, 0..4_u32).prop_map(|(n, number)| Step::DialInstance(n, number)),
        3 => (1..5_u8, any::<bool>(), 0..40_u64).prop_map(|(h, up, ms)| Step::Path(h, up, ms)),
        2 => (0..3000_u64).prop_map(Step::Wait),
        4 => (0..5_u8, policies, instances).prop_map(|(n, p, i)| Step::Learn(n, p, i)),
        1 => (0..5_u8).prop_map(Step::Forget),
        2 => (0..5_u8, 0..4_u32, 2..20_u8).prop_map(|(n, i, l)| Step::Attach(n, i, l)),
        1 => (0..5_u8, 0..4_u32).prop_map(|(n, i)| Step::Detach(n, i)),
        2 => (0..5_u8, 0..4_u32, prop::collection::vec(1..6_u16, 0..3))
            .prop_map(|(n, i, ports)| Step::Publish(n, i, ports)),
        1 => prop::collection::vec(1..7_u8, 0..4).prop_map(Step::Peers),
        2 => (0..12_usize).prop_map(Step::Killed),
        3 => Just(Step::Apply),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn plans_reach_what_is_desired_and_never_dangle(steps in steps()) {
        let mut translation = Translation::new(me(), SMALL);
        let mut maps = Maps::default();
        // Namespace IPs are unique, as the IPAM hands them out.
        let mut leased: BTreeSet<u8> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Learn(n, policies, instances) => {
                    let _: Result<(), MapFull> = translation.learn(&view(n, &policies, &instances));
                }
                Step::Drain(n, policies, instances, draining) => {
                    let mut view = view(n, &policies, &instances);
                    for number in draining {
                        view.instances.entry(number).and_modify(|i| i.draining = true);
                    }
                    let _: Result<(), MapFull> = translation.learn(&view);
                }
                Step::Dial(n, policy) => {
                    let _: Result<bool, MapFull> = translation.dial(service_ip(n, policy));
                }
                Step::DialInstance(n, number) => {
                    let _: Result<bool, MapFull> = translation.dial(instance_ip(n, number));
                }
                Step::Path(n, is_up, ms) => {
                    let rtt = (ms != 0).then(|| Duration::from_millis(ms));
                    let path = Path { addr: host(n), is_up, rtt };
                    if let Some(id) = translation.desired().peers.get(host(n)).copied() {
                        translation.set_path(id, &path);
                    }
                }
                Step::Wait(ms) => {
                    maps.now += Duration::from_millis(ms);
                    translation.rebalance();
                }
                Step::Forget(n) => translation.forget(name(n)),
                Step::Attach(n, number, last) => {
                    if !leased.contains(&last)
                        && translation.attach(name(n), number, lease(last), 100).is_ok()
                    {
                        leased = translation
                            .local()
                            .map(|local| local.instance.namespace_ip_v4.octets()[15])
                            .collect();
                    }
                }
                Step::Detach(n, number) => translation.detach(name(n), number),
                Step::Publish(n, number, ports) => {
                    let ports = ports_of(&ports);
                    let is_here = translation.local_instance(name(n), number).is_some();
                    if is_here && translation.publish(name(n), number, &ports).is_ok() {
                        prop_assert_eq!(translation.ports(name(n), number), ports);
                    }
                }
                Step::Peers(hosts) => {
                    // The same workers, at other addresses each time.
                    let peers: Vec<Peer> = hosts.iter().enumerate().map(|(i, n)| Peer {
                        worker_id: i.to_string(),
                        endpoint: TunnelEndpoint {
                            host_ip: host(*n).addr.to_ip(),
                            host_port: host(*n).port,
                        },
                        subnet: None,
                        subnet_v6: None,
                        kind: PeerKind::Xylem,
                    }).collect();
                    let _: Result<(), MapFull> = translation.set_peers(&peers);
                }
                Step::Killed(until) => {
                    maps.apply(&mut translation, until);
                    translation = Translation::recover(&maps.held, me(), SMALL);
                    maps.apply(&mut translation, usize::MAX);
                    leased = translation
                        .local()
                        .map(|local| local.instance.namespace_ip_v4.octets()[15])
                        .collect();
                }
                Step::Apply => maps.apply(&mut translation, usize::MAX),
            }
        }
        maps.apply(&mut translation, usize::MAX);
        check_tables(&maps.held);

        // A restart without anything half done changes nothing, but what no service names.
        let mut again = Translation::recover(&maps.held, me(), SMALL);
        prop_assert_eq!(plan(&maps.held, again.desired()), []);
        maps.apply(&mut again, usize::MAX);
        let local = |t: &Translation| t.local().collect::<Vec<_>>();
        prop_assert_eq!(local(&again), local(&translation));
        prop_assert_eq!(&again.desired().published, &maps.held.published);
        prop_assert_eq!(again.names().collect::<Vec<_>>(), translation.names().collect::<Vec<_>>());

        // And everything can be forgotten.
        for local in local(&again) {
            again.detach(local.name, local.number);
        }
        for n in 0..5 {
            again.forget(name(n));
        }
        again.set_peers(&[]).unwrap();
        maps.apply(&mut again, usize::MAX);
        prop_assert!(maps.held.services.is_empty());
        prop_assert!(maps.held.tables.is_empty());
        prop_assert!(maps.held.names.is_empty());
        prop_assert!(maps.held.peers.is_empty());
        prop_assert!(maps.held.endpoints.is_empty());
        prop_assert!(maps.held.published.is_empty());
        prop_assert_eq!(maps.held.nodes.len(), 1);
        prop_assert!(maps.held.instances.iter().all(|(_, instance)| !is_present(instance)));
    }
}

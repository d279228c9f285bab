//! What a worker does about what it is told, in words of the wire.

use std::net::Ipv4Addr;

use xylem_types::mqtt::{InstanceEntry, IpType, PeersRequest, ServiceAddress};

use super::*;
use crate::core::{
    tables::PeerAddr,
    translation::{Capacities, Carried},
};

const NOW: Duration = Duration::from_secs(1000);
const WEB: &str = "shop.prod.web.prod";

fn me() -> TunnelEndpoint {
    TunnelEndpoint { host_ip: Ipv4Addr::new(192, 0, 2, 1).into(), host_port: 50103 }
}

fn worker() -> Worker {
    let addr = PeerAddr { addr: me().host_ip.into(), port: me().host_port };
    let translation = Translation::new(addr, Capacities::default());
    let subnet = Subnet::new([10, 18, 0, 64].into(), None);
    Worker::new(me(), translation, Some(subnet), &Settings::default(), NOW)
}

fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<Ipv4Addr>().unwrap())
}

fn packet(n: u8) -> Packet {
    Packet { src: addr("10.18.0.66"), frame: vec![n; 60].into(), since: Duration::ZERO }
}

fn service_address(ip_type: IpType, address: &str) -> ServiceAddress {
    ServiceAddress { ip_type, address: Some(address.parse().unwrap()), address_v6: None }
}

/// The service WEB at 10.30.0.1, with instance 0 (10.30.0.2) at this namespace IP and host.
fn answer(query_key: &str, namespace_ip: &str, host_ip: &str) -> TableAnswer {
    let rr = service_address(IpType::RoundRobin, "10.30.0.1");
    let instance = InstanceEntry {
        instance_number: 0,
        namespace_ip: namespace_ip.into(),
        namespace_ip_v6: String::new(),
        host_ip: host_ip.into(),
        host_port: 50103,
        service_ip: vec![rr.clone(), service_address(IpType::Instance, "10.30.0.2")],
        ..InstanceEntry::default()
    };
    TableAnswer {
        app_name: WEB.into(),
        query_key: query_key.into(),
        instance_list: vec![instance],
        service_ip: vec![rr],
    }
}

fn query_sip(sip: &str) -> Effect {
    Effect::Query(TableQuery { sip: sip.into(), ..TableQuery::default() })
}

fn query_name() -> Effect {
    Effect::Query(by_name(name(WEB)))
}

#[test]
fn a_miss_asks_once_and_the_answer_sends_on_what_waited_for_any_address() {
    let mut worker = worker();
    worker.on_miss(EventKind::Miss, addr("10.30.0.1"), packet(1), NOW);
    worker.on_miss(EventKind::Miss, addr("10.30.0.1"), packet(2), NOW);
    worker.on_miss(EventKind::Miss, addr("10.30.0.2"), packet(3), NOW);
    assert_eq!(worker.take_effects(), [query_sip("10.30.0.1"), query_sip("10.30.0.2")]);

    worker.on_answer(&answer("10.30.0.1", "10.18.1.2", "192.0.2.2"), NOW);
    let sent = [packet(1), packet(2), packet(3)].map(Effect::SendOn);
    let effects = worker.take_effects();
    assert_eq!(effects[0], Effect::Follow(name(WEB)));
    assert_eq!(effects[1..], sent);

    // One that missed before the maps were written is not asked for again.
    worker.on_miss(EventKind::Miss, addr("10.30.0.1"), packet(4), NOW);
    assert_eq!(worker.take_effects(), [Effect::SendOn(packet(4))]);
}

#[test]
fn a_refused_address_returns_its_packets() {
    let mut worker = worker();
    worker.on_miss(EventKind::Miss, addr("10.30.0.9"), packet(1), NOW);
    worker.take_effects();
    let unknown = TableAnswer { query_key: "10.30.0.9".into(), ..TableAnswer::default() };
    worker.on_answer(&unknown, NOW);
    assert_eq!(worker.take_effects(), [Effect::SendOn(packet(1))]);

    // So does an answer that does not lead there: the instance is not attached yet.
    worker.on_miss(EventKind::Miss, addr("10.30.0.2"), packet(2), NOW);
    worker.take_effects();
    worker.on_answer(&answer("10.30.0.2", "", ""), NOW);
    assert!(worker.take_effects().contains(&Effect::SendOn(packet(2))));
    assert_eq!(worker.open_questions(), 0);
}

#[test]
fn an_unnamed_sender_waits_for_its_own_name() {
    let mut worker = worker();
    let lease = worker.lease().unwrap();
    worker.attach(name(WEB), 0, lease, 7, NOW).unwrap();
    let effects = worker.take_effects();
    assert!(matches!(&effects[..], [Effect::Follow(_), Effect::Deployed(_), Effect::Query(_)]));

    worker.on_miss(EventKind::UnnamedSender, addr("10.30.5.5"), packet(1), NOW);
    assert_eq!(worker.take_effects(), [query_name()]);
    worker.on_answer(&answer(WEB, "10.18.0.66", "192.0.2.1"), NOW);
    assert_eq!(worker.take_effects(), [Effect::SendOn(packet(1))]);
    let local = worker.translation().local_instance(name(WEB), 0).unwrap();
    assert_eq!(local.instance.instance_ip_v4, addr("10.30.0.2"));
}

#[test]
fn a_reconnect_says_and_asks_everything_anew() {
    let mut worker = worker();
    let lease = worker.lease().unwrap();
    worker.attach(name(WEB), 0, lease, 7, NOW).unwrap();
    let lease = worker.lease().unwrap();
    worker.attach(name("a.b.c.d"), 3, lease, 8, NOW).unwrap();
    worker.detach(name("a.b.c.d"), 3, NOW).unwrap();
    worker.on_miss(EventKind::Miss, addr("10.30.0.9"), packet(1), NOW);
    worker.take_effects();

    worker.on_connected();
    let effects = worker.take_effects();
    let Effect::RequestSubnet(request) = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(request.endpoint, Some(me()));
    let gone = effects.iter().find_map(|effect| match effect {
        Effect::Undeployed(report) => Some((report.appname.as_str(), report.instance_number)),
        _ => None,
    });
    assert_eq!(gone, Some(("a.b.c.d", 3)), "it went while the cluster was away");
    let there = effects.iter().filter(|effect| matches!(effect, Effect::Deployed(_))).count();
    assert_eq!(there, 1);
    for expected in [Effect::Follow(name(WEB)), query_name(), query_sip("10.30.0.9")] {
        assert!(effects.contains(&expected), "no {expected:?} in {effects:?}");
    }

    worker.detach(name(WEB), 0, NOW).unwrap();
    let effects = worker.take_effects();
    assert!(matches!(&effects[..], [Effect::Undeployed(_)]), "{effects:?}");
    worker.on_connected();
    let again = worker.take_effects();
    assert!(!again.iter().any(|effect| matches!(effect, Effect::Undeployed(_))), "{again:?}");
}

#[test]
fn an_unused_service_is_forgotten_and_one_that_runs_here_is_not() {
    let mut worker = worker();
    let lease = worker.lease().unwrap();
    worker.attach(name("a.b.c.d"), 0, lease, 7, NOW).unwrap();
    worker.on_answer(&answer("10.30.0.1", "10.18.1.2", "192.0.2.2"), NOW);
    worker.take_effects();

    let later = NOW + Settings::default().interest_idle;
    assert_eq!(worker.idle(later).len(), 2);
    worker.used(name(WEB), later - Duration::from_secs(1));
    worker.drop_idle(later);
    assert_eq!(worker.take_effects(), []);

    let later = later + Settings::default().interest_idle;
    worker.drop_idle(later);
    let removed = Effect::RemoveInterest(InterestRemove { appname: WEB.into() });
    assert_eq!(worker.take_effects(), [removed, Effect::Unfollow(name(WEB))]);
    assert!(!worker.translation().knows(name(WEB)));
    assert!(worker.translation().knows(name("a.b.c.d")));
    worker.on_update(name(WEB));
    assert_eq!(worker.take_effects(), [Effect::Unfollow(name(WEB))], "a late message");
}

#[test]
fn a_service_that_the_cluster_no_longer_knows_is_forgotten() {
    let mut worker = worker();
    worker.on_answer(&answer("10.30.0.1", "10.18.1.2", "192.0.2.2"), NOW);
    worker.on_update(name(WEB));
    worker.take_effects();
    worker.on_answer(&TableAnswer { query_key: WEB.into(), ..TableAnswer::default() }, NOW);
    assert!(!worker.translation().knows(name(WEB)));
}

#[test]
fn an_answer_that_is_ahead_of_a_deployment_here_leads_nowhere_else() {
    let mut worker = worker();
    // Seen from outside, this node has its router's address.
    worker.on_answer(&answer("10.30.0.1", "10.18.0.66", "198.51.100.7"), NOW);
    assert!(worker.translation().desired().peers.is_empty());
    assert!(worker.translation().desired().tables.is_empty());
}

#[test]
fn without_a_subnet_the_reason_is_said() {
    let addr = PeerAddr { addr: me().host_ip.into(), port: me().host_port };
    let translation = Translation::new(addr, Capacities::default());
    let mut worker = Worker::new(me(), translation, None, &Settings::default(), NOW);
    assert_eq!(worker.lease(), Err(NoLease::NoSubnet));
    let grant = SubnetGrant {
        address: String::new(),
        addressv6: String::new(),
        error: Some("10.18.0.0/16 is used up".into()),
    };
    worker.on_grant(&grant);
    let refusal = worker.lease().unwrap_err().to_string();
    assert!(refusal.contains("used up"), "{refusal}");
    worker.on_grant(&SubnetGrant { address: "10.18.3.0".into(), error: None, ..grant });
    assert_eq!(worker.lease().unwrap().v4, Ipv4Addr::new(10, 18, 3, 2));
    assert!(matches!(&worker.take_effects()[..], [Effect::Remember(_)]));
}

#[test]
fn the_second_address_of_a_service_asks_nobody_and_waits_for_nothing() {
    let mut worker = worker();
    let closest = service_address(IpType::Closest, "10.30.0.3");
    let mut answer = answer("10.30.0.1", "10.18.1.2", "192.0.2.2");
    answer.service_ip.push(closest);
    worker.on_miss(EventKind::Miss, addr("10.30.0.1"), packet(1), NOW);
    worker.on_answer(&answer, NOW);
    worker.take_effects();
    let installed = |worker: &Worker| {
        let services = worker.translation().desired().services.iter();
        services.map(|(addr, _)| addr.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(installed(&worker), ["10.30.0.1"]);
    for (n, dialled) in [(2, "10.30.0.3"), (3, "10.30.0.2")] {
        worker.on_miss(EventKind::Miss, addr(dialled), packet(n), NOW);
        assert_eq!(worker.take_effects(), [Effect::SendOn(packet(n))]);
    }
    assert_eq!(installed(&worker), ["10.30.0.1", "10.30.0.2", "10.30.0.3"]);
}

fn peer_addr(last: u8) -> PeerAddr {
    PeerAddr { addr: Ipv4Addr::new(192, 0, 2, last).into(), port: 50103 }
}

#[test]
fn an_unknown_sender_is_asked_for_once_and_a_known_one_not() {
    let mut worker = worker();
    worker.on_answer(&answer("10.30.0.1", "10.18.1.2", "192.0.2.2"), NOW);
    worker.take_effects();
    worker.on_unknown_peer(peer_addr(2), NOW);
    assert_eq!(worker.take_effects(), [], "it was announced meanwhile");
    worker.on_unknown_peer(peer_addr(9), NOW);
    worker.on_unknown_peer(peer_addr(9), NOW + Duration::from_secs(29));
    let sender = TunnelEndpoint { host_ip: Ipv4Addr::new(192, 0, 2, 9).into(), host_port: 50103 };
    let asked = Effect::AskPeer(PeersRequest { sender });
    assert_eq!(worker.take_effects(), std::slice::from_ref(&asked));
    worker.on_unknown_peer(peer_addr(9), NOW + Duration::from_secs(30));
    assert_eq!(worker.take_effects(), [asked]);
}

#[test]
fn who_sends_in_the_name_of_an_instance_elsewhere_loses_its_flows() {
    let mut worker = worker();
    worker.on_answer(&answer("10.30.0.1", "10.18.1.2", "192.0.2.2"), NOW);
    worker.take_effects();
    let lives_on = *worker.translation().desired().peers.get(peer_addr(2)).unwrap();
    let foreign = lives_on + 40;
    let src = addr("10.30.0.2");

    // Known from memory.
    worker.on_learned_source(lives_on, src, NOW);
    assert_eq!(worker.take_effects(), []);
    assert!(worker.translation().desired().services.get(src).is_some(), "the programs check it");
    worker.on_learned_source(foreign, src, NOW);
    assert_eq!(worker.take_effects(), [Effect::RemoveFlowsFrom { node: foreign, src }]);

    // Known to the cluster, which is asked once.
    worker.translation_mut().forget(name(WEB));
    worker.on_learned_source(foreign, src, NOW);
    worker.on_learned_source(foreign, src, NOW);
    assert_eq!(worker.take_effects(), [query_sip("10.30.0.2")]);
    worker.on_answer(&answer("10.30.0.2", "10.18.1.2", "192.0.2.2"), NOW);
    let removed = worker
        .take_effects()
        .into_iter()
        .filter(|effect| matches!(effect, Effect::RemoveFlowsFrom { .. }));
    assert_eq!(removed.count(), 1);

    // Known to nobody: it may be too new.
    let other = addr("10.30.7.7");
    worker.on_learned_source(foreign, other, NOW);
    worker.take_effects();
    let unknown = TableAnswer { query_key: "10.30.7.7".into(), ..TableAnswer::default() };
    worker.on_answer(&unknown, NOW);
    assert_eq!(worker.take_effects(), []);
}

#[test]
fn another_address_of_this_node_is_announced_with_its_instances() {
    let mut worker = worker();
    let lease = worker.lease().unwrap();
    worker.attach(name(WEB), 0, lease, 7, NOW).unwrap();
    worker.on_connected();
    worker.take_effects();
    let others = [IpAddr::from(Ipv4Addr::new(192, 0, 2, 77)), "2001:db8::77".parse().unwrap()];
    for other in others {
        worker.on_address(other);
        let effects = worker.take_effects();
        let [Effect::RequestSubnet(request), Effect::Moved(moved)] = &effects[..] else {
            panic!("{effects:?}")
        };
        assert_eq!(request.endpoint.unwrap().host_ip, other);
        assert_eq!((moved.appname.as_str(), moved.host_ip.clone()), (WEB, other.to_string()));
        worker.on_address(other);
        assert_eq!(worker.take_effects(), [], "that is known");
        assert_eq!(worker.translation().desired().nodes.get(0).unwrap().addr, other.into());
    }
}

#[test]
fn by_another_way_no_frame_and_no_size_of_the_old_one_is_used() {
    for host in ["192.0.2.2", "2001:db8::2"] {
        let mut worker = worker();
        worker.set_carried(Carried { uplink_mtu: 1500, instance_mtu: 1452, is_enforced: false });
        worker.on_answer(&answer("10.30.0.1", "10.18.7.2", host), NOW);
        let ip: IpAddr = host.parse().unwrap();
        let peer = PeerAddr { addr: ip.into(), port: 50103 };
        let id = *worker.translation().desired().peers.get(peer).unwrap();
        worker.on_next_hops(&[(ip, [7; 6])].into(), NOW);
        worker.on_path_mtu(id, peer, 1400, NOW);
        let node = |worker: &Worker| *worker.translation().desired().nodes.get(id).unwrap();
        assert_eq!(node(&worker).macs, [7; 6]);
        assert_ne!(node(&worker).mtu, 0);
        worker.on_other_way();
        let node = node(&worker);
        assert_eq!((node.macs, node.next_hop_until_ns, node.mtu), ([0; 6], 0, 0), "{host}");
    }
}

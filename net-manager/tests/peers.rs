//! Other nodes: how far they are, whether they are reached, and whether they may send what they
//! send.

mod support;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use net_common::{Addr, DropReason, InstanceState, Node, NodeState, flow::from_node};
use support::{
    Host, NODE_ADDRESS, NetManager,
    cluster::Cluster,
    on_a_new_host,
    peer::{Peer, Underlay, datagram},
    process::Process,
    wait_for,
};
use xylem_types::mqtt::IpType;

const CART: &str = "shop.prod.cart.prod";
const CART_RR: [u8; 4] = [10, 30, 0, 3];
const CART_0: [u8; 4] = [10, 30, 0, 4];
const FAR: &str = "shop.prod.far.prod";
const FAR_RR: [u8; 4] = [10, 30, 1, 1];
const FAR_CLOSEST: [u8; 4] = [10, 30, 1, 2];
const FAR_UNDERUTILIZED: [u8; 4] = [10, 30, 1, 3];
const FAR_AFFINITY: [u8; 4] = [10, 30, 1, 4];
const FAR_IPS: [(u32, [u8; 4]); 2] = [(0, [10, 30, 1, 10]), (1, [10, 30, 1, 11])];
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const DISTANT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const PORT: u16 = 8080;

/// A client on this node, and a service with instance 0 on a node that is near and instance 1 on
/// one that is 30 ms away.
struct Scene {
    cluster: Cluster,
    manager: NetManager,
    client: Process,
    namespace_ip: Ipv4Addr,
    underlay: Underlay,
    near: Peer,
    distant: Peer,
}

async fn scene(host: &Host) -> Scene {
    let underlay = Underlay::start(&[NEAR, DISTANT, STRANGER]).await;
    let near = underlay.peer(NEAR, Duration::ZERO);
    let distant = underlay.peer(DISTANT, Duration::from_millis(30));
    let cluster = Cluster::start().await;
    cluster.declare(CART, CART_RR, &[(0, CART_0)]);
    cluster.declare(FAR, FAR_RR, &FAR_IPS);
    cluster.set_address(FAR, IpType::Closest, FAR_CLOSEST);
    cluster.set_address(FAR, IpType::Underutilized, FAR_UNDERUTILIZED);
    cluster.set_address(FAR, IpType::Affinity, FAR_AFFINITY);
    cluster.place(FAR, 0, [10, 18, 7, 2], NEAR);
    cluster.place(FAR, 1, [10, 18, 8, 2], DISTANT);
    let manager = host.start().await;
    manager.register().await;
    let client = Process::start().await;
    let namespace_ip = manager.deploy(CART, 0, &client).await.ns_address;
    Scene { cluster, manager, client, namespace_ip, underlay, near, distant }
}

impl Scene {
    /// Sends a datagram from a port of the client.
    async fn dial(&self, address: [u8; 4], from: u16) {
        let send = move || {
            let socket = UdpSocket::bind(("0.0.0.0", from)).unwrap();
            let to: SocketAddr = (address, PORT).into();
            socket.send_to(b"hello", to).unwrap();
        };
        self.client.run(send).await;
    }

    /// Waits until a packet from a port of the client came to one of the two.
    async fn receiver(&self, from: u16) -> Ipv4Addr {
        let is_it = |packet: &Vec<u8>| packet.get(20..22) == Some(&from.to_be_bytes()[..]);
        wait_for("packet", || async {
            for peer in [&self.near, &self.distant] {
                if peer.received().iter().any(is_it) {
                    return Ok(peer.address);
                }
            }
            Err("none came".to_owned())
        })
        .await
    }
}

/// The nodes in the lookup table of an address; nobody, if it is not known.
fn chosen(host: &Host, address: [u8; 4]) -> BTreeSet<String> {
    let maps = host.maps();
    let Some(service) = maps.service(Addr::from(Ipv4Addr::from(address))).unwrap() else {
        return BTreeSet::new();
    };
    let ids = maps.table(service.slot).unwrap();
    let node = |id| maps.node(maps.instance(id).unwrap().node).unwrap().addr.to_string();
    ids.into_iter().map(node).collect()
}

async fn wait_chosen(host: &Host, address: [u8; 4], wanted: &[Ipv4Addr]) {
    let wanted: BTreeSet<String> = wanted.iter().map(Ipv4Addr::to_string).collect();
    wait_for("lookup table", || async {
        let chosen = chosen(host, address);
        if chosen == wanted { Ok(()) } else { Err(format!("{chosen:?} instead of {wanted:?}")) }
    })
    .await;
}

fn node(host: &Host, address: Ipv4Addr) -> Option<(u32, Node)> {
    let nodes = host.maps().nodes().unwrap();
    nodes.into_iter().find(|(id, node)| *id != 0 && node.addr == Addr::from(address))
}

fn dropped(host: &Host, reason: DropReason) -> u64 {
    let drops = host.maps().drops().unwrap();
    drops.into_iter().find(|(other, _)| *other == reason).unwrap().1.packets
}

#[test]
fn every_policy_is_dialled_with_one_question_and_the_closest_is_the_near_one() {
    on_a_new_host(|host| async move {
        let scene = scene(&host).await;
        let known = host.maps().services().unwrap().len();
        scene.dial(FAR_CLOSEST, 1001).await;
        scene.receiver(1001).await;
        assert_eq!(host.maps().services().unwrap().len(), known + 1, "what was not dialled waits");
        wait_chosen(&host, FAR_CLOSEST, &[NEAR]).await;
        let (_, near) = node(&host, NEAR).unwrap();
        let (_, distant) = node(&host, DISTANT).unwrap();
        assert!((1..25_000).contains(&near.rtt_us), "{near:?}");
        assert!((30_000..200_000).contains(&distant.rtt_us), "{distant:?}");
        scene.dial(FAR_CLOSEST, 1002).await;
        assert_eq!(scene.receiver(1002).await, NEAR);

        // The cluster is deaf now, and every other address is answered from memory.
        scene.cluster.set_mute(true);
        for (address, from) in [(FAR_RR, 1003), (FAR_UNDERUTILIZED, 1004), (FAR_AFFINITY, 1005)] {
            scene.dial(address, from).await;
            scene.receiver(from).await;
            assert_eq!(chosen(&host, address).len(), 2, "{address:?}");
        }
        scene.dial(FAR_IPS[1].1, 1006).await;
        assert_eq!(scene.receiver(1006).await, DISTANT);
        let questions = scene.cluster.state.lock().unwrap().queries.clone();
        let about_far = questions.iter().filter(|query| query.sip.starts_with("10.30.1."));
        assert_eq!(about_far.count(), 1, "{questions:?}");

        // After a kill the maps are what is known, until the cluster has told the rest again.
        let before: BTreeSet<_> =
            host.maps().services().unwrap().into_iter().map(|(addr, _)| addr).collect();
        scene.cluster.set_mute(false);
        scene.manager.kill().await;
        let manager = host.start().await;
        let after: BTreeSet<_> =
            host.maps().services().unwrap().into_iter().map(|(addr, _)| addr).collect();
        assert_eq!(before, after);
        assert_eq!(chosen(&host, FAR_CLOSEST), [NEAR.to_string()].into());
        wait_for("answer", || async {
            let asked = scene.cluster.asked(FAR);
            if asked != 0 { Ok(()) } else { Err("it does not ask again".to_owned()) }
        })
        .await;
        wait_chosen(&host, FAR_CLOSEST, &[NEAR]).await;
        manager.stop().await;
    });
}

#[test]
fn a_node_that_does_not_answer_leaves_the_tables_within_half_a_second_and_returns() {
    on_a_new_host(|host| async move {
        let scene = scene(&host).await;
        scene.cluster.announce_peers(&[NEAR, DISTANT]).await;
        for (address, from) in [(FAR_RR, 1001), (FAR_CLOSEST, 1002), (FAR_AFFINITY, 1003)] {
            scene.dial(address, from).await;
            scene.receiver(from).await;
        }
        wait_chosen(&host, FAR_CLOSEST, &[NEAR]).await;
        for round in 0..2 {
            let cut = Instant::now();
            scene.near.mute(true);
            for address in [FAR_RR, FAR_CLOSEST, FAR_AFFINITY] {
                wait_chosen(&host, address, &[DISTANT]).await;
            }
            let took = cut.elapsed();
            eprintln!("round {round}: out of the tables after {took:?}");
            assert!(took < Duration::from_millis(500), "it took {took:?}");
            let (_, node) = node(&host, NEAR).unwrap();
            assert_eq!(node.state, NodeState::Down as u32);

            scene.near.mute(false);
            wait_chosen(&host, FAR_RR, &[NEAR, DISTANT]).await;
            wait_chosen(&host, FAR_CLOSEST, &[NEAR]).await;
            eprintln!("round {round}: back {:?} after the cut", cut.elapsed());
        }
        scene.manager.stop().await;
    });
}

#[test]
fn a_draining_instance_keeps_its_flows_and_gets_no_new_ones() {
    on_a_new_host(|host| async move {
        let scene = scene(&host).await;
        let mut at_near = Vec::new();
        for from in 1001..1007 {
            scene.dial(FAR_RR, from).await;
            if scene.receiver(from).await == NEAR {
                at_near.push(from);
            }
        }
        assert_eq!(at_near.len(), 3, "in turn");
        scene.cluster.drain(FAR, 0);
        scene.cluster.announce_update(FAR).await;
        wait_chosen(&host, FAR_RR, &[DISTANT]).await;
        let states: Vec<u32> =
            host.maps().instances().unwrap().iter().map(|(_, instance)| instance.state).collect();
        assert!(states.contains(&(InstanceState::Draining as u32)), "{states:?}");
        for from in at_near {
            scene.dial(FAR_RR, from).await;
            assert_eq!(scene.receiver(from).await, NEAR);
        }
        for from in 1011..1015 {
            scene.dial(FAR_RR, from).await;
            assert_eq!(scene.receiver(from).await, DISTANT);
        }
        scene.manager.stop().await;
    });
}

#[test]
fn frames_to_a_neighbour_need_no_look_up_while_it_is_known() {
    on_a_new_host(|host| async move {
        let scene = scene(&host).await;
        scene.dial(FAR_RR, 1001).await;
        let far = scene.underlay.mac();
        let macs = |node: &Node| {
            let bytes = node.macs.iter().flat_map(|word| word.to_ne_bytes());
            let texts: Vec<String> = bytes.map(|byte| format!("{byte:02x}")).collect();
            (texts[..6].join(":"), texts[6..].join(":"))
        };
        let known = || node(&host, NEAR).map(|(_, node)| node).unwrap_or_default();
        let first = wait_for("next hop", || async {
            let node = known();
            if node.next_hop_until_ns != 0 { Ok(node) } else { Err(format!("{node:?}")) }
        })
        .await;
        assert_eq!(macs(&first), (far, "02:00:00:00:00:01".to_owned()));
        wait_for("refresh", || async {
            let until = known().next_hop_until_ns;
            if until > first.next_hop_until_ns { Ok(()) } else { Err(format!("{until}")) }
        })
        .await;
        scene.dial(FAR_IPS[0].1, 1002).await;
        assert_eq!(scene.receiver(1002).await, NEAR);

        // Another machine takes the address over.
        scene.underlay.inside(|| {
            let renamed = std::process::Command::new("ip")
                .args(["link", "set", "far", "address", "02:00:00:00:00:77"])
                .status();
            assert!(renamed.unwrap().success());
        });
        let changed = Instant::now();
        let said = std::process::Command::new("ip")
            .args(["neighbour", "replace", "192.0.2.2", "lladdr", "02:00:00:00:00:77"])
            .args(["dev", support::UPLINK, "nud", "reachable"])
            .status();
        assert!(said.unwrap().success());
        wait_for("other next hop", || async {
            let (destination, _) = macs(&known());
            if destination == "02:00:00:00:00:77" { Ok(()) } else { Err(destination) }
        })
        .await;
        assert!(changed.elapsed() < Duration::from_millis(700), "{:?}", changed.elapsed());
        scene.manager.stop().await;
    });
}

#[test]
fn another_address_is_announced_at_once_and_flows_go_on() {
    on_a_new_host(|host| async move {
        const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
        let scene = scene(&host).await;
        scene.cluster.announce_peers(&[NEAR, DISTANT]).await;
        scene.dial(FAR_RR, 1001).await;
        let before = scene.receiver(1001).await;
        wait_for("measured path", || async {
            let rtt_us = node(&host, NEAR).map_or(0, |(_, node)| node.rtt_us);
            if rtt_us != 0 { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;

        for change in [["add", "192.0.2.100/25"], ["del", "192.0.2.1/24"]] {
            let mut ip = std::process::Command::new("ip");
            ip.arg("address").args(change).args(["dev", support::UPLINK]);
            assert!(ip.status().unwrap().success());
        }
        let announced = wait_for("announcement", || async {
            let endpoints = scene.cluster.state.lock().unwrap().endpoints.clone();
            let other = endpoints.iter().find(|endpoint| endpoint.host_ip == OTHER);
            other.copied().ok_or_else(|| format!("{endpoints:?}"))
        })
        .await;
        assert_eq!(announced.host_port, 50103);
        assert_eq!(host.maps().config().unwrap().node_addr, Addr::from(OTHER));
        scene.dial(FAR_RR, 1001).await;
        assert_eq!(scene.receiver(1001).await, before);
        // Probes leave from there as well, and come back: longer than it takes to be down.
        let (id, _) = node(&host, NEAR).unwrap();
        let counted = |maps: net_maps::PinnedMaps| {
            let counters = maps.program_counters().unwrap();
            let answered = net_common::ProgramCounter::ProbeAnswered;
            counters.into_iter().find(|(counter, _)| *counter == answered).unwrap().1.packets
        };
        let until = counted(host.maps()) + 20;
        wait_for("answers", || async {
            let answered = counted(host.maps());
            if answered >= until { Ok(()) } else { Err(format!("{answered} of {until}")) }
        })
        .await;
        assert_eq!(host.maps().node(id).unwrap().state, NodeState::Up as u32);
        scene.manager.stop().await;
    });
}

#[test]
fn an_unknown_sender_is_asked_for_once() {
    on_a_new_host(|host| async move {
        let scene = scene(&host).await;
        let stranger = scene.underlay.peer(STRANGER, Duration::ZERO);
        let packet = datagram((FAR_IPS[0].1, 1), (CART_0, PORT), b"let me in");
        let strangers = || scene.cluster.state.lock().unwrap().strangers.clone();
        wait_for("question", || async {
            stranger.send(NODE_ADDRESS, &packet);
            if strangers().is_empty() { Err("none".to_owned()) } else { Ok(()) }
        })
        .await;
        let until = dropped(&host, DropReason::UnknownPeer) + 20;
        wait_for("drops", || async {
            stranger.send(NODE_ADDRESS, &packet);
            let dropped = dropped(&host, DropReason::UnknownPeer);
            if dropped >= until { Ok(()) } else { Err(format!("{dropped} of {until}")) }
        })
        .await;
        let asked = strangers();
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!((asked[0].host_ip, asked[0].host_port), (STRANGER.into(), 50103));

        scene.cluster.announce_peers(&[NEAR, DISTANT, STRANGER]).await;
        wait_for("peer", || async {
            if node(&host, STRANGER).is_some() { Ok(()) } else { Err("not known".to_owned()) }
        })
        .await;
        scene.manager.stop().await;
    });
}

#[test]
fn a_node_may_not_send_in_the_name_of_an_instance_elsewhere() {
    on_a_new_host(|host| async move {
        let scene = scene(&host).await;
        scene.cluster.announce_peers(&[NEAR, DISTANT]).await;
        wait_for("peers", || async {
            if node(&host, NEAR).is_some() { Ok(()) } else { Err("not known".to_owned()) }
        })
        .await;
        let (near, _) = node(&host, NEAR).unwrap();
        let (distant, _) = node(&host, DISTANT).unwrap();
        // Instance 0 lives on the near node. Nobody here has dialled it yet.
        let packet = datagram((FAR_IPS[0].1, 1), (CART_0, PORT), b"I am 0");
        let flows_from = |id: u32| {
            let keys = host.maps().flow_keys().unwrap();
            keys.iter().filter(|key| key.origin == from_node(id)).count()
        };
        scene.distant.send(NODE_ADDRESS, &packet);
        wait_for("refusal", || async {
            scene.distant.send(NODE_ADDRESS, &packet);
            let dropped = dropped(&host, DropReason::ForeignSource);
            if dropped != 0 { Ok(()) } else { Err("it is let in".to_owned()) }
        })
        .await;
        assert_eq!(flows_from(distant), 0, "what it had opened is removed");
        scene.near.send(NODE_ADDRESS, &packet);
        wait_for("flow", || async {
            if flows_from(near) == 1 { Ok(()) } else { Err("it is not let in".to_owned()) }
        })
        .await;
        assert_eq!(scene.cluster.asked("10.30.1.10"), 1);
        assert_ne!(scene.namespace_ip, Ipv4Addr::UNSPECIFIED);
        scene.manager.stop().await;
    });
}

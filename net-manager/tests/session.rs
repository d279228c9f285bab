//! The session with the cluster: what it announces, and what happens when it breaks.

mod support;

use std::net::Ipv4Addr;

use net_common::NodeKind;
use support::{
    cluster::{self, Cluster},
    on_a_new_host,
    process::Process,
    proxy::{self, Line},
    wait_for,
};
use xylem_types::mqtt::{Peer, PeerKind, Peers, TunnelEndpoint, topic};

const WEB: &str = "shop.prod.web.prod";
const CART: &str = "shop.prod.cart.prod";

#[test]
fn after_a_cut_both_sides_know_the_same_again() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, [10, 30, 0, 2])]);
        cluster.declare(CART, [10, 30, 0, 3], &[(0, [10, 30, 0, 4])]);
        let line = Line::open().await;
        let manager = host.start().await;
        manager.register_at(proxy::PORT).await;
        let (web, cart) = (Process::start().await, Process::start().await);
        manager.deploy(WEB, 0, &web).await;
        manager.deploy(CART, 0, &cart).await;

        line.cut().await;
        wait_for("end of the session", || async {
            let status = manager.status().await.unwrap();
            if status.connected { Err(format!("{status:?}")) } else { Ok(()) }
        })
        .await;
        manager.undeploy(CART, 0).await;
        // The cluster forgets, and changes, what it cannot tell.
        cluster.state.lock().unwrap().services.get_mut(WEB).unwrap().deployed.clear();
        cluster.place(WEB, 1, [10, 18, 7, 2], Ipv4Addr::new(192, 0, 2, 9));
        line.restore().await;

        wait_for("agreement", || async {
            let state = cluster.state.lock().unwrap();
            let undeployed: Vec<_> = state.undeployed.iter().map(|r| r.appname.clone()).collect();
            let deployed: Vec<_> = state.services[WEB].deployed.keys().copied().collect();
            let peers = host.maps().peers().unwrap().len();
            if undeployed == [CART] && deployed == [0, 1] && peers == 1 {
                Ok(())
            } else {
                Err(format!("undeployed {undeployed:?}, deployed {deployed:?}, {peers} peers"))
            }
        })
        .await;
        manager.stop().await;
    });
}

#[test]
fn announced_peers_are_in_the_maps_with_their_kind_and_subnet() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        let manager = host.start().await;
        manager.register().await;
        wait_for("session", || async {
            let status = manager.status().await.unwrap();
            if status.subnet.is_some() { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        let peer = |last: u8, port, kind| Peer {
            worker_id: format!("w{last}"),
            endpoint: TunnelEndpoint {
                host_ip: Ipv4Addr::new(192, 0, 2, last).into(),
                host_port: port,
            },
            subnet: Some(Ipv4Addr::new(10, 18, last, 0)),
            subnet_v6: None,
            kind,
        };
        let announce = async |peers| {
            cluster.publish(topic::peers(cluster::WORKER), &Peers { peers }).await;
        };
        // Two workers behind one address.
        announce(vec![
            peer(2, 50103, PeerKind::Xylem),
            peer(2, 50104, PeerKind::Oakestra),
            peer(3, 50103, PeerKind::Xylem),
        ])
        .await;
        let known = || {
            let maps = host.maps();
            let nodes = maps.nodes().unwrap();
            let mut known: Vec<(String, u16, u32)> = maps
                .peers()
                .unwrap()
                .into_iter()
                .map(|(peer, id)| {
                    let (_, node) = nodes.iter().find(|(other, _)| *other == id).unwrap();
                    assert_eq!((node.addr, node.port), (peer.addr, peer.port));
                    (peer.addr.to_string(), u16::from_be(peer.port), node.kind)
                })
                .collect();
            known.sort();
            known
        };
        let (ours, theirs) = (NodeKind::Xylem as u32, NodeKind::Oakestra as u32);
        let three = [
            ("192.0.2.2".to_owned(), 50103, ours),
            ("192.0.2.2".to_owned(), 50104, theirs),
            ("192.0.2.3".to_owned(), 50103, ours),
        ];
        wait_for("peers", || async {
            if known() == three { Ok(()) } else { Err(format!("{:?}", known())) }
        })
        .await;
        announce(vec![peer(3, 50103, PeerKind::Xylem)]).await;
        wait_for("shorter list", || async {
            if known() == three[2..] { Ok(()) } else { Err(format!("{:?}", known())) }
        })
        .await;
        manager.stop().await;
    });
}

//! Who may send to whom.

use xylem_types::mqtt::{Peer, PeerKind, PeersRequest};

use super::{network::ready, *};

fn who_is(port: u16) -> FromWorker {
    let sender = TunnelEndpoint { host_ip: [192, 0, 2, 1].into(), host_port: port };
    FromWorker::PeersRequest(PeersRequest { sender })
}

#[test]
fn a_peer_is_announced_with_all_that_its_packets_are_checked_by() {
    let mut bench = ready(&["a", "b"]);
    let foreign = Peer {
        worker_id: "far".into(),
        endpoint: TunnelEndpoint { host_ip: [198, 51, 100, 7].into(), host_port: 50200 },
        subnet: Some([10, 18, 9, 0].into()),
        subnet_v6: Some("fc00::900".parse().unwrap()),
        kind: PeerKind::Oakestra,
    };
    bench.root_says(FromRoot::Peers { peers: vec![foreign.clone()] });
    let mut lists = bench.take(|body| match body {
        ToWorker::Peers(peers) => Some(peers.peers.clone()),
        _ => None,
    });
    lists.retain(|(worker, _)| worker == "a");
    let (_, peers) = lists.pop().unwrap();
    let b = Peer {
        worker_id: "b".into(),
        endpoint: TunnelEndpoint { host_ip: [192, 0, 2, 1].into(), host_port: 50104 },
        subnet: Some([10, 18, 2, 0].into()),
        subnet_v6: Some("fc00::200".parse().unwrap()),
        kind: PeerKind::Xylem,
    };
    assert_eq!(peers, [b, foreign]);
    let text = serde_json::to_string(&peers[0]).unwrap();
    assert_eq!(
        text,
        r#"{"worker_id":"b","host_ip":"192.0.2.1","host_port":50104,"subnet":"10.18.2.0","subnet_v6":"fc00::200","kind":"xylem"}"#
    );
}

#[test]
fn who_asks_for_a_sender_is_told_again_if_it_is_a_peer() {
    let mut bench = ready(&["a", "b"]);
    bench.says("a", who_is(1));
    assert!(bench.peers().is_empty(), "a stranger");
    bench.says("a", who_is(50103));
    assert!(bench.peers().is_empty(), "itself is no peer");
    bench.says("a", who_is(50104));
    assert_eq!(bench.peers(), [("a".to_owned(), vec!["b".to_owned()])].into());
    // However often it asks.
    for _ in 0..100 {
        bench.says("a", who_is(50104));
    }
    assert!(bench.peers().is_empty());
    bench.pass(secs(1), &["a", "b"]);
    bench.says("a", who_is(50104));
    assert_eq!(bench.peers().len(), 1);
}

#[test]
fn a_worker_is_reached_over_either_family() {
    let mut bench = ready(&["a", "b"]);
    let there: TunnelEndpoint =
        serde_json::from_str(r#"{"host_ip":"2001:db8::b","host_port":50103}"#).unwrap();
    let request = SubnetRequest { method: "GET".into(), endpoint: Some(there) };
    bench.says("b", FromWorker::Subnet(request));
    let mut lists = bench.take(|body| match body {
        ToWorker::Peers(peers) => Some(peers.peers.clone()),
        _ => None,
    });
    lists.retain(|(worker, _)| worker == "a");
    let (_, peers) = lists.pop().unwrap();
    assert_eq!(peers[0].endpoint, there);
    let text = serde_json::to_string(&peers[0]).unwrap();
    assert_eq!(serde_json::from_str::<Peer>(&text).unwrap(), peers[0]);
    bench.says("a", FromWorker::PeersRequest(PeersRequest { sender: there }));
    assert_eq!(bench.peers(), [("a".to_owned(), vec!["b".to_owned()])].into());
}

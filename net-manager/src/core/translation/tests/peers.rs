//! Nodes, and the paths to them.

use super::*;

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

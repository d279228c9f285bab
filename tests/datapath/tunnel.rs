//! Between nodes: encapsulation, decapsulation, the way back, and who may send.

use std::net::Ipv4Addr;

use net_common::{DropReason, Endpoint, Node, NodeKind, NodeState};

use crate::{
    CLIENT, FAR, NEAR, SERVICE, SLOT,
    harness::{DROP, Datapath, IFINDEX, NODE_IP, PASS, PEER_IP, REDIRECT, TUNNEL_PORT},
    packets::*,
};

fn client_side() -> Datapath {
    let mut datapath = Datapath::load();
    datapath.instance(CLIENT, 0);
    datapath.instance(FAR, 1);
    datapath.round_robin(SERVICE, SLOT, &[FAR.id]);
    datapath
}

/// The node of the server [`NEAR`], which knows nothing of the client [`FAR`].
fn server_side() -> Datapath {
    let mut datapath = Datapath::load();
    datapath.instance(NEAR, 0);
    datapath
}

const TUNNEL_OUT: Seen = Seen { src: (NODE_IP, TUNNEL_PORT), dst: (PEER_IP, TUNNEL_PORT) };

#[test]
fn a_dialled_packet_goes_into_the_tunnel_and_its_answer_comes_out() {
    let mut dp = client_side();
    let client = (CLIENT.namespace_ip, 40_000);
    let (verdict, out) = dp.run("from_instance", &tcp(client, (SERVICE, 80), SYN, b""));
    assert_eq!(verdict, REDIRECT);
    let (outer, inner) = unwrapped(&out);
    assert_eq!(outer, TUNNEL_OUT);
    assert_eq!(
        seen(&inner),
        Seen { src: (CLIENT.instance_ip, 40_000), dst: (FAR.namespace_ip, 80) }
    );
    assert_eq!(
        dp.changed(),
        [
            ("encapsulated".to_owned(), 1),
            ("instance 3 egress".to_owned(), 1),
            ("instance 3 new flows".to_owned(), 1),
            ("service 5 egress".to_owned(), 1),
            ("service 5 new flows".to_owned(), 1),
        ]
    );

    let answer = tcp((FAR.instance_ip, 80), (CLIENT.instance_ip, 40_000), SYN_ACK, b"hi");
    let (verdict, out) = dp.run("from_uplink", &tunnelled(&answer));
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (SERVICE, 80), dst: client });
    assert_eq!(
        dp.changed(),
        [
            ("decapsulated".to_owned(), 1),
            ("delivered".to_owned(), 1),
            ("instance 3 ingress".to_owned(), 1),
            ("service 5 ingress".to_owned(), 1),
        ]
    );
}

#[test]
fn an_answer_to_the_namespace_ip_is_taken_too() {
    // As a peer that runs Oakestra's proxy addresses it.
    let mut dp = client_side();
    let client = (CLIENT.namespace_ip, 40_000);
    dp.run("from_instance", &udp(client, (SERVICE, 53), b"query"));
    let answer = udp((FAR.instance_ip, 53), client, b"answer");
    let (verdict, out) = dp.run("from_uplink", &tunnelled(&answer));
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (SERVICE, 53), dst: client });
}

#[test]
fn a_remote_client_is_served_and_answered_without_a_table_entry() {
    let mut dp = server_side();
    let question = tcp((FAR.instance_ip, 40_000), (NEAR.namespace_ip, 80), SYN, b"");
    let (verdict, out) = dp.run("from_uplink", &tunnelled(&question));
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (FAR.instance_ip, 40_000), dst: (NEAR.namespace_ip, 80) });
    assert_eq!(
        dp.changed(),
        [
            ("decapsulated".to_owned(), 1),
            ("delivered".to_owned(), 1),
            ("instance 2 ingress".to_owned(), 1),
            ("instance 2 new flows".to_owned(), 1),
        ]
    );

    let answer = tcp((NEAR.namespace_ip, 80), (FAR.instance_ip, 40_000), SYN_ACK, b"");
    let (verdict, out) = dp.run("from_instance", &answer);
    assert_eq!(verdict, REDIRECT);
    let (outer, inner) = unwrapped(&out);
    assert_eq!(outer, TUNNEL_OUT);
    assert_eq!(seen(&inner), Seen { src: (NEAR.instance_ip, 80), dst: (FAR.instance_ip, 40_000) });
    assert_eq!(dp.changed(), [("encapsulated".to_owned(), 1), ("instance 2 egress".to_owned(), 1)]);
}

#[test]
fn a_ping_through_the_tunnel_is_answered() {
    let mut dp = client_side();
    let (_, out) = dp.run("from_instance", &echo_request(CLIENT.namespace_ip, SERVICE, 9));
    let (_, inner) = unwrapped(&out);
    assert_eq!(seen(&inner), Seen { src: (CLIENT.instance_ip, 9), dst: (FAR.namespace_ip, 9) });
    let reply = echo_reply(FAR.instance_ip, CLIENT.instance_ip, 9);
    let (verdict, out) = dp.run("from_uplink", &tunnelled(&reply));
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (SERVICE, 9), dst: (CLIENT.namespace_ip, 9) });

    let mut dp = server_side();
    let request = echo_request(FAR.instance_ip, NEAR.namespace_ip, 9);
    let (verdict, _) = dp.run("from_uplink", &tunnelled(&request));
    assert_eq!(verdict, REDIRECT);
    let reply = echo_reply(NEAR.namespace_ip, FAR.instance_ip, 9);
    let (_, out) = dp.run("from_instance", &reply);
    let (_, inner) = unwrapped(&out);
    assert_eq!(seen(&inner), Seen { src: (NEAR.instance_ip, 9), dst: (FAR.instance_ip, 9) });
}

#[test]
fn the_outer_header_carries_the_inner_traffic_class() {
    let mut dp = client_side();
    let packet = udp((CLIENT.namespace_ip, 5000), (SERVICE, 53), b"x");
    // DSCP EF (RFC 3246) and ECT(0).
    let marked = with_header_checksum(patched(packet, ETH_LEN + 1, &[0xb8 | 0x02]));
    let (_, out) = dp.run("from_instance", &marked);
    assert_eq!(out[ETH_LEN + 1], 0xba);
    assert_eq!(out[ETH_LEN + TUNNEL_LEN + 1], 0xba);
}

#[test]
fn unknown_senders_are_refused() {
    let mut dp = server_side();
    let question = udp((FAR.instance_ip, 40_000), (NEAR.namespace_ip, 80), b"x");
    let stranger = Ipv4Addr::new(192, 0, 2, 99);
    dp.assert_dropped(
        "from_uplink",
        &tunnelled_from((stranger, TUNNEL_PORT), &question),
        DropReason::UnknownPeer,
    );
    // A peer's address is not enough: its port counts too.
    dp.assert_dropped(
        "from_uplink",
        &tunnelled_from((PEER_IP, 1234), &question),
        DropReason::UnknownPeer,
    );
    assert!(dp.flows().is_empty());
}

#[test]
fn inner_sources_that_cannot_be_there_are_refused() {
    let mut dp = server_side();
    dp.instance(CLIENT, 0);
    dp.instance_address(CLIENT.instance_ip, 6, CLIENT.id);
    dp.round_robin(SERVICE, SLOT, &[CLIENT.id]);
    let sources = [
        // A namespace IP, an address outside of the overlay, one of our own, a service's.
        FAR.namespace_ip,
        Ipv4Addr::new(192, 0, 2, 7),
        CLIENT.instance_ip,
        SERVICE,
    ];
    for source in sources {
        let packet = udp((source, 40_000), (NEAR.namespace_ip, 80), b"x");
        dp.assert_dropped("from_uplink", &tunnelled(&packet), DropReason::ForeignSource);
    }
}

#[test]
fn a_peer_cannot_answer_for_another_peer() {
    let mut dp = client_side();
    let other = Ipv4Addr::new(192, 0, 2, 3);
    dp.node(2, other, NodeKind::Xylem);
    dp.peer(other, TUNNEL_PORT, 2);
    dp.instance_address(FAR.instance_ip, 7, FAR.id);
    dp.run("from_instance", &udp((CLIENT.namespace_ip, 5000), (SERVICE, 53), b"query"));
    let answer = udp((FAR.instance_ip, 53), (CLIENT.instance_ip, 5000), b"forged");
    dp.assert_dropped(
        "from_uplink",
        &tunnelled_from((other, TUNNEL_PORT), &answer),
        DropReason::ForeignSource,
    );
}

#[test]
fn a_tunnel_packet_for_nobody_is_refused() {
    let mut dp = server_side();
    let packet = udp((FAR.instance_ip, 40_000), (Ipv4Addr::new(10, 18, 0, 40), 80), b"x");
    dp.assert_dropped("from_uplink", &tunnelled(&packet), DropReason::NoEndpoint);
}

#[test]
fn an_instance_without_its_own_address_is_not_served_yet() {
    let mut dp = server_side();
    let unnamed = Endpoint {
        namespace_ip: CLIENT.namespace_ip.into(),
        ifindex: IFINDEX,
        ..Endpoint::default()
    };
    dp.set_endpoint(CLIENT.namespace_ip, unnamed);
    let packet = udp((FAR.instance_ip, 40_000), (CLIENT.namespace_ip, 80), b"x");
    dp.assert_dropped("from_uplink", &tunnelled(&packet), DropReason::EndpointUnnamed);
}

#[test]
fn an_unasked_echo_reply_is_refused() {
    let mut dp = server_side();
    let reply = echo_reply(FAR.instance_ip, NEAR.namespace_ip, 9);
    dp.assert_dropped("from_uplink", &tunnelled(&reply), DropReason::UnsupportedIcmp);
    dp.instance(CLIENT, 0);
    let reply = echo_reply(CLIENT.namespace_ip, SERVICE, 9);
    dp.assert_dropped("from_instance", &reply, DropReason::UnsupportedIcmp);
}

#[test]
fn nothing_is_sent_to_a_node_that_is_down_or_unknown() {
    let mut dp = client_side();
    let packet = udp((CLIENT.namespace_ip, 5000), (SERVICE, 53), b"x");
    dp.run("from_instance", &packet);
    let up = dp.get_node(1);
    dp.set_node(1, Node { state: NodeState::Down as u32, ..up });
    dp.assert_dropped("from_instance", &packet, DropReason::NodeDown);
    dp.set_node(1, up);
    assert_eq!(dp.run("from_instance", &packet).0, REDIRECT);
}

#[test]
fn a_node_without_an_uplink_sends_nothing() {
    let mut dp = client_side();
    dp.configure(net_common::Config {
        node_addr: NODE_IP.into(),
        tunnel_port: TUNNEL_PORT.to_be(),
        service_net_v4: u32::from_ne_bytes([10, 30, 0, 0]),
        service_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
        ..net_common::Config::default()
    });
    let packet = udp((CLIENT.namespace_ip, 5000), (SERVICE, 53), b"x");
    let (verdict, _) = dp.run("from_instance", &packet);
    assert_eq!(verdict, DROP);
    assert!(dp.changed().contains(&("drop not-configured".to_owned(), 1)));
}

#[test]
fn other_traffic_of_the_uplink_is_left_alone() {
    let mut dp = server_side();
    let inner = udp((FAR.instance_ip, 1), (NEAR.namespace_ip, 2), b"x");
    let others = [
        udp((PEER_IP, TUNNEL_PORT), (NODE_IP, TUNNEL_PORT + 1), &inner[ETH_LEN..]),
        udp((PEER_IP, TUNNEL_PORT), (Ipv4Addr::new(192, 0, 2, 77), TUNNEL_PORT), &inner[ETH_LEN..]),
        tcp((PEER_IP, TUNNEL_PORT), (NODE_IP, TUNNEL_PORT), SYN, b""),
        patched(tunnelled(&inner), 12, &[0x08, 0x06]),
        patched(tunnelled(&inner), 12, &[0x86, 0xdd]),
    ];
    for packet in others {
        let (verdict, out) = dp.run("from_uplink", &packet);
        assert_eq!((verdict, &out), (PASS, &packet));
        assert_eq!(dp.changed(), [("passed".to_owned(), 1)]);
    }
}

#[test]
fn an_oakestra_peer_is_answered_at_its_namespace_ip() {
    // The way back to such a peer is not learnt: the first answer is resolved like any address.
    let mut dp = server_side();
    dp.node(1, PEER_IP, NodeKind::Oakestra);
    let question = udp((FAR.instance_ip, 40_000), (NEAR.namespace_ip, 80), b"x");
    assert_eq!(dp.run("from_uplink", &tunnelled(&question)).0, REDIRECT);
    let answer = udp((NEAR.namespace_ip, 80), (FAR.instance_ip, 40_000), b"y");
    let (verdict, _) = dp.run("from_instance", &answer);
    assert_eq!((verdict, dp.changed()), (DROP, vec![("parked".to_owned(), 1)]));

    dp.instance(FAR, 1);
    dp.instance_address(FAR.instance_ip, 7, FAR.id);
    let (verdict, out) = dp.run("from_parked", &answer);
    assert_eq!(verdict, REDIRECT);
    let (_, inner) = unwrapped(&out);
    assert_eq!(seen(&inner), Seen { src: (NEAR.instance_ip, 80), dst: (FAR.namespace_ip, 40_000) });
}

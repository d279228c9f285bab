//! Client and server on one node.

use net_common::flow::flags;

use crate::{
    harness::{Datapath, REDIRECT, veth},
    packets::*,
    pool::Leased,
    world::*,
};

fn datapath() -> Leased {
    let mut datapath = Datapath::load();
    datapath.instance(CLIENT, 0);
    datapath.instance(NEAR, 0);
    datapath.round_robin(SERVICE, SLOT, &[NEAR.id]);
    datapath
}

fn delivered(new_flow: bool, direction: &str) -> Vec<(String, u64)> {
    let mut counters = vec![("delivered".to_owned(), 1)];
    for what in [format!("instance {}", NEAR.id), format!("service {SLOT}")] {
        counters.push((format!("{what} {direction}"), 1));
        if new_flow {
            counters.push((format!("{what} new flows"), 1));
        }
    }
    counters.sort();
    counters
}

#[test]
fn a_connection_is_translated_there_and_back() {
    let mut dp = datapath();
    let client = (CLIENT.namespace_ip, 40_000);

    let (verdict, out) = dp.run("from_instance", &tcp(client, (SERVICE, 80), SYN, b""));
    assert_eq!(verdict, REDIRECT);
    assert_eq!(
        seen(&out),
        Seen { src: (CLIENT.instance_ip, 40_000), dst: (NEAR.namespace_ip, 80) }
    );
    assert_eq!(dp.changed(), delivered(true, "egress"));

    let answer = tcp((NEAR.namespace_ip, 80), (CLIENT.instance_ip, 40_000), SYN_ACK, b"");
    let (verdict, out) = dp.run("from_instance", &answer);
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (SERVICE, 80), dst: client });
    assert_eq!(dp.changed(), delivered(false, "ingress"));

    let data = tcp(client, (SERVICE, 80), ACK, &[7; 1000]);
    let (_, out) = dp.run("from_instance", &data);
    assert_eq!(
        seen(&out),
        Seen { src: (CLIENT.instance_ip, 40_000), dst: (NEAR.namespace_ip, 80) }
    );
    assert_eq!(out[ETH_LEN + 40..], [7; 1000]);
    // The client goes on: the connection is established.
    let mut confirmed = delivered(false, "egress");
    confirmed.push(("flow-confirmed".to_owned(), 1));
    confirmed.sort();
    assert_eq!(dp.changed(), confirmed);
}

#[test]
fn a_flow_counts_its_own_packets_and_bytes() {
    let mut dp = datapath();
    let client = (CLIENT.namespace_ip, 40_000);
    dp.run("from_instance", &tcp(client, (SERVICE, 80), SYN, b""));
    dp.run("from_instance", &tcp(client, (SERVICE, 80), ACK, &[0; 60]));
    let flows = dp.flows();
    let there = flows[&format!("{}>{SERVICE} {:#x}", CLIENT.namespace_ip, veth(CLIENT.id))];
    assert_eq!((there.packets, there.bytes), (2, 40 + 100));
    assert_eq!((there.service, there.instance, there.flags), (SLOT, NEAR.id, 0));
    let back = flows[&format!("{}>{} {:#x}", NEAR.namespace_ip, CLIENT.instance_ip, veth(NEAR.id))];
    assert_eq!((back.packets, back.bytes, back.flags), (0, 0, flags::REPLY));
    assert_eq!(flows.len(), 2);
}

#[test]
fn udp_is_translated_and_an_absent_checksum_stays_absent() {
    let mut dp = datapath();
    let request = udp((CLIENT.namespace_ip, 5000), (SERVICE, 53), b"query");
    let (verdict, out) = dp.run("from_instance", &request);
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (CLIENT.instance_ip, 5000), dst: (NEAR.namespace_ip, 53) });

    let unsummed = patched(request, ETH_LEN + 26, &[0, 0]);
    let (_, out) = dp.run("from_instance", &unsummed);
    assert_eq!(out[ETH_LEN + 26..ETH_LEN + 28], [0, 0]);
}

#[test]
fn a_ping_and_its_answer_are_translated() {
    let mut dp = datapath();
    let (verdict, out) = dp.run("from_instance", &echo_request(CLIENT.namespace_ip, SERVICE, 77));
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (CLIENT.instance_ip, 77), dst: (NEAR.namespace_ip, 77) });

    let reply = echo_reply(NEAR.namespace_ip, CLIENT.instance_ip, 77);
    let (verdict, out) = dp.run("from_instance", &reply);
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (SERVICE, 77), dst: (CLIENT.namespace_ip, 77) });
}

#[test]
fn two_instances_may_ping_each_other_with_one_identifier() {
    let mut dp = datapath();
    dp.instance_address(CLIENT.instance_ip, 6, CLIENT.id);
    dp.run("from_instance", &echo_request(CLIENT.namespace_ip, SERVICE, 77));
    // The server's own ping to the client is a question, not the answer awaited from it.
    let own = echo_request(NEAR.namespace_ip, CLIENT.instance_ip, 77);
    let (verdict, out) = dp.run("from_instance", &own);
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (NEAR.instance_ip, 77), dst: (CLIENT.namespace_ip, 77) });
}

#[test]
fn an_instance_reaches_itself_through_its_service() {
    let mut dp = datapath();
    let near = (NEAR.namespace_ip, 40_000);
    let (verdict, out) = dp.run("from_instance", &tcp(near, (SERVICE, 80), SYN, b""));
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (NEAR.instance_ip, 40_000), dst: (NEAR.namespace_ip, 80) });
    let answer = tcp((NEAR.namespace_ip, 80), (NEAR.instance_ip, 40_000), SYN_ACK, b"");
    let (verdict, out) = dp.run("from_instance", &answer);
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (SERVICE, 80), dst: near });
}

#[test]
fn ip_options_are_left_in_place() {
    let mut dp = datapath();
    let plain = udp((CLIENT.namespace_ip, 5000), (SERVICE, 53), b"query");
    // Four no-operation options (RFC 791) behind the 20 fixed bytes.
    let mut packet = plain[..ETH_LEN + 20].to_vec();
    packet.extend_from_slice(&[1, 1, 1, 1]);
    packet.extend_from_slice(&plain[ETH_LEN + 20..]);
    packet[ETH_LEN] = 0x46;
    let len = (packet.len() - ETH_LEN) as u16;
    packet[ETH_LEN + 2..ETH_LEN + 4].copy_from_slice(&len.to_be_bytes());
    let (verdict, out) = dp.run("from_instance", &with_header_checksum(packet));
    assert_eq!(verdict, REDIRECT);
    assert_eq!(seen(&out), Seen { src: (CLIENT.instance_ip, 5000), dst: (NEAR.namespace_ip, 53) });
    assert_eq!(out[ETH_LEN + 20..ETH_LEN + 24], [1, 1, 1, 1]);
}

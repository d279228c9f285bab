//! The uplink's XDP program: what it does by itself, and that it leaves the rest as it is.

use net_common::{DropReason, Endpoint, Probe, ProgramCounter};
use zerocopy::IntoBytes;

use crate::{
    frame::{Proto, answer, further, question},
    harness::{Datapath, NODE_IP, PEER_IP, TUNNEL_PORT},
    packets::*,
    pool::Leased,
    world::*,
};

/// Kernel's `XDP_*`.
const DROP: u32 = 1;
const PASS: u32 = 2;
const BACK: u32 = 3;

/// In front of a packet that the program has translated.
const NOTE_LEN: usize = 8;

fn datapath() -> Leased {
    let mut datapath = Datapath::load();
    town(&mut datapath);
    publish(&mut datapath);
    datapath
}

fn counted(what: &str) -> Vec<(String, u64)> {
    vec![(what.to_owned(), 1)]
}

#[test]
fn a_stranger_is_dropped_and_a_peer_is_not() {
    let mut dp = datapath();
    let inner = tcp((FAR.instance_ip, 80), (CLIENT.instance_ip, 40_000), SYN_ACK, b"");
    let stranger = tunnelled_from((PEER_IP, TUNNEL_PORT + 1), &inner);
    assert_eq!(dp.run_xdp(&stranger), (DROP, stranger.clone()));
    assert_eq!(dp.changed(), counted(&format!("drop {}", DropReason::UnknownPeer.name())));
    for packet in [
        tunnelled(&inner),
        tcp((PEER_IP, 1), (NODE_IP, 22), SYN, b""),
        udp((PEER_IP, 1), (PEER_IP, TUNNEL_PORT), b"for somebody else"),
        echo_request(PEER_IP, NODE_IP, 1),
        vec![0; 14],
    ] {
        assert_eq!(dp.run_xdp(&packet), (PASS, packet.clone()));
        assert_eq!(dp.changed(), []);
    }
}

#[test]
fn a_probe_is_sent_back_to_where_it_came_from() {
    let mut dp = datapath();
    let probe = Probe::request(7, 1_000_000, 0x1234);
    let ask = udp((PEER_IP, TUNNEL_PORT), (NODE_IP, TUNNEL_PORT), probe.as_bytes());
    let (verdict, reply) = dp.run_xdp(&ask);
    assert_eq!(verdict, BACK);
    assert_eq!(dp.changed(), counted(ProgramCounter::ProbeReflected.name()));
    let ends = (NODE_IP, TUNNEL_PORT);
    assert_eq!(seen(&reply), Seen { src: ends, dst: (PEER_IP, TUNNEL_PORT) });
    assert_eq!((&reply[..6], &reply[6..12]), (&ask[6..12], &ask[..6]), "hardware addresses");
    let answered = Probe { kind: Probe::REPLY, ..probe };
    assert_eq!(reply[ETH_LEN + 28..], *answered.as_bytes());
    // An answer to one of this node's is for user space, by way of `from_uplink`.
    let answer = udp((PEER_IP, TUNNEL_PORT), (NODE_IP, TUNNEL_PORT), answered.as_bytes());
    assert_eq!(dp.run_xdp(&answer), (PASS, answer.clone()));
}

#[test]
fn established_flows_to_published_ports_are_translated_with_a_note() {
    for proto in [Proto::Tcp, Proto::Udp] {
        let mut dp = datapath();
        let client = (outside_host(Family::V4), 40_000);
        let dialled = (node_ip(Family::V4), PUBLISHED_PORT);
        let server = (NEAR.namespace(Family::V4), 80);
        let first = question(proto, client, dialled);
        assert_eq!(dp.run_xdp(&first), (PASS, first.clone()), "not placed yet");
        dp.run("from_uplink", &first);
        dp.run("from_instance", &answer(proto, server, client));
        let more = further(proto, client, dialled);
        assert_eq!(dp.run_xdp(&more), (PASS, more.clone()), "not established yet");
        dp.run("from_uplink", &more);

        let (verdict, out) = dp.run_xdp(&more);
        assert_eq!(verdict, PASS);
        assert_eq!(out[NOTE_LEN..], further(proto, client, server), "{proto:?}");
        let Endpoint { ifindex, .. } = dp.get_endpoint(NEAR.namespace_ip).expect("there");
        assert_eq!(out[4..NOTE_LEN], ifindex.to_ne_bytes());
        let mut expected = vec![
            (ProgramCounter::EnteredOverlay.name().to_owned(), 1),
            (format!("instance {} ingress", NEAR.id), 1),
        ];
        expected.sort();
        assert_eq!(dp.changed(), expected);
    }
}

#[test]
fn what_needs_more_than_a_quick_look_goes_on() {
    let mut dp = datapath();
    let client = (outside_host(Family::V4), 40_000);
    let dialled = (node_ip(Family::V4), PUBLISHED_PORT);
    let server = (NEAR.namespace(Family::V4), 80);
    for packet in [question(Proto::Udp, client, dialled), further(Proto::Udp, client, dialled)] {
        dp.run("from_uplink", &packet);
        dp.run("from_instance", &answer(Proto::Udp, server, client));
    }
    let more = further(Proto::Udp, client, dialled);
    assert_ne!(dp.run_xdp(&more).1, more, "it is established");
    let fragment = with_header_checksum(patched(more.clone(), ETH_LEN + 6, &[0x20, 0]));
    assert_eq!(dp.run_xdp(&fragment), (PASS, fragment.clone()));
    let large = udp((OUTSIDE_HOST, 40_000), (NODE_IP, PUBLISHED_PORT), &[0; 1460]);
    assert_eq!(dp.run_xdp(&large), (PASS, large.clone()));
    let mut gone = dp.get_instance(NEAR.id);
    gone.generation += 1;
    dp.set_instance(NEAR.id, gone);
    assert_eq!(dp.run_xdp(&more), (PASS, more.clone()));
    assert_eq!(dp.changed(), []);
}

use std::{collections::HashMap, convert::Infallible, net::Ipv4Addr};

use net_common::{
    Addr,
    flow::{flags::REMOTE_CLIENT, from_node},
};
use proptest::prelude::*;

use super::*;

const TIMEOUTS: Timeouts = Timeouts {
    tcp: Duration::from_secs(3600),
    tcp_opening: Duration::from_secs(20),
    tcp_half_closed: Duration::from_secs(120),
    tcp_closing: Duration::from_secs(10),
    tcp_reset: Duration::from_secs(2),
    udp: Duration::from_secs(90),
    udp_opening: Duration::from_secs(30),
    icmp: Duration::from_secs(15),
};

/// Type and code of the echo requests that open a flow, as they stand in [`FlowKey::remote_port`].
const ECHO_REQUEST: u16 = u16::from_ne_bytes([8, 0]);
const ECHO_REQUEST_V6: u16 = u16::from_ne_bytes([128, 0]);

const NODE_ADDR: Addr = Addr::from_v4_word(u32::from_ne_bytes([192, 0, 2, 1]));
const HOST: Addr = Addr::from_v4_word(u32::from_ne_bytes([198, 51, 100, 9]));
const CLIENT_PORT: u16 = 1000;
const SERVER_PORT: u16 = 80;
const PEER: u32 = 4;
const CLIENT_VETH: u32 = 11;
const SERVER_VETH: u32 = 12;

type Pair = [(FlowKey, Flow); 2];

fn addr(a: u8, d: u8) -> Addr {
    Ipv4Addr::new(10, a, 0, d).into()
}

/// The chosen instance, on node 4.
fn far() -> Instance {
    Instance { instance_ip_v4: addr(30, 7), node: PEER, ..Instance::default() }
}

/// Both ports of a question, or of an echo request its identifier and its type and code.
fn asked(proto: u32) -> (u16, u16) {
    match proto {
        ICMP => (7, ECHO_REQUEST),
        ICMPV6 => (7, ECHO_REQUEST_V6),
        _ => (CLIENT_PORT, SERVER_PORT),
    }
}

/// `ports_answered` and `ports_awaited` of the same.
fn answered(proto: u32) -> [(u16, u16); 2] {
    match proto {
        ICMP => [(7, 0); 2],
        ICMPV6 => [(7, u16::from_ne_bytes([129, 0])); 2],
        _ => [(SERVER_PORT, CLIENT_PORT), (CLIENT_PORT, SERVER_PORT)],
    }
}

fn key(local: Addr, remote: Addr, ports: (u16, u16), origin: u32, proto: u32) -> FlowKey {
    FlowKey { local, remote, local_port: ports.0, remote_port: ports.1, origin, proto }
}

fn flow(src: Addr, dst: Addr, ports: (u16, u16), to: (u32, u32), flags: u32) -> Flow {
    let ((sport, dport), (ifindex, node)) = (ports, to);
    Flow { src, dst, sport, dport, ifindex, node, flags, ..Flow::default() }
}

/// As `place::on_instance` writes it: the client 10.18.0.2 (10.30.0.2) dials 10.30.0.9, which
/// 10.18.0.3 here or on node 4 (10.30.0.7) answers.
fn to_service(proto: u32, here: bool) -> Pair {
    let [reply, awaited] = answered(proto);
    let question = key(addr(18, 2), addr(30, 9), asked(proto), CLIENT_VETH, proto);
    let to = if here { (SERVER_VETH, 0) } else { (0, PEER) };
    let there = flow(addr(30, 2), addr(18, 3), asked(proto), to, 0);
    let answer = if here {
        key(addr(18, 3), addr(30, 2), reply, SERVER_VETH, proto)
    } else {
        key(addr(30, 2), addr(30, 7), awaited, from_node(PEER), proto)
    };
    let back = flow(addr(30, 9), addr(18, 2), reply, (CLIENT_VETH, 0), REPLY);
    [(question, there), (answer, back)]
}

/// As `place::from_tunnel` writes it: 10.30.0.7 on node 4 dials the local 10.18.0.3 (10.30.0.3) by
/// one of its addresses.
fn from_tunnel(proto: u32, dialled: Addr) -> Pair {
    let [reply, _] = answered(proto);
    // As the peer's packet is keyed: of ports, those of this node first.
    let own_first = if proto == TCP || proto == UDP { reply } else { asked(proto) };
    let question = key(dialled, addr(30, 7), own_first, from_node(PEER), proto);
    let there = flow(addr(30, 7), addr(18, 3), asked(proto), (SERVER_VETH, 0), REMOTE_CLIENT);
    let answer = key(addr(18, 3), addr(30, 7), reply, SERVER_VETH, proto);
    let back = flow(addr(30, 3), addr(30, 7), reply, (0, PEER), REMOTE_CLIENT | REPLY);
    [(question, there), (answer, back)]
}

/// As `outside::from_outside` writes it: a host dials port 8080 of the node.
fn to_published(proto: u32) -> Pair {
    let question = key(NODE_ADDR, HOST, (8080, CLIENT_PORT), from_node(OUTSIDE), proto);
    let ports = (CLIENT_PORT, SERVER_PORT);
    let there = flow(HOST, addr(18, 3), ports, (SERVER_VETH, 0), REMOTE_CLIENT);
    let answer = key(addr(18, 3), HOST, (SERVER_PORT, CLIENT_PORT), SERVER_VETH, proto);
    let ports = (8080, CLIENT_PORT);
    let back = flow(NODE_ADDR, HOST, ports, (0, OUTSIDE), REMOTE_CLIENT | REPLY);
    [(question, there), (answer, back)]
}

/// As `outside::from_client` writes it: 10.18.0.2 dials a host from port 61000 of the node.
fn to_outside(proto: u32) -> Pair {
    let [reply, awaited] = answered(proto);
    let question = key(addr(18, 2), HOST, asked(proto), CLIENT_VETH, proto);
    let there = flow(NODE_ADDR, HOST, (61_000, asked(proto).1), (0, OUTSIDE), 0);
    let answer = key(NODE_ADDR, HOST, (61_000, awaited.1), from_node(OUTSIDE), proto);
    let back = flow(HOST, addr(18, 2), reply, (CLIENT_VETH, 0), REPLY);
    [(question, there), (answer, back)]
}

fn every_kind(proto: u32) -> Vec<Pair> {
    let mut pairs = vec![
        to_service(proto, true),
        to_service(proto, false),
        from_tunnel(proto, addr(18, 3)),
        from_tunnel(proto, addr(30, 3)),
        to_outside(proto),
    ];
    if proto == TCP || proto == UDP {
        pairs.push(to_published(proto));
    }
    pairs
}

/// The keys that a look at this table removes.
fn ended(table: &[(FlowKey, Flow)], now: u64) -> Vec<FlowKey> {
    let entries: HashMap<FlowKey, Flow> = table.iter().copied().collect();
    assert_eq!(entries.len(), table.len(), "two entries have one key: {table:?}");
    let mut ended = Vec::new();
    for (key, flow) in table {
        let look_up = |key: &FlowKey| Ok::<_, Infallible>(entries.get(key).copied());
        let now = Duration::from_secs(now);
        let Ok(verdict) = judge((key, flow), Some(&far()), &TIMEOUTS, now, look_up);
        if let Verdict::Ended { partner } = verdict {
            ended.extend([Some(*key), partner.map(|(key, _)| key)].into_iter().flatten());
        }
    }
    ended.sort_by_key(|key| (key.origin, key.local_port));
    ended.dedup();
    ended
}

fn seen(mut pair: Pair, there: u64, back: u64, flags: u32) -> Pair {
    for ((_, flow), seconds) in pair.iter_mut().zip([there, back]) {
        flow.last_seen_ns = seconds * 1_000_000_000;
        flow.flags |= flags;
    }
    pair
}

#[test]
fn the_halves_of_every_kind_of_flow_know_each_other() {
    for proto in [TCP, UDP, ICMP, ICMPV6] {
        for [question, answer] in every_kind(proto) {
            for ((key, flow), other) in [(question, answer.0), (answer, question.0)] {
                let partners = partners(&key, &flow, Some(&far()));
                assert!(partners.contains(&Some(other)), "{key:?} {partners:?} {other:?}");
            }
        }
    }
}

#[test]
fn a_flow_lives_as_long_as_one_of_its_directions_does() {
    for (proto, timeout) in [(UDP, 90), (ICMP, 15), (ICMPV6, 15), (TCP, 3600)] {
        for pair in every_kind(proto) {
            for (there, back) in [(5000, 100), (100, 5000)] {
                let pair = seen(pair, there, back, CONFIRMED);
                assert_eq!(ended(&pair, 5000 + timeout - 1), [], "{pair:?}");
                assert_eq!(ended(&pair, 5000 + timeout).len(), 2, "{pair:?}");
            }
        }
    }
}

#[test]
fn what_is_not_confirmed_or_has_ended_goes_sooner() {
    for (flags, timeout) in [
        ([0, 0], 20),
        ([CONFIRMED, CONFIRMED], 3600),
        ([CONFIRMED | CLOSING, CONFIRMED], 120),
        ([CONFIRMED, CONFIRMED | CLOSING], 120),
        ([CONFIRMED | CLOSING, CONFIRMED | CLOSING], 10),
        ([CONFIRMED, CONFIRMED | CLOSING | RESET], 2),
        ([CLOSING | RESET, 0], 2),
    ] {
        for mut pair in every_kind(TCP).into_iter().map(|pair| seen(pair, 990, 1000, 0)) {
            pair[0].1.flags |= flags[0];
            pair[1].1.flags |= flags[1];
            assert_eq!(ended(&pair, 1000 + timeout - 1), [], "{flags:?}");
            assert_eq!(ended(&pair, 1000 + timeout).len(), 2, "{flags:?}");
        }
    }
    let lone = seen(to_service(UDP, false), 1000, 1000, 0);
    assert_eq!(ended(&lone, 1029), []);
    assert_eq!(ended(&lone, 1030).len(), 2);
}

#[test]
fn half_of_a_flow_ends_by_itself() {
    let [question, _] = seen(to_service(TCP, true), 1000, 1000, CLOSING);
    assert_eq!(ended(&[question], 1009), []);
    assert_eq!(ended(&[question], 1010), [question.0]);
}

#[test]
fn in_a_crowd_what_has_ended_makes_room_at_once() {
    let crowded = TIMEOUTS.under_pressure(0.9);
    assert_eq!(TIMEOUTS.under_pressure(0.5), TIMEOUTS);
    assert_eq!((crowded.tcp_closing, crowded.tcp), (TIMEOUTS.tcp_reset, TIMEOUTS.tcp));
    assert_eq!(crowded.tcp_half_closed, TIMEOUTS.tcp_half_closed, "it may still speak");
}

proptest! {
    /// Whatever half is looked at first, and whatever its state: both go or none.
    #[test]
    fn halves_end_together(
        proto in prop::sample::select(vec![TCP, UDP, ICMP]),
        kind in 0..5_usize,
        flags in (0..8_u32, 0..8_u32),
        times in (0..400_u64, 0..400_u64),
        now in 0..4000_u64,
    ) {
        let mut pair = seen(every_kind(proto)[kind], times.0, times.1, 0);
        for ((_, flow), bits) in pair.iter_mut().zip([flags.0, flags.1]) {
            flow.flags |= bits << 2;
        }
        let gone = ended(&pair, now);
        prop_assert!(gone.is_empty() || gone.len() == 2, "{:?}", gone);
        let last = times.0.max(times.1);
        if now < last + 2 {
            prop_assert!(gone.is_empty());
        }
        if now >= last + 3600 {
            prop_assert_eq!(gone.len(), 2);
        }
    }
}

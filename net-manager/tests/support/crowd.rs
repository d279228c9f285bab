//! Many flows that nobody opened.

use std::net::Ipv4Addr;

use net_common::{
    Addr, Flow, FlowKey,
    flow::{OUTSIDE, flags, from_node},
};

use super::{Host, NODE_ADDRESS};

/// Flows to a host outside, both entries each, last seen then.
pub fn fill(host: &Host, flows: u32, last_seen_ns: u64) {
    let mut maps = host.maps();
    let (client, node) = (Addr::from(Ipv4Addr::new(10, 18, 0, 66)), Addr::from(NODE_ADDRESS));
    for n in 0..flows {
        let remote = Addr::from(Ipv4Addr::from(0x0b00_0000 + n / 4));
        let port = 1000 + (n % 4) as u16;
        let key = |local, origin| FlowKey {
            local,
            remote,
            local_port: port.to_be(),
            remote_port: 443_u16.to_be(),
            origin,
            proto: 6,
        };
        let common = Flow { last_seen_ns, flags: flags::CONFIRMED, ..Flow::default() };
        let (sport, dport) = (port.to_be(), 443_u16.to_be());
        let there = Flow { src: node, dst: remote, sport, dport, node: OUTSIDE, ..common };
        let back = Flow {
            src: remote,
            dst: client,
            sport: dport,
            dport: sport,
            ifindex: 7,
            flags: common.flags | flags::REPLY,
            ..common
        };
        maps.set_flow(&key(client, 7), &there).unwrap();
        maps.set_flow(&key(node, from_node(OUTSIDE)), &back).unwrap();
    }
}

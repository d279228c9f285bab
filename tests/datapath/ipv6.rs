//! The same over IPv6.

use std::net::Ipv6Addr;

use etherparse::{IcmpEchoHeader, Icmpv6Type};
use net_common::{Addr, DropReason, Instance};

use crate::{
    harness::{DROP, Datapath, NODE_IP, PASS, PEER_IP, REDIRECT, TUNNEL_PORT, instance},
    packets::*,
    pool::Leased,
    world::*,
};

/// An extension header of 8 bytes whose next header is this.
const fn extension(next: u8) -> [u8; 8] {
    [next, 0, 1, 4, 0, 0, 0, 0]
}

fn datapath(server: u32) -> Leased {
    let mut datapath = Datapath::load();
    for (host, node) in [(CLIENT, 0), (NEAR, 0), (FAR, 1)] {
        datapath.instance(host, node);
    }
    datapath.round_robin(SERVICE6, SLOT, &[server]);
    datapath
}

fn echo(reply: bool, src: Ipv6Addr, dst: Ipv6Addr) -> Vec<u8> {
    let header = IcmpEchoHeader { id: 77, seq: 1 };
    let kind = if reply { Icmpv6Type::EchoReply(header) } else { Icmpv6Type::EchoRequest(header) };
    icmpv6(src, dst, kind)
}

/// Puts extension headers behind the IPv6 header; the last names the transport.
fn with_extensions(packet: &[u8], kinds: &[u8]) -> Vec<u8> {
    let transport = packet[ETH_LEN + 6];
    let mut out = packet[..ETH_LEN + 40].to_vec();
    for (index, _) in kinds.iter().enumerate() {
        out.extend(extension(*kinds.get(index + 1).unwrap_or(&transport)));
    }
    out.extend_from_slice(&packet[ETH_LEN + 40..]);
    if let Some(first) = kinds.first() {
        out[ETH_LEN + 6] = *first;
    }
    let payload = (out.len() - ETH_LEN - 40) as u16;
    out[ETH_LEN + 4..ETH_LEN + 6].copy_from_slice(&payload.to_be_bytes());
    out
}

#[test]
fn flows_on_one_node_are_translated_there_and_back() {
    let mut dp = datapath(NEAR.id);
    let (client, service) = ((CLIENT.namespace_ip6, 40_000), (SERVICE6, 80));
    let there = Seen { src: (CLIENT.instance_ip6, 40_000), dst: (NEAR.namespace_ip6, 80) };
    let (from, to) = ((NEAR.namespace_ip6, 80), (CLIENT.instance_ip6, 40_000));
    let back = Seen { src: service, dst: client };
    for (question, answer) in [
        (tcp(client, service, SYN, b"odd"), tcp(from, to, SYN_ACK, b"")),
        (udp(client, service, b"query"), udp(from, to, b"answer")),
    ] {
        let (verdict, out) = dp.run("from_instance", &question);
        assert_eq!((verdict, seen_v6(&out)), (REDIRECT, there));
        let (verdict, out) = dp.run("from_instance", &answer);
        assert_eq!((verdict, seen_v6(&out)), (REDIRECT, back));
    }
    let (verdict, out) = dp.run("from_instance", &echo(false, CLIENT.namespace_ip6, SERVICE6));
    let there = Seen { src: (CLIENT.instance_ip6, 77), dst: (NEAR.namespace_ip6, 77) };
    assert_eq!((verdict, seen_v6(&out)), (REDIRECT, there));
    let reply = echo(true, NEAR.namespace_ip6, CLIENT.instance_ip6);
    let (verdict, out) = dp.run("from_instance", &reply);
    let back = Seen { src: (SERVICE6, 77), dst: (CLIENT.namespace_ip6, 77) };
    assert_eq!((verdict, seen_v6(&out)), (REDIRECT, back));
}

#[test]
fn flows_between_nodes_go_through_the_ipv4_tunnel() {
    let mut dp = datapath(FAR.id);
    let client = (CLIENT.namespace_ip6, 40_000);
    let (verdict, out) = dp.run("from_instance", &tcp(client, (SERVICE6, 80), SYN, b""));
    assert_eq!(verdict, REDIRECT);
    assert_eq!(out[12..14], [0x08, 0x00], "the frame now carries IPv4");
    let (outer, inner) = unwrapped(&out);
    assert_eq!(outer, Seen { src: (NODE_IP, TUNNEL_PORT), dst: (PEER_IP, TUNNEL_PORT) });
    assert_eq!(
        seen_v6(&inner),
        Seen { src: (CLIENT.instance_ip6, 40_000), dst: (FAR.namespace_ip6, 80) }
    );
    let answer = tcp((FAR.instance_ip6, 80), (CLIENT.instance_ip6, 40_000), SYN_ACK, b"hi");
    let (verdict, out) = dp.run("from_uplink", &tunnelled(&answer));
    assert_eq!(verdict, REDIRECT);
    assert_eq!(out[12..14], [0x86, 0xdd], "the frame carries IPv6 again");
    assert_eq!(seen_v6(&out), Seen { src: (SERVICE6, 80), dst: client });

    // And a client on the other node.
    let question = udp((FAR.instance_ip6, 5000), (NEAR.namespace_ip6, 53), b"query");
    let (verdict, out) = dp.run("from_uplink", &tunnelled(&question));
    let there = Seen { src: (FAR.instance_ip6, 5000), dst: (NEAR.namespace_ip6, 53) };
    assert_eq!((verdict, seen_v6(&out)), (REDIRECT, there));
    let answer = udp((NEAR.namespace_ip6, 53), (FAR.instance_ip6, 5000), b"answer");
    let (verdict, out) = dp.run("from_instance", &answer);
    let back = Seen { src: (NEAR.instance_ip6, 53), dst: (FAR.instance_ip6, 5000) };
    assert_eq!((verdict, seen_v6(&unwrapped(&out).1)), (REDIRECT, back));
}

#[test]
fn extension_headers_are_looked_through_up_to_the_limit() {
    let mut dp = datapath(NEAR.id);
    let packet = tcp((CLIENT.namespace_ip6, 40_000), (SERVICE6, 80), SYN, b"data");
    let there = Seen { src: (CLIENT.instance_ip6, 40_000), dst: (NEAR.namespace_ip6, 80) };
    for kinds in [&[0][..], &[60], &[0, 60], &[0, 60, 43, 60]] {
        let (verdict, out) = dp.run("from_instance", &with_extensions(&packet, kinds));
        assert_eq!(verdict, REDIRECT, "{kinds:?}: {:?}", dp.changed());
        let behind = out[ETH_LEN + 40..ETH_LEN + 40 + 8 * kinds.len()].to_vec();
        let mut without = out[..ETH_LEN + 40].to_vec();
        without.extend_from_slice(&out[ETH_LEN + 40 + 8 * kinds.len()..]);
        without[ETH_LEN + 6] = 6;
        let payload = (without.len() - ETH_LEN - 40) as u16;
        without[ETH_LEN + 4..ETH_LEN + 6].copy_from_slice(&payload.to_be_bytes());
        assert_eq!(seen_v6(&without), there, "{kinds:?}");
        assert_eq!(behind[1..8], extension(0)[1..], "the headers are left in place");
    }
    let five = with_extensions(&packet, &[0, 60, 60, 60, 60]);
    dp.assert_dropped("from_instance", &five, DropReason::ExtensionHeaders);
    let fragment = patched(with_extensions(&packet, &[0, 44]), ETH_LEN + 40 + 8 + 2, &[0, 8]);
    dp.assert_dropped("from_instance", &fragment, DropReason::FragmentWithoutFirst);
    // A header that is longer than the packet.
    let long = patched(with_extensions(&packet, &[0]), ETH_LEN + 41, &[255]);
    dp.assert_dropped("from_instance", &long, DropReason::ExtensionHeaders);
}

#[test]
fn what_is_no_proper_packet_is_dropped() {
    let mut dp = datapath(NEAR.id);
    let packet = tcp((CLIENT.namespace_ip6, 40_000), (SERVICE6, 80), SYN, b"");
    for len in ETH_LEN + 40..packet.len() {
        dp.assert_dropped("from_instance", &packet[..len], DropReason::Truncated);
    }
    let mapped = patched(packet.clone(), ETH_LEN + 8, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255]);
    dp.assert_dropped("from_instance", &mapped, DropReason::BadHeader);
    let spoofed = tcp((NEAR.instance_ip6, 40_000), (SERVICE6, 80), SYN, b"");
    dp.assert_dropped("from_instance", &spoofed, DropReason::SpoofedSource);
    let outside = "2001:db8::1".parse::<Ipv6Addr>().unwrap();
    let packet = tcp((CLIENT.namespace_ip6, 40_000), (outside, 80), SYN, b"");
    dp.assert_dropped("from_instance", &packet, DropReason::OutsideOverlay);
    let solicitation = patched(echo(false, CLIENT.namespace_ip6, SERVICE6), ETH_LEN + 40, &[133]);
    dp.assert_dropped("from_instance", &solicitation, DropReason::UnsupportedIcmp);
    let wrong_icmp = ip(CLIENT.namespace_ip6, SERVICE6, 1);
    dp.assert_dropped("from_instance", &wrong_icmp, DropReason::UnsupportedIcmp);
    let foreign = udp((outside, 5000), (NEAR.namespace_ip6, 53), b"x");
    dp.assert_dropped("from_uplink", &tunnelled(&foreign), DropReason::ForeignSource);
}

#[test]
fn an_instance_without_ipv6_gets_no_ipv6_flows() {
    let mut dp = datapath(NEAR.id);
    let without = Instance { namespace_ip_v6: Addr::UNSPECIFIED, ..instance(FAR2, 1) };
    dp.set_instance(FAR2.id, without);
    dp.round_robin(SERVICE6, SLOT, &[FAR2.id]);
    let packet = tcp((CLIENT.namespace_ip6, 40_000), (SERVICE6, 80), SYN, b"");
    dp.assert_refused("from_instance", &packet, DropReason::NoInstance);
}

#[test]
fn an_unknown_service_is_parked() {
    let mut dp = datapath(NEAR.id);
    let other = Ipv6Addr::new(0xfdff, 0x2000, 0, 0, 0, 0, 0, 10);
    let packet = tcp((CLIENT.namespace_ip6, 40_000), (other, 80), SYN, b"");
    let (verdict, _) = dp.run("from_instance", &packet);
    assert_eq!((verdict, dp.changed()), (DROP, vec![("parked".to_owned(), 1)]));
    let events = dp.events();
    assert_eq!((events[0].0.dst, &events[0].1), (other.into(), &packet));
    dp.round_robin(other, 6, &[NEAR.id]);
    assert_eq!(dp.run("from_parked", &packet).0, REDIRECT);
}

#[test]
fn what_a_stack_says_on_its_link_is_left_alone() {
    let mut dp = datapath(NEAR.id);
    let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let solicitation =
        patched(echo(false, Ipv6Addr::UNSPECIFIED, all_routers), ETH_LEN + 40, &[133]);
    let (verdict, out) = dp.run("from_instance", &solicitation);
    assert_eq!((verdict, &out), (PASS, &solicitation));
    assert_eq!(dp.changed(), [("passed".to_owned(), 1)]);
}

//! Bytes that are no packet: dropped with a reason, never read beyond, never counted as traffic.

use net_common::DropReason;

use crate::{
    CLIENT, FAR, NEAR, SERVICE, SLOT,
    harness::{DROP, Datapath, PASS},
    packets::*,
};

/// `BPF_PROG_TEST_RUN` refuses IPv4 frames that are shorter than their fixed header.
const SHORTEST: usize = ETH_LEN + 20;

fn datapath() -> Datapath {
    let mut datapath = Datapath::load();
    datapath.instance(CLIENT, 0);
    datapath.instance(NEAR, 0);
    datapath.round_robin(SERVICE, SLOT, &[NEAR.id]);
    datapath
}

fn tcp_syn() -> Vec<u8> {
    tcp((CLIENT.namespace_ip, 20_000), (SERVICE, 80), SYN, b"")
}

#[test]
fn every_truncation_of_a_packet_is_dropped() {
    let mut dp = datapath();
    let packets = [
        tcp_syn(),
        udp((CLIENT.namespace_ip, 20_000), (SERVICE, 80), b""),
        echo_request(CLIENT.namespace_ip, SERVICE, 1),
    ];
    for packet in packets {
        for len in SHORTEST..packet.len() {
            for program in ["from_instance", "from_parked"] {
                dp.assert_dropped(program, &packet[..len], DropReason::Truncated);
            }
        }
    }
    assert!(dp.flows().is_empty());
}

#[test]
fn every_truncation_of_a_tunnel_packet_is_dropped_or_left_alone() {
    let mut dp = datapath();
    let inner = tcp((FAR.instance_ip, 20_000), (NEAR.namespace_ip, 80), SYN, b"");
    let packet = tunnelled(&inner);
    for len in SHORTEST..packet.len() {
        let (verdict, _) = dp.run("from_uplink", &packet[..len]);
        let expected = if len < ETH_LEN + TUNNEL_LEN {
            (PASS, "passed".to_owned())
        } else {
            (DROP, "drop truncated".to_owned())
        };
        assert_eq!((verdict, dp.changed()), (expected.0, vec![(expected.1, 1)]), "{len} bytes");
    }
    assert!(dp.flows().is_empty());
}

#[test]
fn headers_that_contradict_themselves_are_dropped() {
    let mut dp = datapath();
    let cases: [(&str, usize, &[u8]); 5] = [
        ("version 5", 0, &[0x55]),
        ("version 0", 0, &[0x05]),
        ("header of 16 bytes", 0, &[0x44]),
        ("total length 0", 2, &[0, 0]),
        ("total length below the header's", 2, &[0, 19]),
    ];
    for (what, offset, bytes) in cases {
        let packet = patched(tcp_syn(), ETH_LEN + offset, bytes);
        println!("{what}");
        dp.assert_dropped("from_instance", &packet, DropReason::BadHeader);
        dp.assert_dropped("from_parked", &packet, DropReason::BadHeader);
    }
    // 60 bytes of header in a packet of 40, and a length beyond the packet.
    let long_header = patched(tcp_syn(), ETH_LEN, &[0x4f]);
    dp.assert_dropped("from_instance", &long_header, DropReason::BadHeader);
    let long_packet = patched(tcp_syn(), ETH_LEN + 2, &[0xff, 0xff]);
    dp.assert_dropped("from_instance", &long_packet, DropReason::Truncated);
}

#[test]
fn transport_headers_cut_short_by_the_total_length_are_dropped() {
    let mut dp = datapath();
    // The bytes are there, as Ethernet padding would be, but not part of the IP packet.
    for (packet, len) in [
        (tcp_syn(), 39u16),
        (udp((CLIENT.namespace_ip, 1), (SERVICE, 2), b"data"), 27),
        (echo_request(CLIENT.namespace_ip, SERVICE, 1), 27),
    ] {
        let cut = patched(packet, ETH_LEN + 2, &len.to_be_bytes());
        dp.assert_dropped("from_instance", &cut, DropReason::Truncated);
    }
}

#[test]
fn fragments_that_cannot_be_followed_are_dropped() {
    let mut dp = datapath();
    for field in [0x0001u16, 0x2001, 0x1fff] {
        let fragment = patched(tcp_syn(), ETH_LEN + 6, &field.to_be_bytes());
        dp.assert_dropped("from_instance", &fragment, DropReason::FragmentWithoutFirst);
        let inner = tcp((FAR.instance_ip, 1), (NEAR.namespace_ip, 2), SYN, b"");
        let inner_fragment = patched(inner.clone(), ETH_LEN + 6, &field.to_be_bytes());
        dp.assert_dropped(
            "from_uplink",
            &tunnelled(&inner_fragment),
            DropReason::FragmentWithoutFirst,
        );
        let outer_fragment = patched(tunnelled(&inner), ETH_LEN + 6, &field.to_be_bytes());
        dp.assert_dropped("from_uplink", &outer_fragment, DropReason::TunnelFragment);
    }
    // Don't-fragment is not a fragment.
    let whole = with_header_checksum(patched(tcp_syn(), ETH_LEN + 6, &[0x40, 0]));
    seen(&dp.run("from_instance", &whole).1);
}

#[test]
fn other_protocols_are_dropped() {
    let mut dp = datapath();
    for proto in [0, 2, 4, 41, 47, 50, 132, 255] {
        let packet = ip(CLIENT.namespace_ip, SERVICE, proto);
        dp.assert_dropped("from_instance", &packet, DropReason::UnsupportedProtocol);
    }
    for (icmp_type, reason) in [
        (3, DropReason::BadQuote),
        (4, DropReason::UnsupportedIcmp),
        (5, DropReason::UnsupportedIcmp),
        (11, DropReason::BadQuote),
        (13, DropReason::UnsupportedIcmp),
    ] {
        let packet =
            patched(echo_request(CLIENT.namespace_ip, SERVICE, 1), ETH_LEN + 20, &[icmp_type]);
        dp.assert_dropped("from_instance", &packet, reason);
    }
    let mpls = patched(tcp_syn(), 12, &[0x88, 0x47]);
    dp.assert_dropped("from_instance", &mpls, DropReason::UnsupportedFamily);
    dp.assert_dropped("from_parked", &mpls, DropReason::UnsupportedFamily);
    // An IPv4 packet in a frame that says IPv6.
    let mislabelled = patched(tcp_syn(), 12, &[0x86, 0xdd]);
    dp.assert_dropped("from_instance", &mislabelled, DropReason::BadHeader);
    let arp = patched(tcp_syn(), 12, &[0x08, 0x06]);
    assert_eq!(dp.run("from_instance", &arp).0, PASS);
}

#[test]
fn tunnel_packets_without_an_ip_packet_are_dropped() {
    let mut dp = datapath();
    let inner = tcp((FAR.instance_ip, 1), (NEAR.namespace_ip, 2), SYN, b"");
    for first in [0x00, 0x15, 0x35, 0x55, 0x75, 0xf5] {
        let packet = patched(tunnelled(&inner), ETH_LEN + TUNNEL_LEN, &[first]);
        dp.assert_dropped("from_uplink", &packet, DropReason::TunnelMalformed);
    }
}

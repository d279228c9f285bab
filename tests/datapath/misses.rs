//! What is not known yet: parked whole, sent on later, never twice.

use std::net::Ipv4Addr;

use net_common::{Addr, DropReason, Endpoint, EventKind, limits};

use crate::{
    harness::{DROP, Datapath, REDIRECT, veth},
    packets::*,
    pool::Leased,
    world::*,
};

fn datapath() -> Leased {
    let mut datapath = Datapath::load();
    datapath.instance(CLIENT, 0);
    datapath.instance(NEAR, 0);
    datapath
}

#[test]
fn a_packet_to_an_unknown_service_is_handed_over_whole_and_sent_on_later() {
    let mut dp = datapath();
    let syn = tcp((CLIENT.namespace_ip, 40_000), (SERVICE, 80), SYN, b"");
    let large = udp((CLIENT.namespace_ip, 5000), (SERVICE, 53), &[3; 1400]);
    for packet in [&syn, &large] {
        let (verdict, _) = dp.run("from_instance", packet);
        assert_eq!((verdict, dp.changed()), (DROP, vec![("parked".to_owned(), 1)]));
    }
    let events = dp.events();
    assert_eq!(events.len(), 2);
    for ((event, packet), sent) in events.iter().zip([&syn, &large]) {
        assert_eq!(event.kind, EventKind::Miss as u32);
        assert_eq!(event.ifindex, veth(CLIENT.id));
        assert_eq!(event.src, Addr::from(CLIENT.namespace_ip));
        assert_eq!(event.dst, Addr::from(SERVICE));
        assert_eq!(packet, sent);
    }
    assert!(dp.flows().is_empty());

    dp.round_robin(SERVICE, SLOT, &[NEAR.id]);
    let (verdict, out) = dp.run("from_parked", &syn);
    assert_eq!(verdict, REDIRECT);
    assert_eq!(
        seen(&out),
        Seen { src: (CLIENT.instance_ip, 40_000), dst: (NEAR.namespace_ip, 80) }
    );
    // What follows from the instance itself meets the flow.
    let ack = tcp((CLIENT.namespace_ip, 40_000), (SERVICE, 80), ACK, b"");
    assert_eq!(dp.run("from_instance", &ack).0, REDIRECT);
    assert_eq!(dp.flows().len(), 2);
}

#[test]
fn a_packet_that_waited_in_vain_is_dropped_with_the_reason() {
    let mut dp = datapath();
    let syn = tcp((CLIENT.namespace_ip, 40_000), (SERVICE, 80), SYN, b"");
    dp.assert_refused("from_parked", &syn, DropReason::Unresolved);
    assert!(dp.events().is_empty());
}

#[test]
fn an_instance_whose_own_address_is_unknown_waits() {
    let mut dp = datapath();
    dp.round_robin(SERVICE, SLOT, &[NEAR.id]);
    let namespace_ip = Ipv4Addr::new(10, 18, 0, 9);
    let unnamed = Endpoint {
        namespace_ip: namespace_ip.into(),
        ifindex: veth(CLIENT.id),
        ..Endpoint::default()
    };
    dp.set_endpoint(namespace_ip, unnamed);
    let packet = udp((namespace_ip, 5000), (SERVICE, 53), b"x");
    let (verdict, _) = dp.run("from_instance", &packet);
    assert_eq!((verdict, dp.changed()), (DROP, vec![("parked".to_owned(), 1)]));
    assert_eq!(dp.events()[0].0.kind, EventKind::UnnamedSender as u32);
    dp.assert_dropped("from_parked", &packet, DropReason::EndpointUnnamed);
}

#[test]
fn what_is_no_overlay_address_is_not_parked() {
    let mut dp = datapath();
    for outside in [Ipv4Addr::new(192, 0, 2, 1), NEAR.namespace_ip, Ipv4Addr::BROADCAST] {
        let packet = udp((CLIENT.namespace_ip, 5000), (outside, 53), b"x");
        dp.assert_dropped("from_instance", &packet, DropReason::OutsideOverlay);
        dp.assert_dropped("from_parked", &packet, DropReason::OutsideOverlay);
    }
}

#[test]
fn a_full_ring_is_counted_and_parking_goes_on_when_there_is_room() {
    let mut dp = datapath();
    // The largest packet that `BPF_PROG_TEST_RUN` takes is below a page; its record is as large
    // as any.
    let packet = udp((CLIENT.namespace_ip, 5000), (SERVICE, 53), &[0; 3000]);
    let most = limits::EVENTS_BYTES / limits::PARKED_PACKET_BYTES;
    let mut parked = 0;
    loop {
        dp.refill_misses();
        dp.run("from_instance", &packet);
        match dp.changed()[..] {
            [(ref name, 1)] if name == "parked" => parked += 1,
            [(ref name, 1)] if name == "drop parking-full" => break,
            ref other => panic!("after {parked} packets: {other:?}"),
        }
        assert!(parked <= most, "the ring buffer never fills");
    }
    assert!(parked > most / 2, "only {parked} packets found room");
    assert_eq!(dp.events().len(), parked as usize);
    dp.refill_misses();
    dp.run("from_instance", &packet);
    assert_eq!(dp.changed(), [("parked".to_owned(), 1)]);
}

#[test]
fn an_instance_that_scans_is_slowed_down() {
    let mut dp = datapath();
    for port in 0..limits::MISS_BURST as u16 {
        dp.run("from_instance", &udp((CLIENT.namespace_ip, port), (SERVICE, 53), b"x"));
        assert_eq!(dp.changed(), [("parked".to_owned(), 1)], "packet {port}");
    }
    // The machine may be slow enough to have earned some more meanwhile.
    let more = udp((CLIENT.namespace_ip, 9_999), (SERVICE, 53), b"x");
    let mut earned = 0;
    while dp.run("from_instance", &more).0 == DROP
        && dp.changed() != [("drop miss-limited".to_owned(), 1)]
    {
        earned += 1;
        assert!(earned < limits::MISS_BURST, "never slowed down");
    }
}

//! Which instance a new flow goes to, and that an old one stays.

use std::{collections::BTreeMap, net::Ipv4Addr};

use net_common::{DropReason, Instance, InstanceState, flow::flags};

use crate::{
    harness::{Context, DROP, Datapath, REDIRECT, instance, veth},
    packets::*,
    pool::Leased,
    world::*,
};

fn datapath(instances: &[u32]) -> Leased {
    let mut datapath = Datapath::load();
    datapath.instance(CLIENT, 0);
    datapath.instance(NEAR, 0);
    datapath.instance(FAR, 1);
    datapath.instance(FAR2, 1);
    datapath.round_robin(SERVICE, SLOT, instances);
    datapath
}

/// The namespace IP that a packet of the client to the service is sent to.
fn dial(dp: &mut Leased, sport: u16, flags: Flags) -> Ipv4Addr {
    let packet = tcp((CLIENT.namespace_ip, sport), (SERVICE, 80), flags, b"");
    let (verdict, out) = dp.run("from_instance", &packet);
    assert_eq!(verdict, REDIRECT, "{:?}", dp.changed());
    let direct = seen(&out);
    if direct.dst.1 == 80 { direct.dst.0 } else { seen(&unwrapped(&out).1).dst.0 }
}

#[test]
fn a_burst_of_flows_spreads_evenly() {
    let mut dp = datapath(&[NEAR.id, FAR.id, FAR2.id]);
    let mut tally = BTreeMap::<Ipv4Addr, u32>::new();
    for sport in 0..300 {
        *tally.entry(dial(&mut dp, 20_000 + sport, SYN)).or_default() += 1;
    }
    assert_eq!(
        tally,
        BTreeMap::from([
            (NEAR.namespace_ip, 100),
            (FAR.namespace_ip, 100),
            (FAR2.namespace_ip, 100)
        ])
    );
}

#[test]
fn a_flow_stays_with_its_instance_when_the_table_changes() {
    let mut dp = datapath(&[FAR.id]);
    assert_eq!(dial(&mut dp, 20_000, SYN), FAR.namespace_ip);
    dp.round_robin(SERVICE, SLOT, &[NEAR.id]);
    assert_eq!(dial(&mut dp, 20_000, ACK), FAR.namespace_ip);
    // A SYN sent again belongs to the same attempt.
    assert_eq!(dial(&mut dp, 20_000, SYN), FAR.namespace_ip);
    assert_eq!(dial(&mut dp, 20_001, SYN), NEAR.namespace_ip);
}

#[test]
fn a_new_connection_on_the_ports_of_an_ended_one_is_placed_anew() {
    for end in [FIN, RST] {
        let mut dp = datapath(&[FAR.id]);
        dial(&mut dp, 20_000, SYN);
        assert_eq!(dial(&mut dp, 20_000, end), FAR.namespace_ip);
        dp.round_robin(SERVICE, SLOT, &[NEAR.id]);
        if end.fin {
            let last = dial(&mut dp, 20_000, ACK);
            assert_eq!(last, FAR.namespace_ip, "the last ACK of the old one");
        }
        assert_eq!(dial(&mut dp, 20_000, SYN), NEAR.namespace_ip);
        assert_eq!(dial(&mut dp, 20_000, ACK), NEAR.namespace_ip);
    }
}

#[test]
fn the_client_of_an_instance_that_is_gone_is_told_and_datagrams_go_to_another() {
    let mut dp = datapath(&[FAR.id]);
    dial(&mut dp, 20_000, SYN);
    let datagram = udp((CLIENT.namespace_ip, 20_000), (SERVICE, 80), b"x");
    dp.run("from_instance", &datagram);
    dp.round_robin(SERVICE, SLOT, &[NEAR.id]);
    dp.set_instance(FAR.id, Instance { generation: 2, ..instance(FAR, 1) });
    let data = tcp((CLIENT.namespace_ip, 20_000), (SERVICE, 80), ACK, b"data");
    let reset = dp.assert_refused("from_instance", &data, DropReason::InstanceGone);
    assert_eq!(seen(&reset), Seen { src: (SERVICE, 80), dst: (CLIENT.namespace_ip, 20_000) });
    assert_eq!(dial(&mut dp, 20_000, SYN), NEAR.namespace_ip);
    let (_, out) = dp.run("from_instance", &datagram);
    assert_eq!(seen(&out).dst, (NEAR.namespace_ip, 80));
}

#[test]
fn a_draining_instance_keeps_its_flows_and_gets_no_new_ones() {
    let mut dp = datapath(&[FAR.id, NEAR.id]);
    assert_eq!(dial(&mut dp, 20_000, SYN), FAR.namespace_ip);
    let draining = Instance { state: InstanceState::Draining as u32, ..instance(FAR, 1) };
    dp.set_instance(FAR.id, draining);
    for sport in 20_001..20_010 {
        assert_eq!(dial(&mut dp, sport, SYN), NEAR.namespace_ip);
    }
    assert_eq!(dial(&mut dp, 20_000, ACK), FAR.namespace_ip);
}

#[test]
fn an_instance_address_leads_to_that_instance() {
    let mut dp = datapath(&[NEAR.id, FAR.id, FAR2.id]);
    dp.instance_address(FAR2.instance_ip, 6, FAR2.id);
    for sport in 20_000..20_010 {
        let packet = tcp((CLIENT.namespace_ip, sport), (FAR2.instance_ip, 80), SYN, b"");
        let (verdict, out) = dp.run("from_instance", &packet);
        assert_eq!(verdict, REDIRECT);
        let (_, inner) = unwrapped(&out);
        assert_eq!(
            seen(&inner),
            Seen { src: (CLIENT.instance_ip, sport), dst: (FAR2.namespace_ip, 80) }
        );
    }
}

#[test]
fn a_service_without_instances_is_refused() {
    let syn = tcp((CLIENT.namespace_ip, 20_000), (SERVICE, 80), SYN, b"");
    let mut dp = datapath(&[]);
    dp.assert_refused("from_instance", &syn, DropReason::NoInstance);
    // Instances that are named but not there, or beyond the map.
    dp.round_robin(SERVICE, SLOT, &[7, 1_000_000]);
    dp.assert_refused("from_instance", &syn, DropReason::NoInstance);
    // A local instance without an interface.
    dp.set_instance(
        6,
        Instance { namespace_ip_v4: Ipv4Addr::new(10, 18, 0, 60).into(), ..instance(NEAR, 0) },
    );
    dp.instance_address(SERVICE, 6, 6);
    dp.assert_refused("from_instance", &syn, DropReason::NoInstance);
}

#[test]
fn one_port_pair_is_never_shared_by_two_addresses_of_one_instance() {
    let mut dp = datapath(&[NEAR.id, FAR.id]);
    dp.instance_address(FAR.instance_ip, 6, FAR.id);
    let client = (CLIENT.namespace_ip, 20_000);
    let (_, out) = dp.run("from_instance", &tcp(client, (FAR.instance_ip, 80), SYN, b""));
    assert_eq!(seen(&unwrapped(&out).1).dst.0, FAR.namespace_ip);

    // Round robin is at NEAR first; then comes FAR, which is taken on these ports, so NEAR again.
    assert_eq!(dial(&mut dp, 20_001, SYN), NEAR.namespace_ip);
    assert_eq!(dial(&mut dp, 20_000, SYN), NEAR.namespace_ip);
    // No other instance is left: refused, and the first connection goes on.
    dp.round_robin(Ipv4Addr::new(10, 30, 9, 10), 7, &[FAR.id]);
    let syn = tcp(client, (Ipv4Addr::new(10, 30, 9, 10), 80), SYN, b"");
    dp.assert_dropped("from_instance", &syn, DropReason::PortConflict);
    let answer = tcp((FAR.instance_ip, 80), (CLIENT.instance_ip, 20_000), SYN_ACK, b"");
    let (_, out) = dp.run("from_uplink", &tunnelled(&answer));
    assert_eq!(seen(&out), Seen { src: (FAR.instance_ip, 80), dst: client });
}

#[test]
fn an_instance_cannot_send_as_another() {
    let mut dp = datapath(&[FAR.id]);
    // A flow of the real client exists already.
    dial(&mut dp, 20_000, SYN);
    let behind_another_veth = veth(NEAR.id);
    dp.endpoint(CLIENT, behind_another_veth);
    let keys = dp.flow_keys();
    let flow = dp.flows().into_iter().find(|(_, flow)| flow.flags == 0).map(|(_, flow)| flow);
    let key = keys
        .into_iter()
        .find(|key| key.remote == SERVICE.into())
        .map(|key| net_common::FlowKey { origin: behind_another_veth, ..key });
    dp.set_flow(key.expect("placed"), flow.expect("placed"));
    dp.set_instance(FAR.id, Instance { generation: 2, ..instance(FAR, 1) });
    for source in [CLIENT.namespace_ip, Ipv4Addr::new(10, 18, 0, 50), NEAR.instance_ip] {
        let packet = tcp((source, 20_000), (SERVICE, 80), SYN, b"");
        let context = Context { ifindex: veth(CLIENT.id), ..Context::default() };
        let (verdict, _) = dp.run_as("from_instance", &packet, context);
        let counted = vec![("drop spoofed-source".to_owned(), 1)];
        assert_eq!((verdict, dp.changed()), (DROP, counted));
    }
}

#[test]
fn the_ports_of_an_ended_connection_are_free_for_another_address() {
    let mut dp = datapath(&[FAR.id]);
    dial(&mut dp, 20_000, SYN);
    let end = tcp((FAR.instance_ip, 80), (CLIENT.instance_ip, 20_000), FIN, b"");
    dp.run("from_uplink", &tunnelled(&end));
    assert!(dp.flows().values().any(|flow| flow.flags == flags::REPLY | flags::CLOSING));
    dp.instance_address(FAR.instance_ip, 6, FAR.id);
    let syn = tcp((CLIENT.namespace_ip, 20_000), (FAR.instance_ip, 80), SYN, b"");
    assert_eq!(dp.run("from_instance", &syn).0, REDIRECT);
}

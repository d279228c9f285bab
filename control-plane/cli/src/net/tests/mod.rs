//! What `xylem net` shows of a node with one local instance of a service, another on a second
//! node, and a client of its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use net_common::{
    Addr, Config, Counter, DropReason, Endpoint, Event, EventKind, Instance, InstanceState, Node,
    NodeKind, NodeState, PeerKey, Policy, Published, PublishedKey, Service, Traffic,
};

use super::{
    drops, endpoints, events, instances, nodes, published as published_ports, services,
    snapshot::{KnownInstance, Snapshot},
};
use crate::{output::Format, paint::Paint};

mod flows;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 10_000 * SECOND;

pub(super) const WEB_IP: [u8; 4] = [10, 30, 0, 1];
const WEB_IP_V6: Ipv6Addr = Ipv6Addr::new(0xfdff, 0x2000, 0, 0, 0, 0, 0, 1);
const WEB_0: [u8; 4] = [10, 30, 1, 0];
const WEB_1: [u8; 4] = [10, 30, 1, 1];
pub(super) const CLIENT_IP: [u8; 4] = [10, 30, 2, 0];
const CLIENT_NS: [u8; 4] = [10, 18, 0, 2];
pub(super) const WEB_0_NS: [u8; 4] = [10, 18, 0, 3];
const WEB_1_NS: [u8; 4] = [10, 18, 0, 66];
const FAR_CLIENT_IP: [u8; 4] = [10, 30, 2, 9];
const NODE_IP: [u8; 4] = [192, 0, 2, 1];
/// Outside of the overlay.
const HOST: [u8; 4] = [203, 0, 113, 5];

const CLIENT_VETH: u32 = 11;
pub(super) const WEB_0_VETH: u32 = 12;

const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMP: u32 = 1;

pub(super) fn ip(octets: [u8; 4]) -> Addr {
    Ipv4Addr::from(octets).into()
}

fn service(address: Addr, slot: u32, policy: Policy, instance: u32) -> (Addr, Service) {
    (address, Service { policy: policy as u32, slot, instance, _pad: 0 })
}

fn instance(number: u32, node: u32, own: [u8; 4], namespace: [u8; 4]) -> KnownInstance {
    let entry = Instance {
        namespace_ip_v4: ip(namespace),
        instance_ip_v4: ip(own),
        node,
        generation: 1,
        service: 1,
        number,
        state: InstanceState::Up as u32,
        ..Instance::default()
    };
    KnownInstance { entry, traffic: Traffic::default() }
}

pub(super) fn snapshot() -> Snapshot {
    let counted = |packets| Counter { packets, bytes: packets * 1_000 };
    let web_traffic = Traffic {
        egress: counted(2_005),
        ingress: counted(3_004),
        new_flows: 3,
        last_used_ns: NOW - 2 * SECOND,
    };
    let mut far = instance(1, 1, WEB_1, WEB_1_NS);
    far.traffic =
        Traffic { egress: counted(2_000), ingress: counted(3_001), new_flows: 2, last_used_ns: 1 };
    Snapshot {
        now_ns: NOW,
        config: Config {
            node_addr: ip(NODE_IP),
            instance_mtu: 1_472,
            uplink_ifindex: 3,
            tunnel_port: 50_103u16.to_be(),
            ..Config::default()
        },
        names: [1, 2].map(|slot| (slot, "shop.prod.web.front".to_owned())).into(),
        services: vec![
            service(ip(WEB_0), 2, Policy::Instance, 1),
            service(WEB_IP_V6.into(), 1, Policy::RoundRobin, 0),
            service(ip(WEB_IP), 1, Policy::RoundRobin, 0),
        ],
        tables: [(1, vec![2, 1, 2])].into(),
        service_traffic: [(1, web_traffic)].into(),
        instances: [(1, instance(0, 0, WEB_0, WEB_0_NS)), (2, far), (3, absent())].into(),
        nodes: [(
            1,
            Node {
                addr: ip([192, 0, 2, 2]),
                port: 50_103u16.to_be(),
                state: NodeState::Up as u32,
                kind: NodeKind::Xylem as u32,
                rtt_us: 1_250,
                next_hop_until_ns: NOW + 3 * SECOND,
                subnet_net_v4: u32::from_ne_bytes([10, 18, 0, 64]),
                subnet_mask_v4: u32::from_ne_bytes([255, 255, 255, 192]),
                ..Node::default()
            },
        )]
        .into(),
        peers: vec![(PeerKey { addr: ip([192, 0, 2, 2]), port: 50_103u16.to_be(), _pad: 0 }, 1)],
        endpoints: endpoints_of([(WEB_0_NS, WEB_0, WEB_0_VETH, 1), (CLIENT_NS, [0; 4], 11, 0)]),
        drops: vec![
            (DropReason::Truncated, Counter::default()),
            (DropReason::TunnelFragment, counted(1)),
            (DropReason::UnknownPeer, counted(12)),
        ],
        published: vec![published(8_080, 1, 1), published(8_081, 9, 1)],
    }
}

/// A TCP port that leads to port 80 of the instance here, as long as that is `instance`.
fn published(port: u16, instance: u32, generation: u32) -> (PublishedKey, Published) {
    (
        PublishedKey { port: port.to_be(), proto: 6 },
        Published {
            namespace_ip_v4: ip(WEB_0_NS),
            ifindex: WEB_0_VETH,
            instance,
            generation,
            port: 80_u16.to_be(),
            ..Published::default()
        },
    )
}

/// An id whose instance is gone.
fn absent() -> KnownInstance {
    let mut instance = instance(7, 0, WEB_0, WEB_0_NS);
    instance.entry.state = InstanceState::Absent as u32;
    instance
}

/// By namespace IP and by instance IP, as the map has them.
fn endpoints_of(local: [([u8; 4], [u8; 4], u32, u32); 2]) -> Vec<(Addr, Endpoint)> {
    let mut entries = Vec::new();
    for (namespace_ip, instance_ip, ifindex, instance) in local {
        let is_named = instance != 0;
        let own = if is_named { ip(instance_ip) } else { Addr::UNSPECIFIED };
        let endpoint = Endpoint {
            namespace_ip: ip(namespace_ip),
            instance_ip: own,
            ifindex,
            instance,
            generation: instance,
            _pad: 0,
        };
        entries.push((endpoint.namespace_ip, endpoint));
        entries.extend(is_named.then_some((own, endpoint)));
    }
    entries
}

fn event(kind: EventKind, value: u32) -> Event {
    Event {
        kind: kind as u32,
        value,
        src: ip(CLIENT_NS),
        dst: ip(WEB_IP),
        sport: 40_000_u16.to_be(),
        dport: 80_u16.to_be(),
        proto: TCP,
        packet_len: 60,
        time_ns: 12 * SECOND + 345_678_000,
        ..Event::default()
    }
}

/// One packet was seen to be dropped.
fn samples() -> drops::Samples {
    let mut samples = drops::Samples::default();
    samples.add(&event(EventKind::Dropped, DropReason::UnknownPeer as u32));
    samples.add(&event(EventKind::FlowOpened, DropReason::Truncated as u32));
    samples
}

/// Runs a renderer and returns what it wrote.
macro_rules! shown {
    ($render:path, $format:expr, $views:expr) => {{
        let mut out = Vec::new();
        $render(&mut out, $format, &$views).unwrap();
        String::from_utf8(out).unwrap()
    }};
}

#[test]
fn services_show_policy_backends_and_traffic() {
    assert_eq!(
        shown!(services::render, Format::Table, services::views(&snapshot())),
        "\
ADDRESS        SERVICE               POLICY        INSTANCES      FLOWS   SENT              RECEIVED          IDLE
10.30.0.1      shop.prod.web.front   round-robin   0 33%, 1 67%       3   2005 (1.91 MiB)   3004 (2.86 MiB)   2s
10.30.1.0      shop.prod.web.front   instance      0                  0   0                 0                 -
fdff:2000::1   shop.prod.web.front   round-robin   0 33%, 1 67%       3   2005 (1.91 MiB)   3004 (2.86 MiB)   2s
"
    );
}

#[test]
fn weights_are_in_the_json_of_services() {
    let json = shown!(services::render, Format::Json, services::views(&snapshot()));
    assert!(
        json.contains(
            r#"      {
        "instance_number": 1,
        "weight": 2,
        "share": 0.6666666666666666
      }"#
        ),
        "{json}"
    );
}

#[test]
fn instances_show_their_addresses_and_node_and_those_that_are_gone_are_left_out() {
    assert_eq!(
        shown!(instances::render, Format::Table, instances::views(&snapshot())),
        "\
SERVICE               NUMBER   STATE   INSTANCE-IP   NAMESPACE-IP   NODE              FLOWS   EGRESS            INGRESS
shop.prod.web.front        0   up      10.30.1.0     10.18.0.3      local                 0   0                 0
shop.prod.web.front        1   up      10.30.1.1     10.18.0.66     192.0.2.2:50103       2   2000 (1.91 MiB)   3001 (2.86 MiB)
"
    );
}

#[test]
fn nodes_show_this_node_first() {
    assert_eq!(
        shown!(nodes::render, Format::Table, nodes::views(&snapshot())),
        "\
ID   TUNNEL            STATE   KIND        RTT    MTU   NEXT-HOP   SUBNET          INSTANCES   ACCEPTED-FROM
 0   192.0.2.1:50103   up      xylem         -   1472   -          -                       1   (this node)
 1   192.0.2.2:50103   up      xylem   1.250ms   1472   known 3s   10.18.0.64/26           1   192.0.2.2:50103
"
    );
}

#[test]
fn endpoints_are_shown_once_each() {
    assert_eq!(
        shown!(endpoints::render, Format::Table, endpoints::views(&snapshot())),
        "\
NAMESPACE-IP   INSTANCE-IP   SERVICE               NUMBER   IFINDEX   GENERATION
10.18.0.2      -             -                          -        11            0
10.18.0.3      10.30.1.0     shop.prod.web.front        0        12            1
"
    );
}

#[test]
fn drops_show_what_occurred_and_what_it_means() {
    assert_eq!(
        shown!(drops::render, Format::Table, drops::views(&snapshot(), &samples(), false)),
        "\
REASON            PACKETS       BYTES   MEANING
unknown-peer           12   11.72 KiB   A tunnel packet of a sender that the cluster did not announce.
-                       -           -   last seen: tcp 10.18.0.2:40000 -> 10.30.0.1:80
tunnel-fragment         1      1000 B   A fragment of a tunnel packet: tunnel packets are never cut, so the sender's path must be mended.
"
    );
    assert_eq!(drops::views(&snapshot(), &samples(), true).len(), 3);
}

#[test]
fn published_ports_show_where_they_lead_and_whether_that_is_still_so() {
    assert_eq!(
        shown!(published_ports::render, Format::Table, published_ports::views(&snapshot())),
        "\
PROTO   PORT   SERVICE               NUMBER   NAMESPACE-IP   INSTANCE-PORT   INSTANCE
tcp     8080   shop.prod.web.front        0   10.18.0.3                 80   there
tcp     8081   -                          -   10.18.0.3                 80   gone
"
    );
}

#[test]
fn events_are_a_line_each() {
    let snapshot = snapshot();
    let lines = |format| {
        let mut out = Vec::new();
        for event in [
            event(EventKind::FlowOpened, 1),
            event(EventKind::FlowClosed, 77),
            event(EventKind::Dropped, DropReason::NoInstance as u32),
            Event { proto: ICMP, ..event(EventKind::FlowOpened, 2) },
        ] {
            let view = events::view(&snapshot, &event).unwrap();
            events::write_line(&mut out, format, Paint::default(), &view).unwrap();
        }
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        lines(Format::Table),
        "\
12.345678 opened  tcp 10.18.0.2:40000 -> 10.30.0.1:80 to shop.prod.web.front.0
12.345678 closed  tcp 10.18.0.2:40000 -> 10.30.0.1:80 to instance 77, not known
12.345678 dropped tcp 10.18.0.2:40000 -> 10.30.0.1:80 no-instance: The service has no instance now.
12.345678 opened  icmp 10.18.0.2 -> 10.30.0.1 to shop.prod.web.front.1
"
    );
    let json = lines(Format::Json);
    assert_eq!(json.lines().count(), 4);
    assert!(json.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{json}");
    assert!(json.contains(r#""kind":"dropped""#) && json.contains(r#""reason":"no-instance""#));
    assert!(events::view(&snapshot, &event(EventKind::ProbeReply, 0)).is_none());
}

#[test]
fn lost_events_are_a_line_as_well() {
    let lost = |format, overruns| {
        let view = events::LostView::new(12_345_678_000, overruns);
        let mut out = Vec::new();
        events::write_lost(&mut out, format, Paint::default(), &view).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        lost(Format::Table, 1),
        "12.345678 lost    events, once: the ring buffer was full; what happened meanwhile is \
         counted, but not told\n"
    );
    assert!(lost(Format::Table, 2).contains(" lost    events, several times: "));
    let json = lost(Format::Json, 2);
    assert!(json.starts_with(r#"{"time_ns":12345678000,"kind":"lost","overruns":2,"#), "{json}");
}

#[test]
fn empty_maps_are_empty_lists() {
    let nothing = Snapshot::default();
    assert_eq!(shown!(services::render, Format::Json, services::views(&nothing)), "[]\n");
    assert_eq!(
        shown!(endpoints::render, Format::Table, endpoints::views(&nothing)),
        "NAMESPACE-IP   INSTANCE-IP   SERVICE   NUMBER   IFINDEX   GENERATION\n"
    );
}

#[test]
fn numbers_of_a_newer_layout_stay_numbers() {
    let mut snapshot = snapshot();
    snapshot.services[0].1.policy = 99;
    snapshot.instances.get_mut(&1).unwrap().entry.state = 98;
    let services = shown!(services::render, Format::Table, services::views(&snapshot));
    assert!(services.contains(" 99 "), "{services}");
    let instances = shown!(instances::render, Format::Table, instances::views(&snapshot));
    assert!(instances.contains(" 98 "), "{instances}");
}

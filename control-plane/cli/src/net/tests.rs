//! What `xylem net` shows of a node with one local instance of a service, another on a second
//! node, and a client of its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use net_common::{
    Addr, Config, Counter, DropReason, Endpoint, Flow, FlowKey, Instance, InstanceState, Node,
    NodeKind, NodeState, PeerKey, Policy, Service, Traffic,
    flow::{
        flags::{CLOSING, REMOTE_CLIENT, REPLY},
        from_node,
    },
};

use super::{
    drops, endpoints,
    flow_filter::{Filter, Order, Proto},
    flows, instances, nodes, services,
    snapshot::{KnownInstance, Snapshot},
};
use crate::output::Format;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 10_000 * SECOND;

const WEB_IP: [u8; 4] = [10, 30, 0, 1];
const WEB_IP_V6: Ipv6Addr = Ipv6Addr::new(0xfdff, 0x2000, 0, 0, 0, 0, 0, 1);
const WEB_0: [u8; 4] = [10, 30, 1, 0];
const WEB_1: [u8; 4] = [10, 30, 1, 1];
const CLIENT_IP: [u8; 4] = [10, 30, 2, 0];
const CLIENT_NS: [u8; 4] = [10, 18, 0, 2];
const WEB_0_NS: [u8; 4] = [10, 18, 0, 3];
const WEB_1_NS: [u8; 4] = [10, 18, 0, 66];
const FAR_CLIENT_IP: [u8; 4] = [10, 30, 2, 9];

const CLIENT_VETH: u32 = 11;
const WEB_0_VETH: u32 = 12;

const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMP: u32 = 1;

fn ip(octets: [u8; 4]) -> Addr {
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

fn key(local: [u8; 4], remote: [u8; 4], ports: (u16, u16), origin: u32, proto: u32) -> FlowKey {
    FlowKey {
        local: ip(local),
        remote: ip(remote),
        local_port: ports.0.to_be(),
        remote_port: ports.1.to_be(),
        origin,
        proto,
    }
}

fn flow(src: [u8; 4], dst: [u8; 4], packets: u64, flags: u32) -> Flow {
    Flow {
        packets,
        bytes: packets * 1_000,
        created_ns: NOW - 90 * SECOND,
        last_seen_ns: NOW - 2 * SECOND,
        src: ip(src),
        dst: ip(dst),
        flags,
        ..Flow::default()
    }
}

/// The client dialled web and was given the instance here.
fn local_flow() -> [(FlowKey, Flow); 2] {
    let placed = |flow| Flow { service: 1, instance: 1, generation: 1, ..flow };
    [
        (
            key(CLIENT_NS, WEB_IP, (40_000, 80), CLIENT_VETH, TCP),
            placed(Flow { ifindex: WEB_0_VETH, ..flow(CLIENT_IP, WEB_0_NS, 5, 0) }),
        ),
        (
            key(WEB_0_NS, CLIENT_IP, (80, 40_000), WEB_0_VETH, TCP),
            placed(Flow { ifindex: CLIENT_VETH, ..flow(WEB_IP, CLIENT_NS, 4, REPLY | CLOSING) }),
        ),
    ]
}

/// The same client dialled web again and was given the instance on the second node.
fn outgoing_flow() -> [(FlowKey, Flow); 2] {
    let placed = |flow| Flow { service: 1, instance: 2, generation: 1, ..flow };
    [
        (
            key(CLIENT_NS, WEB_IP, (40_001, 80), CLIENT_VETH, TCP),
            placed(Flow { node: 1, ..flow(CLIENT_IP, WEB_1_NS, 2_000, 0) }),
        ),
        (
            key(CLIENT_IP, WEB_1, (40_001, 80), from_node(1), TCP),
            placed(Flow { ifindex: CLIENT_VETH, ..flow(WEB_IP, CLIENT_NS, 3_000, REPLY) }),
        ),
    ]
}

/// A client on the second node pings the instance here.
fn incoming_ping() -> [(FlowKey, Flow); 2] {
    let placed = |flow| Flow { instance: 1, generation: 1, ..flow };
    let echo_request = u16::from_be_bytes([8, 0]);
    [
        (
            key(WEB_0_NS, FAR_CLIENT_IP, (77, echo_request), from_node(1), ICMP),
            placed(Flow { ifindex: WEB_0_VETH, ..flow(FAR_CLIENT_IP, WEB_0_NS, 3, REMOTE_CLIENT) }),
        ),
        (
            key(WEB_0_NS, FAR_CLIENT_IP, (77, 0), WEB_0_VETH, ICMP),
            placed(Flow { node: 1, ..flow(WEB_0, FAR_CLIENT_IP, 3, REMOTE_CLIENT | REPLY) }),
        ),
    ]
}

/// Of a UDP flow to the second node, only the entry of the answers is left.
fn half_a_flow() -> (FlowKey, Flow) {
    let reply = flow(WEB_IP, CLIENT_NS, 1, REPLY);
    (
        key(CLIENT_IP, WEB_1, (5_353, 53), from_node(1), UDP),
        Flow { ifindex: CLIENT_VETH, service: 1, instance: 2, generation: 1, ..reply },
    )
}

fn snapshot() -> Snapshot {
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
            node_addr: ip([192, 0, 2, 1]),
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
                subnet_net_v4: u32::from_ne_bytes([10, 18, 0, 64]),
                subnet_mask_v4: u32::from_ne_bytes([255, 255, 255, 192]),
                ..Node::default()
            },
        )]
        .into(),
        peers: vec![(PeerKey { addr: ip([192, 0, 2, 2]), port: 50_103u16.to_be(), _pad: 0 }, 1)],
        endpoints: endpoints_of([(WEB_0_NS, WEB_0, WEB_0_VETH, 1), (CLIENT_NS, [0; 4], 11, 0)]),
        flows: [&local_flow()[..], &outgoing_flow(), &incoming_ping(), &[half_a_flow()]].concat(),
        drops: vec![
            (DropReason::Truncated, Counter::default()),
            (DropReason::TunnelFragment, counted(1)),
            (DropReason::UnknownPeer, counted(12)),
        ],
    }
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
ADDRESS        SERVICE               POLICY        INSTANCES   FLOWS   SENT              RECEIVED          IDLE
10.30.0.1      shop.prod.web.front   round-robin   0,1             3   2005 (1.91 MiB)   3004 (2.86 MiB)   2s
10.30.1.0      shop.prod.web.front   instance      0               0   0                 0                 -
fdff:2000::1   shop.prod.web.front   round-robin   0,1             3   2005 (1.91 MiB)   3004 (2.86 MiB)   2s
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
        "weight": 2
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
ID   TUNNEL            STATE   KIND        RTT   SUBNET          INSTANCES   ACCEPTED-FROM
 0   192.0.2.1:50103   up      xylem         -   -                       1   (this node)
 1   192.0.2.2:50103   up      xylem   1.250ms   10.18.0.64/26           1   192.0.2.2:50103
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
        shown!(drops::render, Format::Table, drops::views(&snapshot(), false)),
        "\
REASON         PACKETS       BYTES   MEANING
unknown-peer        12   11.72 KiB   A tunnel packet of a sender that the cluster did not announce.
fragment             1      1000 B   A fragment: the overlay does not follow fragments yet.
"
    );
    assert_eq!(drops::views(&snapshot(), true).len(), 3);
}

#[test]
fn flows_are_one_line_for_both_directions() {
    let views = flows::views(&snapshot(), &Filter::default(), Order::Bytes, None);
    assert_eq!(
        shown!(flows::render, Format::Table, views),
        "\
PROTO   CLIENT            DIALLED        BACKEND         SERVICE               NUMBER   PEER              SENT              RECEIVED          AGE     IDLE
tcp     10.18.0.2:40001   10.30.0.1:80   10.18.0.66:80   shop.prod.web.front        1   192.0.2.2:50103   2000 (1.91 MiB)   3000 (2.86 MiB)   1m30s   2s
tcp     10.18.0.2:40000   10.30.0.1:80   10.18.0.3:80    shop.prod.web.front        0   local             5 (4.88 KiB)      4 (3.91 KiB)      1m30s   2s
icmp    10.30.2.9 id 77   -              10.18.0.3       shop.prod.web.front        0   192.0.2.2:50103   3 (2.93 KiB)      3 (2.93 KiB)      1m30s   2s
udp     10.18.0.2:5353    10.30.0.1:53   10.30.1.1:53    shop.prod.web.front        1   192.0.2.2:50103   0                 1 (1000 B)        1m30s   2s
"
    );
}

#[test]
fn flows_are_filtered_and_limited() {
    let clients = |filter: Filter| -> Vec<String> {
        let mut views = flows::views(&snapshot(), &filter, Order::Packets, None);
        views.drain(..).map(|view| view.client.to_string()).collect()
    };
    let only = Filter::default;
    let net = |text: &str| Some(text.parse().unwrap());
    assert_eq!(clients(Filter { proto: Some(Proto::Udp), ..only() }), ["10.18.0.2:5353"]);
    assert_eq!(clients(Filter { src: net("10.30.2.0/24"), ..only() }), ["10.30.2.9:77"]);
    assert_eq!(clients(Filter { dst: net("10.18.0.66/32"), ..only() }), ["10.18.0.2:40001"]);
    assert_eq!(clients(Filter { dst: net("10.30.0.1/32"), ..only() }).len(), 3);
    assert_eq!(clients(Filter { service: Some("web".into()), ..only() }).len(), 4);
    assert_eq!(clients(Filter { service: Some("10.30.0.1".into()), ..only() }).len(), 3);
    assert_eq!(clients(Filter { service: Some("db".into()), ..only() }), [""; 0]);
    assert_eq!(flows::views(&snapshot(), &only(), Order::Age, Some(2)).len(), 2);
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
    snapshot.flows = vec![(
        key(CLIENT_NS, WEB_IP, (1, 2), CLIENT_VETH, 132),
        Flow { node: 55, ..flow(CLIENT_IP, WEB_1_NS, 1, 0) },
    )];
    let views = flows::views(&snapshot, &Filter::default(), Order::Bytes, None);
    let flows = shown!(flows::render, Format::Table, views);
    assert!(flows.contains("132") && flows.contains("node 55, not known"), "{flows}");
    let services = shown!(services::render, Format::Table, services::views(&snapshot));
    assert!(services.contains(" 99 "), "{services}");
    let instances = shown!(instances::render, Format::Table, instances::views(&snapshot));
    assert!(instances.contains(" 98 "), "{instances}");
}

//! What `xylem net` shows of a node with one local instance of a service, another on a second
//! node, and a client of its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use net_common::{
    Addr, Config, Counter, DropReason, Endpoint, Event, EventKind, Flow, FlowKey, Instance,
    InstanceState, Node, NodeKind, NodeState, PeerKey, Policy, Published, PublishedKey, Service,
    Traffic,
    flow::{
        OUTSIDE,
        flags::{CLOSING, CONFIRMED, REMOTE_CLIENT, REPLY, RESET},
        from_node,
    },
};

use super::{
    drops, endpoints, events,
    flow_filter::{Filter, Order, Proto},
    flow_row::State,
    flows::Flows,
    instances, nodes, published as published_ports, services,
    snapshot::{KnownInstance, Snapshot},
};
use crate::{output::Format, paint::Paint};

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

/// With the ports that its packets leave with.
fn ports(flow: Flow, sport: u16, dport: u16) -> Flow {
    Flow { sport: sport.to_be(), dport: dport.to_be(), ..flow }
}

/// The client dialled web and was given the instance here.
fn local_flow() -> [(FlowKey, Flow); 2] {
    let placed = |flow| Flow { service: 1, instance: 1, generation: 1, ..flow };
    [
        (
            key(CLIENT_NS, WEB_IP, (40_000, 80), CLIENT_VETH, TCP),
            ports(
                placed(Flow { ifindex: WEB_0_VETH, ..flow(CLIENT_IP, WEB_0_NS, 5, 0) }),
                40_000,
                80,
            ),
        ),
        (
            key(WEB_0_NS, CLIENT_IP, (80, 40_000), WEB_0_VETH, TCP),
            ports(
                placed(Flow {
                    ifindex: CLIENT_VETH,
                    ..flow(WEB_IP, CLIENT_NS, 4, REPLY | CLOSING | CONFIRMED)
                }),
                80,
                40_000,
            ),
        ),
    ]
}

/// The same client dialled web again and was given the instance on the second node.
fn outgoing_flow() -> [(FlowKey, Flow); 2] {
    let placed = |flow| Flow { service: 1, instance: 2, generation: 1, ..flow };
    [
        (
            key(CLIENT_NS, WEB_IP, (40_001, 80), CLIENT_VETH, TCP),
            ports(
                placed(Flow { node: 1, ..flow(CLIENT_IP, WEB_1_NS, 2_000, CONFIRMED) }),
                40_001,
                80,
            ),
        ),
        (
            key(CLIENT_IP, WEB_1, (40_001, 80), from_node(1), TCP),
            ports(
                placed(Flow {
                    ifindex: CLIENT_VETH,
                    ..flow(WEB_IP, CLIENT_NS, 3_000, REPLY | CONFIRMED)
                }),
                80,
                40_001,
            ),
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
            ports(
                placed(Flow {
                    ifindex: WEB_0_VETH,
                    ..flow(FAR_CLIENT_IP, WEB_0_NS, 3, REMOTE_CLIENT)
                }),
                77,
                echo_request,
            ),
        ),
        (
            key(WEB_0_NS, FAR_CLIENT_IP, (77, 0), WEB_0_VETH, ICMP),
            ports(
                placed(Flow { node: 1, ..flow(WEB_0, FAR_CLIENT_IP, 3, REMOTE_CLIENT | REPLY) }),
                77,
                0,
            ),
        ),
    ]
}

/// Of a UDP flow to the second node, only the entry of the answers is left.
fn half_a_flow() -> (FlowKey, Flow) {
    let reply = flow(WEB_IP, CLIENT_NS, 1, REPLY);
    (
        key(CLIENT_IP, WEB_1, (5_353, 53), from_node(1), UDP),
        ports(
            Flow { ifindex: CLIENT_VETH, service: 1, instance: 2, generation: 1, ..reply },
            53,
            5_353,
        ),
    )
}

/// A host outside of the overlay dials the port 8080 of this node, and is reset.
fn from_outside() -> [(FlowKey, Flow); 2] {
    let placed = |flow| Flow { instance: 1, generation: 1, ..flow };
    let to_server =
        Flow { ifindex: WEB_0_VETH, ..flow(HOST, WEB_0_NS, 2, REMOTE_CLIENT | RESET | CLOSING) };
    let to_host = Flow { node: OUTSIDE, ..flow(NODE_IP, HOST, 1, REMOTE_CLIENT | REPLY) };
    [
        (
            key(NODE_IP, HOST, (8_080, 50_000), from_node(OUTSIDE), TCP),
            ports(placed(to_server), 50_000, 80),
        ),
        (key(WEB_0_NS, HOST, (80, 50_000), WEB_0_VETH, TCP), ports(placed(to_host), 8_080, 50_000)),
    ]
}

/// The instance here asks a host outside, behind the node's port 40,999, and pings it.
fn to_outside() -> [(FlowKey, Flow); 4] {
    let placed = |flow| Flow { instance: 1, generation: 1, ..flow };
    let question = || placed(Flow { node: OUTSIDE, ..flow(NODE_IP, HOST, 1, 0) });
    let answer = || placed(Flow { ifindex: WEB_0_VETH, ..flow(HOST, WEB_0_NS, 1, REPLY) });
    let echo_request = u16::from_be_bytes([8, 0]);
    [
        (key(WEB_0_NS, HOST, (5_353, 53), WEB_0_VETH, UDP), ports(question(), 40_999, 53)),
        (key(NODE_IP, HOST, (40_999, 53), from_node(OUTSIDE), UDP), ports(answer(), 53, 5_353)),
        (
            key(WEB_0_NS, HOST, (9, echo_request), WEB_0_VETH, ICMP),
            ports(question(), 40_001, echo_request),
        ),
        (key(NODE_IP, HOST, (40_001, 0), from_node(OUTSIDE), ICMP), ports(answer(), 9, 0)),
    ]
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

fn entries() -> Vec<(FlowKey, Flow)> {
    [&local_flow()[..], &outgoing_flow(), &incoming_ping(), &[half_a_flow()]].concat()
}

fn flows<'a>(
    snapshot: &'a Snapshot,
    entries: &[(FlowKey, Flow)],
    filter: &Filter,
    order: Order,
    limit: Option<usize>,
) -> Flows<'a> {
    let read = |each: &mut dyn FnMut(&FlowKey, &Flow)| -> Result<(), std::convert::Infallible> {
        entries.iter().for_each(|(key, flow)| each(key, flow));
        Ok(())
    };
    Flows::choose(snapshot, filter, order, limit, read).unwrap()
}

fn table(flows: &Flows<'_>) -> String {
    let mut out = Vec::new();
    flows.render(&mut out, Format::Table).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn flows_are_one_line_for_both_directions() {
    let snapshot = snapshot();
    let flows = flows(&snapshot, &entries(), &Filter::default(), Order::Bytes, None);
    assert_eq!(
        table(&flows),
        "\
PROTO   STATE         CLIENT            DIALLED        BACKEND         SERVICE               NUMBER   PEER              SENT              RECEIVED          AGE     IDLE
tcp     established   10.18.0.2:40001   10.30.0.1:80   10.18.0.66:80   shop.prod.web.front        1   192.0.2.2:50103   2000 (1.91 MiB)   3000 (2.86 MiB)   1m30s   2s
tcp     closing       10.18.0.2:40000   10.30.0.1:80   10.18.0.3:80    shop.prod.web.front        0   local             5 (4.88 KiB)      4 (3.91 KiB)      1m30s   2s
icmp    opening       10.30.2.9 id 77   -              10.18.0.3       shop.prod.web.front        0   192.0.2.2:50103   3 (2.93 KiB)      3 (2.93 KiB)      1m30s   2s
udp     opening       10.18.0.2:5353    10.30.0.1:53   10.30.1.1:53    shop.prod.web.front        1   192.0.2.2:50103   0                 1 (1000 B)        1m30s   2s
"
    );
}

#[test]
fn flows_are_filtered_and_limited() {
    let snapshot = snapshot();
    let entries = [&entries()[..], &from_outside()].concat();
    let chosen = |filter: Filter, order, limit| -> Vec<String> {
        let flows = flows(&snapshot, &entries, &filter, order, limit);
        flows.views().map(|view| view.client.to_string()).collect()
    };
    let clients = |filter| chosen(filter, Order::Packets, None);
    let only = Filter::default;
    let net = |text: &str| Some(text.parse().unwrap());
    assert_eq!(clients(Filter { proto: Some(Proto::Udp), ..only() }), ["10.18.0.2:5353"]);
    assert_eq!(clients(Filter { src: net("10.30.2.0/24"), ..only() }), ["10.30.2.9:77"]);
    assert_eq!(clients(Filter { dst: net("10.18.0.66/32"), ..only() }), ["10.18.0.2:40001"]);
    assert_eq!(clients(Filter { dst: net("10.30.0.1/32"), ..only() }).len(), 3);
    assert_eq!(clients(Filter { service: Some("web".into()), ..only() }).len(), 5);
    assert_eq!(clients(Filter { service: Some("10.30.0.1".into()), ..only() }).len(), 3);
    assert_eq!(clients(Filter { service: Some("db".into()), ..only() }), [""; 0]);
    assert_eq!(clients(Filter { state: Some(State::Reset), ..only() }), ["203.0.113.5:50000"]);
    assert_eq!(clients(Filter { state: Some(State::Established), ..only() }).len(), 1);
    let most = chosen(only(), Order::Bytes, Some(2));
    assert_eq!(most, ["10.18.0.2:40001", "10.18.0.2:40000"]);
    assert_eq!(chosen(only(), Order::Client, Some(1)), ["10.18.0.2:5353"]);
}

#[test]
fn ways_in_and_out_are_one_line_each() {
    let entries = [&from_outside()[..], &to_outside()].concat();
    let snapshot = snapshot();
    let flows = flows(&snapshot, &entries, &Filter::default(), Order::Client, None);
    assert_eq!(table(&flows), "\
PROTO   STATE     CLIENT              DIALLED          BACKEND          SERVICE               NUMBER   PEER      SENT           RECEIVED     AGE     IDLE
icmp    opening   10.18.0.3 id 9      203.0.113.5      203.0.113.5      shop.prod.web.front        0   outside   1 (1000 B)     1 (1000 B)   1m30s   2s
udp     opening   10.18.0.3:5353      203.0.113.5:53   203.0.113.5:53   shop.prod.web.front        0   outside   1 (1000 B)     1 (1000 B)   1m30s   2s
tcp     reset     203.0.113.5:50000   192.0.2.1:8080   10.18.0.3:80     shop.prod.web.front        0   outside   2 (1.95 KiB)   1 (1000 B)   1m30s   2s
");
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
    let entries = [(
        key(CLIENT_NS, WEB_IP, (1, 2), CLIENT_VETH, 132),
        Flow { node: 55, ..flow(CLIENT_IP, WEB_1_NS, 1, 0) },
    )];
    let flows = table(&flows(&snapshot, &entries, &Filter::default(), Order::Bytes, None));
    assert!(flows.contains("132") && flows.contains("node 55, not known"), "{flows}");
    let services = shown!(services::render, Format::Table, services::views(&snapshot));
    assert!(services.contains(" 99 "), "{services}");
    let instances = shown!(instances::render, Format::Table, instances::views(&snapshot));
    assert!(instances.contains(" 98 "), "{instances}");
}

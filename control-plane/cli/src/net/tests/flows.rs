//! What `xylem net flows` shows: flows here, to and from another node, and to and from outside.

use net_common::{
    Flow, FlowKey,
    flow::{
        OUTSIDE,
        flags::{CLOSING, CONFIRMED, REMOTE_CLIENT, REPLY, RESET},
        from_node,
    },
};

use super::{
    super::{
        flow_filter::{Filter, Order, Proto},
        flow_row::State,
        flows::Flows,
        snapshot::Snapshot,
    },
    *,
};

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
fn numbers_of_flows_of_a_newer_layout_stay_numbers() {
    let snapshot = snapshot();
    let entries = [(
        key(CLIENT_NS, WEB_IP, (1, 2), CLIENT_VETH, 132),
        Flow { node: 55, ..flow(CLIENT_IP, WEB_1_NS, 1, 0) },
    )];
    let flows = table(&flows(&snapshot, &entries, &Filter::default(), Order::Bytes, None));
    assert!(flows.contains("132") && flows.contains("node 55, not known"), "{flows}");
}

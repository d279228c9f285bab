//! Sizes and offsets of everything that is pinned. A change here needs a new `LAYOUT_VERSION`.

use std::mem::{offset_of, size_of};

use net_common::*;

#[test]
fn the_layout_is_that_of_its_version() {
    assert_eq!(LAYOUT_VERSION, 3);
    let sizes = [
        ("Addr", size_of::<Addr>(), 16),
        ("Chunk", size_of::<Chunk>(), 128),
        ("Config", size_of::<Config>(), 80),
        ("Counter", size_of::<Counter>(), 16),
        ("Traffic", size_of::<Traffic>(), 48),
        ("Endpoint", size_of::<Endpoint>(), 48),
        ("Event", size_of::<Event>(), 80),
        ("Explanation", size_of::<Explanation>(), 392),
        ("FlowKey", size_of::<FlowKey>(), 44),
        ("Flow", size_of::<Flow>(), 104),
        ("FragmentKey", size_of::<FragmentKey>(), 44),
        ("FragmentPorts", size_of::<FragmentPorts>(), 4),
        ("Instance", size_of::<Instance>(), 88),
        ("MissBudget", size_of::<MissBudget>(), 16),
        ("Node", size_of::<Node>(), 72),
        ("PeerKey", size_of::<PeerKey>(), 20),
        ("Probe", size_of::<Probe>(), 24),
        ("Published", size_of::<Published>(), 48),
        ("PublishedKey", size_of::<PublishedKey>(), 4),
        ("Service", size_of::<Service>(), 16),
        ("SocketKey", size_of::<SocketKey>(), 36),
        ("Joined", size_of::<Joined>(), 104),
        ("Table", size_of::<Table>(), 8),
    ];
    for (name, size, expected) in sizes {
        assert_eq!(size, expected, "size of {name}");
    }
    assert_eq!(offset_of!(Config, service_net_v4), 40);
    assert_eq!(offset_of!(Traffic, last_used_ns), 40);
    assert_eq!(offset_of!(Endpoint, ifindex), 32);
    assert_eq!(offset_of!(Event, packet_len), 40);
    assert_eq!(offset_of!(FlowKey, origin), 36);
    assert_eq!(offset_of!(Flow, src), 32);
    assert_eq!(offset_of!(Flow, ifindex), 72);
    assert_eq!(offset_of!(Flow, flags), 92);
    assert_eq!(offset_of!(Instance, node), 64);
    assert_eq!(offset_of!(Node, state), 20);
    assert_eq!(offset_of!(Service, slot), 4);
}

//! Published ports.

use super::*;

/// Each port of the node to the same port of the instance and 80.
pub(super) fn ports_of(ports: &[u16]) -> Vec<PortMapping> {
    let ports: BTreeSet<u16> = ports.iter().copied().collect();
    let mapping = |port: u16| PortMapping {
        node: NodePort { port, protocol: Protocol::Tcp },
        instance_port: port + 80,
    };
    ports.into_iter().map(mapping).collect()
}

#[test]
fn a_published_port_leads_to_its_instance_and_goes_with_it() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    let ports = ports_of(&[1, 2]);
    translation.attach(name(1), 0, lease(2), 77).unwrap();
    translation.attach(name(1), 1, lease(3), 78).unwrap();
    translation.publish(name(1), 0, &ports).unwrap();
    maps.apply(&mut translation, usize::MAX);
    let to = *maps.held.published.get(ports[0].node).unwrap();
    assert_eq!((to.namespace_ip_v4, to.ifindex), (namespace_ip(0, 2), 77));
    assert_eq!(u16::from_be(to.port), 81);

    let refused = translation.publish(name(1), 1, &ports[1..]).unwrap_err().to_string();
    assert_eq!(
        refused,
        format!("port 2/tcp of this node is published for instance 0 of {}", name(1))
    );
    assert_eq!(translation.ports(name(1), 1), [], "a refusal changes nothing");
    // A process of its own again, elsewhere: the port follows, and old flows do not.
    translation.attach(name(1), 0, lease(4), 79).unwrap();
    maps.apply(&mut translation, usize::MAX);
    let moved = *maps.held.published.get(ports[0].node).unwrap();
    assert_eq!((moved.namespace_ip_v4, moved.ifindex), (namespace_ip(0, 4), 79));
    assert!(moved.generation > to.generation);

    // The instance is replaced behind our back: its ports are nobody's.
    let mut stale = maps.held.clone();
    stale.published.set(ports[1].node, Published { generation: to.generation, ..moved });
    let again = Translation::recover(&stale, me(), Capacities::default());
    assert_eq!(again.ports(name(1), 0), ports[..1]);

    translation.detach(name(1), 0);
    maps.apply(&mut translation, usize::MAX);
    assert!(maps.held.published.is_empty());
    translation.publish(name(1), 1, &ports).unwrap();
}

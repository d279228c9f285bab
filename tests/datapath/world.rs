//! The hosts of the tests, and where they stand.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use net_common::{Config, NodeKind, Policy, Published, packet};

use crate::harness::{Datapath, NODE_IP, TUNNEL_PORT, veth};

/// An instance with addresses of both families.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub id: u32,
    pub namespace_ip: Ipv4Addr,
    pub instance_ip: Ipv4Addr,
    pub namespace_ip6: Ipv6Addr,
    pub instance_ip6: Ipv6Addr,
}

const fn host(id: u32, namespace: u8, instance: u8) -> Host {
    Host {
        id,
        namespace_ip: Ipv4Addr::new(10, 18, 0, namespace),
        instance_ip: Ipv4Addr::new(10, 30, 0, instance),
        namespace_ip6: Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, namespace as u16),
        instance_ip6: Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, 0, instance as u16),
    }
}

pub const CLIENT: Host = host(1, 2, 2);
/// On the same node as [`CLIENT`].
pub const NEAR: Host = host(2, 3, 3);
/// On node 1.
pub const FAR: Host = host(3, 66, 4);
/// Another on node 1.
pub const FAR2: Host = host(4, 67, 5);

pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 30, 9, 9);
pub const SERVICE6: Ipv6Addr = Ipv6Addr::new(0xfdff, 0x2000, 0, 0, 0, 0, 0, 9);
pub const SLOT: u32 = 5;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    V4,
    V6,
}

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Host {
    pub fn namespace(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.namespace_ip.into(),
            Family::V6 => self.namespace_ip6.into(),
        }
    }

    pub fn instance(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.instance_ip.into(),
            Family::V6 => self.instance_ip6.into(),
        }
    }
}

/// The service IP of the slot [`SLOT`].
pub fn service(family: Family) -> IpAddr {
    match family {
        Family::V4 => SERVICE.into(),
        Family::V6 => SERVICE6.into(),
    }
}

/// The node's own IPv6 address, of [`open_to_outside`].
pub const NODE_IP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// A node that is a peer as well, with nothing on it that this one knows.
pub const OTHER_PEER_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
/// A host outside of the overlay.
pub const OUTSIDE_HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
pub const OUTSIDE_HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7);
/// Slot of the instance IP of [`NEAR`].
pub const NEAR_SLOT: u32 = 21;
/// Slot of the instance IP of [`FAR`].
pub const FAR_SLOT: u32 = 22;
/// Published port of [`NEAR`]'s port 80.
pub const PUBLISHED_PORT: u16 = 8080;

pub fn outside_host(family: Family) -> IpAddr {
    match family {
        Family::V4 => OUTSIDE_HOST.into(),
        Family::V6 => OUTSIDE_HOST6.into(),
    }
}

pub fn node_ip(family: Family) -> IpAddr {
    match family {
        Family::V4 => NODE_IP.into(),
        Family::V6 => NODE_IP6.into(),
    }
}

/// Where every fixture begins: two instances here, two on node 1, of which one is known by its
/// instance IP, another peer, and a round-robin service over [`NEAR`].
pub fn town(datapath: &mut Datapath) {
    for (host, node) in [(CLIENT, 0), (NEAR, 0), (FAR, 1), (FAR2, 1)] {
        datapath.instance(host, node);
    }
    datapath.node(2, OTHER_PEER_IP, NodeKind::Xylem);
    datapath.peer(OTHER_PEER_IP, TUNNEL_PORT, 2);
    for family in FAMILIES {
        datapath.round_robin(service(family), SLOT, &[NEAR.id]);
        datapath.instance_address(NEAR.instance(family), NEAR_SLOT, NEAR.id);
        datapath.instance_address(FAR.instance(family), FAR_SLOT, FAR.id);
    }
}

/// The service is on these instances.
pub fn serve(datapath: &mut Datapath, instances: &[u32]) {
    balance(datapath, Policy::RoundRobin, instances);
}

/// The service is on these instances, by this policy.
pub fn balance(datapath: &mut Datapath, policy: Policy, instances: &[u32]) {
    for family in FAMILIES {
        datapath.policy(service(family), policy, SLOT, instances);
    }
}

/// Instances may talk to hosts outside of the overlay, from ports of the node that are here, and
/// [`NEAR`]'s port 80 is published.
pub fn open_to_outside(datapath: &mut Datapath, first_port: u16, ports: u16) {
    datapath.reconfigure(|config: &mut Config| {
        config.node_addr_v6 = NODE_IP6.into();
        config.masquerade_first = first_port;
        config.masquerade_count = ports;
    });
}

pub fn publish(datapath: &mut Datapath) {
    datapath.reconfigure(|config: &mut Config| {
        config.node_addr_v6 = NODE_IP6.into();
        config.published_count = 2;
    });
    let published = Published {
        namespace_ip_v4: NEAR.namespace_ip.into(),
        namespace_ip_v6: NEAR.namespace_ip6.into(),
        ifindex: veth(NEAR.id),
        instance: NEAR.id,
        generation: 1,
        port: 80_u16.to_be(),
        _pad: 0,
    };
    for proto in [packet::TCP, packet::UDP] {
        datapath.publish(proto, PUBLISHED_PORT, published);
    }
}

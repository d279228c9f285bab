//! Every step of the data path, packet by packet: exact output packets, exact counters.
#![expect(unreachable_pub, reason = "a test binary exports nothing")]

mod harness;
mod ipv6;
mod local;
mod malformed;
mod misses;
mod packets;
mod policy;
mod tunnel;

use std::net::Ipv4Addr;

use harness::Host;

pub const CLIENT: Host = Host {
    id: 1,
    namespace_ip: Ipv4Addr::new(10, 18, 0, 2),
    instance_ip: Ipv4Addr::new(10, 30, 0, 2),
};
/// On the same node as [`CLIENT`].
pub const NEAR: Host = Host {
    id: 2,
    namespace_ip: Ipv4Addr::new(10, 18, 0, 3),
    instance_ip: Ipv4Addr::new(10, 30, 0, 3),
};
/// On node 1.
pub const FAR: Host = Host {
    id: 3,
    namespace_ip: Ipv4Addr::new(10, 18, 0, 66),
    instance_ip: Ipv4Addr::new(10, 30, 0, 4),
};
/// Another on node 1.
pub const FAR2: Host = Host {
    id: 4,
    namespace_ip: Ipv4Addr::new(10, 18, 0, 67),
    instance_ip: Ipv4Addr::new(10, 30, 0, 5),
};
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 30, 9, 9);
pub const SLOT: u32 = 5;

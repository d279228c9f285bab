//! An overlay of VXLAN between hosts, as Flannel and Calico make it: a route to what is behind
//! the other host by way of its end of the tunnel.

use std::net::Ipv4Addr;

use anyhow::Result;
use xylem_tests::{
    link::{self, Vxlan},
    topology::UPLINK,
};

use crate::hosts::{Hosts, MTU};

const IFNAME: &str = "vxlan0";
const NETWORK_ID: u32 = 1;
/// What VXLAN puts in front of a packet: IPv4 20, UDP 8, VXLAN 8, Ethernet 14.
const OVERHEAD: u32 = 50;
/// The ends of the tunnel.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 98, 0, 1), Ipv4Addr::new(10, 98, 0, 2)];

/// Hosts that reach what is behind each other by the overlay.
pub(crate) fn hosts(prefix: &str) -> Result<Hosts> {
    let hosts = Hosts::apart(prefix, MTU - OVERHEAD)?;
    let [(first, behind_second), (second, behind_first)] = hosts.hosts();
    let ends =
        [(first, second, behind_second, ENDS), (second, first, behind_first, [ENDS[1], ENDS[0]])];
    for (host, other, behind_other, [end, other_end]) in ends {
        let vxlan =
            Vxlan { id: NETWORK_ID, underlay: UPLINK, local: host.address, remote: other.address };
        host.netns.netlink(async |n| {
            link::add_vxlan(&n, IFNAME, vxlan).await?;
            link::bring_up(&n, IFNAME, end, 30).await?;
            link::add_route(&n, behind_other, 24, other_end).await
        })?;
    }
    Ok(hosts)
}

//! Hosts that only route, with clients and a server behind them as instances are behind a
//! worker: a veth pair and a route each.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use xylem_tests::{
    link::{self, Peer},
    load::Server,
    netns::Netns,
    topology::Topology,
};

/// Like two workers without Xylem.
#[derive(Debug)]
pub(crate) struct Plain {
    _servers: Vec<Server>,
    pub(crate) client: Netns,
    _near: Netns,
    _far: Netns,
}

/// Behind the first host.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 6);
/// Behind the second host.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 2);

impl Plain {
    /// Behind the workers of `topology` with these indices, which run no daemon.
    pub(crate) fn start(prefix: &str, topology: &Topology, hosts: [usize; 2]) -> Result<Self> {
        for (number, host) in (1..).zip(hosts) {
            let host = &topology.workers[host];
            host.netns.set_sysctl("ipv4/ip_forward", "1")?;
            let network = Ipv4Addr::new(10, 99, number, 0);
            topology
                .router
                .netlink(async |n| link::add_route(&n, network, 24, host.address).await)?;
        }
        let behind = |host: usize, name: &str, address: Ipv4Addr| -> Result<Netns> {
            let netns = Netns::create(&format!("{prefix}-{name}"))?;
            let [a, b, c, d] = address.octets();
            let gateway = Ipv4Addr::new(a, b, c, d - 1);
            let host = &topology.workers[host].netns;
            host.netlink(async |n| {
                link::add_veth(&n, name, Peer { netns: &netns, ifname: "eth0" }).await?;
                link::bring_up(&n, name, gateway, 30).await
            })?;
            netns.netlink(async |n| {
                link::bring_up(&n, "eth0", address, 30).await?;
                link::add_route(&n, Ipv4Addr::UNSPECIFIED, 0, gateway).await
            })?;
            Ok(netns)
        };
        let client = behind(hosts[0], "client", Ipv4Addr::new(10, 99, 1, 2))?;
        let near = behind(hosts[0], "near", NEAR)?;
        let far = behind(hosts[1], "far", FAR)?;
        let servers = [&near, &far]
            .map(|netns| netns.run(Server::start).context("no load servers"))
            .into_iter()
            .collect::<Result<_>>()?;
        Ok(Self { _servers: servers, client, _near: near, _far: far })
    }
}

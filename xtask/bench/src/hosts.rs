//! Two hosts without Xylem, with clients and servers behind them as instances are behind a
//! worker: a veth pair and a route each.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use xylem_tests::{
    link::{self, Peer},
    load::Server,
    netns::Netns,
    topology::{Host, Topology},
};

use crate::{
    contender::Contender,
    measure::{Client, Path},
    metric::Place,
};

/// A client and a server behind the first host, another server behind the second.
#[derive(Debug)]
pub(crate) struct Hosts {
    _servers: Vec<Server>,
    client: Netns,
    _near: Netns,
    _far: Netns,
    topology: Topology,
}

/// Behind the first host.
pub(crate) const NEAR: Ipv4Addr = Ipv4Addr::new(10, 99, 1, 6);
/// Behind the second host.
pub(crate) const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 2);
/// All of them.
pub(crate) const CLIENTS_AND_SERVERS: &str = "10.99.0.0/16";

/// What is behind the first host and behind the second; /24 each.
const NETWORKS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 1, 0), Ipv4Addr::new(10, 99, 2, 0)];

/// Of clients, servers and hosts, where nothing says otherwise.
pub(crate) const MTU: u32 = 1500;

impl Hosts {
    /// Hosts whose router forwards between what is behind them.
    pub(crate) fn routed(prefix: &str) -> Result<Self> {
        let hosts = Self::apart(prefix, MTU)?;
        for (network, host) in NETWORKS.into_iter().zip(&hosts.topology.workers) {
            let router = &hosts.topology.router;
            router.netlink(async |n| link::add_route(&n, network, 24, host.address).await)?;
        }
        Ok(hosts)
    }

    /// Hosts that reach each other, while nobody forwards between what is behind them. Clients
    /// and servers have this MTU.
    pub(crate) fn apart(prefix: &str, mtu: u32) -> Result<Self> {
        let topology = Topology::isolated(prefix, 2)?;
        let behind = |host: usize, name: &str, address: Ipv4Addr| -> Result<Netns> {
            let netns = Netns::create(&format!("{prefix}-{name}"))?;
            let gateway = Ipv4Addr::from_bits(address.to_bits() - 1);
            let host = &topology.workers[host].netns;
            host.netlink(async |n| {
                link::add_veth(&n, name, Peer { netns: &netns, ifname: "eth0" }).await?;
                link::set_mtu(&n, name, mtu).await?;
                link::bring_up(&n, name, gateway, 30).await
            })?;
            netns.netlink(async |n| {
                link::set_mtu(&n, "eth0", mtu).await?;
                link::bring_up(&n, "eth0", address, 30).await?;
                link::add_route(&n, Ipv4Addr::UNSPECIFIED, 0, gateway).await
            })?;
            Ok(netns)
        };
        let client = behind(0, "client", Ipv4Addr::new(10, 99, 1, 2))?;
        let near = behind(0, "near", NEAR)?;
        let far = behind(1, "far", FAR)?;
        for host in &topology.workers {
            host.netns.set_sysctl("ipv4/ip_forward", "1")?;
        }
        let servers = [&near, &far]
            .map(|netns| netns.run(Server::start).context("no load servers"))
            .into_iter()
            .collect::<Result<_>>()?;
        Ok(Self { _servers: servers, client, _near: near, _far: far, topology })
    }

    /// Each host with what is behind the other.
    pub(crate) fn hosts(&self) -> [(&Host, Ipv4Addr); 2] {
        let [first, second] = &self.topology.workers[..] else {
            unreachable!("two workers were wanted");
        };
        [(first, NETWORKS[1]), (second, NETWORKS[0])]
    }

    /// The host of the client.
    pub(crate) fn first(&self) -> &Netns {
        &self.topology.workers[0].netns
    }

    /// From the client to an address.
    pub(crate) fn path_to(&self, server: Ipv4Addr) -> Path<'_> {
        Path { client: Client::Host(&self.client), server }
    }
}

/// Plain routing: servers are dialled at their own addresses.
impl Contender for Hosts {
    fn path(&self, place: Place) -> Path<'_> {
        self.path_to(match place {
            Place::Same => NEAR,
            Place::Cross => FAR,
        })
    }
}

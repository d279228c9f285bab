//! Hosts and the network between them.
//!
//! ```text
//!   this host ── hub ── router ──┬── worker 1
//!   (optional)                   ├── worker 2
//!                                └── …
//! ```
//!
//! Every line is a veth pair and a /30; the router forwards IP and does nothing else. There is
//! no bridge and no TUN, so a packet seen here takes the path it would take between machines.
//! A suite that wants a bad line between two workers puts a [`Relay`] into the router meanwhile.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};

use crate::{
    link::{self, Peer},
    netns::{Netns, netlink_here},
    relay::Relay,
};

/// The uplink's name in every host.
pub const UPLINK: &str = "uplink";

/// The first two bytes of the underlay's addresses, in the order in which they are tried: from
/// the private ranges that are least used at home, at work and by container software.
const UNDERLAYS: [[u8; 2]; 4] = [[172, 31], [172, 29], [10, 201], [192, 168]];

/// Third byte of the link between hub and router; below it are the workers, from 1.
const HUB_LINK: u8 = 250;

/// A machine: a namespace with an uplink.
#[derive(Debug)]
pub struct Host {
    pub netns: Netns,
    /// The address by which all others reach it.
    pub address: Ipv4Addr,
}

/// A hub for the control plane, workers, and a router between them all.
#[derive(Debug)]
pub struct Topology {
    pub hub: Host,
    pub workers: Vec<Host>,
    // Declared after the hosts: the router goes last.
    pub router: Netns,
}

impl Topology {
    /// Hosts that only each other can reach. Namespaces are called `{prefix}-hub`,
    /// `{prefix}-worker1`, …
    ///
    /// # Errors
    /// If the kernel refuses a part, or a namespace of one of the names exists; what was made
    /// until then is removed.
    pub fn isolated(prefix: &str, workers: u8) -> Result<Self> {
        Self::build(prefix, workers, UNDERLAYS[0], None)
    }

    /// Hosts whose hub can be reached from this host too, over a link called `ifname`, which
    /// replaces one of that name.
    ///
    /// # Errors
    /// As [`Self::isolated`], and if this host has routes into every range that could be used.
    pub fn reachable(prefix: &str, workers: u8, ifname: &str) -> Result<Self> {
        let taken = netlink_here(async |netlink| link::routed_networks(&netlink).await)?;
        let free =
            |[a, b]: &[u8; 2]| !taken.iter().any(|net| contains(*net, [*a, *b, 0, 0].into()));
        let Some(underlay) = UNDERLAYS.into_iter().find(free) else {
            let ranges = UNDERLAYS.map(|[a, b]| format!("{a}.{b}.0.0/30")).join(", ");
            bail!("this host has routes to all of {ranges}: free one of them (`ip route`)");
        };
        Self::build(prefix, workers, underlay, Some(ifname))
    }

    /// A bad line between two workers, by their indexes, for as long as the relay is there.
    ///
    /// # Errors
    /// As [`Relay::between`].
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn relay(&self, workers: [usize; 2], seed: u64) -> Result<Relay> {
        Relay::between(&self.router, workers.map(|worker| self.workers[worker].address), seed)
    }

    /// Gives the workers IPv6 addresses as well, by which they reach one another; the address of
    /// each.
    ///
    /// # Errors
    /// If the kernel refuses a part.
    pub fn add_ipv6(&self) -> Result<Vec<Ipv6Addr>> {
        self.router.set_sysctl("ipv6/conf/all/forwarding", "1")?;
        let workers = (1..).zip(&self.workers).map(|(number, worker)| {
            let [at_router, at_host] =
                [1, 2].map(|end| Ipv6Addr::new(0xfd78, 0x796c, number, 0, 0, 0, 0, end));
            let line = format!("to-worker{number}");
            for (netns, ifname) in [(&self.router, line.as_str()), (&worker.netns, UPLINK)] {
                // Nobody else has the address: it can be used at once.
                netns.set_sysctl(&format!("ipv6/conf/{ifname}/accept_dad"), "0")?;
            }
            self.router
                .netlink(async |n| link::add_address(&n, &line, at_router.into(), 64).await)?;
            worker.netns.netlink(async |netlink| {
                link::add_address(&netlink, UPLINK, at_host.into(), 64).await?;
                link::add_default_route_v6(&netlink, at_router).await
            })?;
            Ok(at_host)
        });
        workers.collect()
    }

    fn build(prefix: &str, workers: u8, [a, b]: [u8; 2], ifname: Option<&str>) -> Result<Self> {
        if workers >= HUB_LINK {
            bail!("{workers} workers are too many for one underlay; {} are possible", HUB_LINK - 1);
        }
        let router = Netns::create(&format!("{prefix}-router"))?;
        router.set_sysctl("ipv4/ip_forward", "1")?;
        let ends = |line: u8| (Ipv4Addr::new(a, b, line, 1), Ipv4Addr::new(a, b, line, 2));

        let netns = Netns::create(&format!("{prefix}-hub"))?;
        connect(&router, "to-hub", &netns, ends(HUB_LINK))?;
        let address = match ifname {
            None => ends(HUB_LINK).1,
            Some(ifname) => {
                connect_to_this_host(ifname, &netns, ends(0))?;
                let (network, gateway) = (Ipv4Addr::new(a, b, 0, 0), ends(HUB_LINK).1);
                router.netlink(async |n| link::add_route(&n, network, 30, gateway).await)?;
                ends(0).1
            }
        };
        let hub = Host { netns, address };

        let worker = |number: u8| {
            let netns = Netns::create(&format!("{prefix}-worker{number}"))?;
            connect(&router, &format!("to-worker{number}"), &netns, ends(number))?;
            Ok(Host { netns, address: ends(number).1 })
        };
        let workers = (1..=workers).map(worker).collect::<Result<Vec<_>>>()?;
        Ok(Self { hub, workers, router })
    }
}

/// Joins the router and a host, which sends everything by way of the router.
fn connect(
    router: &Netns,
    ifname: &str,
    host: &Netns,
    (at_router, at_host): (Ipv4Addr, Ipv4Addr),
) -> Result<()> {
    router.netlink(async |netlink| {
        link::add_veth(&netlink, ifname, Peer { netns: host, ifname: UPLINK }).await?;
        link::bring_up(&netlink, ifname, at_router, 30).await
    })?;
    host.netlink(async |netlink| {
        link::bring_up(&netlink, UPLINK, at_host, 30).await?;
        link::add_route(&netlink, Ipv4Addr::UNSPECIFIED, 0, at_router).await
    })
}

/// The pair goes when the hub's namespace goes, at both ends.
fn connect_to_this_host(
    ifname: &str,
    hub: &Netns,
    (here, there): (Ipv4Addr, Ipv4Addr),
) -> Result<()> {
    const IFNAME_AT_HUB: &str = "to-host";
    netlink_here(async |netlink| {
        // The kernel takes a moment to end the namespace of an earlier hub, and this with it.
        if link::index(&netlink, ifname).await.is_ok() {
            link::remove(&netlink, ifname).await?;
        }
        link::add_veth(&netlink, ifname, Peer { netns: hub, ifname: IFNAME_AT_HUB }).await?;
        link::bring_up(&netlink, ifname, here, 30).await
    })
    .context("cannot join this host and the hub")?;
    hub.netlink(async |netlink| link::bring_up(&netlink, IFNAME_AT_HUB, there, 30).await)
}

fn contains((network, prefix): (Ipv4Addr, u8), address: Ipv4Addr) -> bool {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    // A route within the /30 collides as much as one around it.
    let mask = mask & (u32::MAX << 2);
    u32::from(network) & mask == u32::from(address) & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_around_or_within_the_link_collides() {
        let link = Ipv4Addr::new(172, 31, 0, 0);
        let collides = |network: [u8; 4], prefix| contains((network.into(), prefix), link);
        assert!(collides([172, 16, 0, 0], 12));
        assert!(collides([172, 31, 0, 2], 32));
        assert!(!collides([172, 31, 0, 4], 30));
        assert!(!collides([172, 30, 0, 0], 16));
    }
}

//! Links between hosts, and their addresses and routes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd},
};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use netlink_packet_route::{
    link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder};

/// The other end of a new veth pair.
#[derive(Clone, Copy, Debug)]
pub struct Peer<'a, N> {
    pub netns: &'a N,
    pub ifname: &'a str,
}

/// A veth pair between the namespace of `netlink` and the peer's, both ends still down.
///
/// # Errors
/// If one of the names is taken in its namespace.
pub async fn add_veth<N: AsFd>(netlink: &Handle, ifname: &str, peer: Peer<'_, N>) -> Result<()> {
    let other_end = LinkMessageBuilder::<LinkUnspec>::new()
        .name(peer.ifname)
        .setns_by_fd(peer.netns.as_fd().as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new(ifname, peer.ifname)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(other_end)))
        .build();
    netlink
        .link()
        .add(pair)
        .execute()
        .await
        .with_context(|| format!("cannot make the link {ifname} - {}", peer.ifname))
}

/// One end of a VXLAN tunnel between two hosts.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan<'a> {
    pub id: u32,
    /// The interface below it.
    pub underlay: &'a str,
    pub local: Ipv4Addr,
    pub remote: Ipv4Addr,
}

/// A VXLAN interface, still down; its MTU is the underlay's less what it adds.
///
/// # Errors
/// If the kernel has no VXLAN, the name is taken or there is no such underlay.
pub async fn add_vxlan(netlink: &Handle, ifname: &str, vxlan: Vxlan<'_>) -> Result<()> {
    /// IANA's.
    const PORT: u16 = 4789;
    let underlay = index(netlink, vxlan.underlay).await?;
    let link = LinkVxlan::new(ifname, vxlan.id)
        .dev(underlay)
        .local(vxlan.local)
        .remote(vxlan.remote)
        .port(PORT)
        .build();
    let added = netlink.link().add(link).execute().await;
    added.with_context(|| format!("cannot make the VXLAN interface {ifname}"))
}

/// # Errors
/// If there is no such interface, or it cannot have this MTU.
pub async fn set_mtu(netlink: &Handle, ifname: &str, mtu: u32) -> Result<()> {
    let index = index(netlink, ifname).await?;
    let link = LinkUnspec::new_with_index(index).mtu(mtu).build();
    let changed = netlink.link().change(link).execute().await;
    changed.with_context(|| format!("cannot give {ifname} the MTU {mtu}"))
}

/// Gives an interface its address and sets it up.
///
/// # Errors
/// If there is no such interface.
pub async fn bring_up(netlink: &Handle, ifname: &str, address: Ipv4Addr, prefix: u8) -> Result<()> {
    add_address(netlink, ifname, address.into(), prefix).await?;
    let up = LinkUnspec::new_with_index(index(netlink, ifname).await?).up().build();
    netlink.link().change(up).execute().await.with_context(|| format!("cannot set {ifname} up"))
}

/// # Errors
/// If there is no such interface.
pub async fn add_address(
    netlink: &Handle,
    ifname: &str,
    address: IpAddr,
    prefix: u8,
) -> Result<()> {
    let index = index(netlink, ifname).await?;
    netlink
        .address()
        .add(index, address, prefix)
        .execute()
        .await
        .with_context(|| format!("cannot give {ifname} the address {address}/{prefix}"))
}

/// # Errors
/// If there is such a route.
pub async fn add_default_route_v6(netlink: &Handle, gateway: Ipv6Addr) -> Result<()> {
    let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build();
    let added = netlink.route().add(route).execute().await;
    added.with_context(|| format!("cannot route to everywhere by {gateway}"))
}

/// A route by way of `gateway`; to everywhere if the prefix is 0.
///
/// # Errors
/// If the gateway is not reachable or the route exists.
pub async fn add_route(
    netlink: &Handle,
    destination: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
) -> Result<()> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(destination, prefix)
        .gateway(gateway)
        .build();
    netlink
        .route()
        .add(route)
        .execute()
        .await
        .with_context(|| format!("cannot add the route {destination}/{prefix} via {gateway}"))
}

/// # Errors
/// If there is no such interface.
pub async fn remove(netlink: &Handle, ifname: &str) -> Result<()> {
    let index = index(netlink, ifname).await?;
    netlink.link().del(index).execute().await.with_context(|| format!("cannot remove {ifname}"))
}

/// # Errors
/// If there is no such interface.
pub async fn index(netlink: &Handle, ifname: &str) -> Result<u32> {
    let mut found = Box::pin(netlink.link().get().match_name(ifname).execute());
    let link = found.try_next().await.with_context(|| format!("no interface {ifname}"))?;
    link.map(|link| link.header.index).with_context(|| format!("no interface {ifname}"))
}

/// Name and kind (`veth`, `bridge`, `tun`, …) of every interface that is up: one that is
/// down carries nothing. Loopback's kind is empty.
///
/// # Errors
/// If the kernel does not list its interfaces.
pub async fn up(netlink: &Handle) -> Result<Vec<(String, String)>> {
    let links: Vec<_> = netlink.link().get().execute().try_collect().await?;
    let describe = |link: LinkMessage| {
        let (mut name, mut kind) = (String::new(), String::new());
        for attribute in link.attributes {
            match attribute {
                LinkAttribute::IfName(is) => name = is,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        if let LinkInfo::Kind(is) = info {
                            kind = is.to_string();
                        }
                    }
                }
                _ => {}
            }
        }
        (name, kind)
    };
    let is_up = |link: &LinkMessage| link.header.flags.contains(LinkFlags::Up);
    Ok(links.into_iter().filter(is_up).map(describe).collect())
}

/// Every IPv4 destination with a route of its own, as network and prefix length; the default
/// route is not one.
///
/// # Errors
/// If the kernel does not list its routes.
pub async fn routed_networks(netlink: &Handle) -> Result<Vec<(Ipv4Addr, u8)>> {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<_> = netlink.route().get(all).execute().try_collect().await?;
    let network = |route: RouteMessage| {
        let prefix = route.header.destination_prefix_length;
        route.attributes.into_iter().find_map(|attribute| match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(network)) => Some((network, prefix)),
            _ => None,
        })
    };
    Ok(routes.into_iter().filter_map(network).collect())
}

//! The veth pairs of the node: one for each instance, and one through which parked packets are
//! sent on.
//!
//! Every host-side end carries its data path's device group from its first moment on, so that
//! whatever a killed net manager left behind is found.

use std::{collections::HashMap, io};

use sha2::{Digest, Sha256};
use tracing::warn;

use super::{
    headroom,
    netlink::{Link, Mac, Netlink, NetlinkError, VethEnd},
    netns::{self, IFNAME, IPV6_LEAST_MTU, Inside, InstanceNamespace, NetnsError},
};
use crate::{
    chain::Chain,
    core::{
        ifname::{Alias, DataPathId},
        ipam::Lease,
    },
};

/// Names tried when another interface has the one that follows from the instance.
const ATTEMPTS: u32 = 8;

/// Largest packet that is sent on: any that was parked, and any that a program may make of it.
const INJECTION_MTU: u32 = 65_535;

/// Why an instance cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum VethError {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("the namespace of process {pid} has an interface {IFNAME} already")]
    Taken { pid: i32 },
    #[error("cannot list the processes of this machine")]
    Processes(#[source] io::Error),
    #[error("other interfaces have all {ATTEMPTS} names that {alias} could have")]
    NoName { alias: Alias },
}

/// What all instances' veth pairs of a node have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// The uplink's less the tunnel's headers, bytes.
    pub mtu: u32,
    /// See [`headroom::prepare`].
    pub headroom: Option<u32>,
}

/// Makes the veth pair of an instance, ready for packets in both directions.
///
/// A pair that was left over under the same name is removed first. On failure nothing is left.
///
/// # Errors
/// The process has no namespace of its own, or the kernel refuses.
pub async fn attach(
    netlink: &Netlink,
    alias: &Alias,
    pid: i32,
    lease: Lease,
    wiring: Wiring,
) -> Result<Link, VethError> {
    let namespace = InstanceNamespace::of(pid)?;
    let name = free_name(netlink, alias).await?;
    let [near_mac, far_mac] = macs(&name);
    let near = VethEnd { name: &name, mac: near_mac, namespace: None };
    let far = VethEnd { name: IFNAME, mac: far_mac, namespace: Some(namespace.fd()) };
    let has_v6 = lease.v6.is_some() && netns::has_ipv6();
    let mtu = if has_v6 { wiring.mtu.max(IPV6_LEAST_MTU) } else { wiring.mtu };
    if let Err(error) = netlink.add_veth(&near, &far, mtu, alias.data_path.group()).await {
        let taken = error.errno() == Some(nix::errno::Errno::EEXIST);
        return Err(if taken { VethError::Taken { pid } } else { error.into() });
    }
    let result = finish(netlink, &namespace, &name, alias, lease, wiring.headroom).await;
    if result.is_err()
        && let Ok(Some(link)) = netlink.find(&name).await
        && let Err(error) = netlink.remove(link.index).await
    {
        warn!(net.ifname = name, %error, "a veth pair is left over until the next start");
    }
    result
}

async fn finish(
    netlink: &Netlink,
    namespace: &InstanceNamespace,
    name: &str,
    alias: &Alias,
    lease: Lease,
    headroom: Option<u32>,
) -> Result<Link, VethError> {
    let link = netlink.get(name).await?;
    headroom::give(netlink, link.index, headroom).await?;
    netlink.set_alias(link.index, &alias.to_string()).await?;
    netns::disable_ipv6(name);
    netlink.set_up(link.index).await?;
    namespace.set_up(Inside { lease, gateway_mac: link.mac }).await?;
    Ok(netlink.wait_operational(name).await?)
}

/// Whether the veth pair whose host end is `ifindex` leads into the namespace of `pid`.
///
/// # Errors
/// There is no such process, or its namespace cannot be entered.
pub async fn leads_to(ifindex: u32, pid: i32) -> Result<bool, NetnsError> {
    let inside = InstanceNamespace::of(pid)?.interface().await?;
    Ok(inside.is_some_and(|link| link.is_veth && link.peer == Some(ifindex)))
}

/// Gives the pairs of all instances another MTU, both ends; how many still send larger packets.
///
/// # Errors
/// The kernel refuses to tell which pairs there are.
pub async fn resize(
    netlink: &Netlink,
    data_path: DataPathId,
    mtu: u32,
) -> Result<usize, VethError> {
    let links = of_instances(netlink, data_path).await?.into_iter();
    let mut pairs: HashMap<u32, Link> = links.map(|link| (link.index, link)).collect();
    if pairs.is_empty() {
        return Ok(0);
    }
    let mut larger = 0;
    // Whose they are is known by the process that asked for them, which nobody keeps in mind.
    for pid in netns::distinct().map_err(VethError::Processes)? {
        if pairs.is_empty() {
            break;
        }
        let Ok(namespace) = InstanceNamespace::of(pid) else { continue };
        let Ok(Some(inside)) = namespace.interface().await else { continue };
        let Some(near) = inside.peer.and_then(|index| pairs.get(&index).cloned()) else { continue };
        // Another namespace has interfaces of the same numbers.
        let is_its =
            inside.is_veth && near.peer == Some(inside.index) && inside.mac == macs(&near.name)[1];
        if !is_its {
            continue;
        }
        pairs.remove(&near.index);
        match resize_pair(netlink, &near, &namespace, mtu).await {
            Ok(has) => larger += usize::from(has > mtu),
            Err(error) => {
                warn!(
                    net.ifname = near.name, mtu, error = %Chain(&error),
                    "the interfaces of an instance keep their size"
                );
                larger += usize::from(inside.mtu > mtu);
            }
        }
    }
    for near in pairs.into_values().filter(|near| near.mtu != mtu) {
        warn!(
            net.ifname = near.name,
            mtu, "the interfaces of an instance keep their size: no process of it is found"
        );
        larger += usize::from(near.mtu > mtu);
    }
    Ok(larger)
}

/// No end may send what the other does not take: the near one is the larger meanwhile.
async fn resize_pair(
    netlink: &Netlink,
    near: &Link,
    namespace: &InstanceNamespace,
    mtu: u32,
) -> Result<u32, VethError> {
    if mtu > near.mtu {
        netlink.set_mtu(near.index, mtu).await?;
    }
    let has = namespace.set_mtu(mtu).await?;
    if has != near.mtu {
        netlink.set_mtu(near.index, has).await?;
    }
    Ok(has)
}

/// The host-side ends of this data path's instances, whoever made them.
///
/// # Errors
/// The kernel refuses.
pub async fn of_instances(
    netlink: &Netlink,
    data_path: DataPathId,
) -> Result<Vec<Link>, NetlinkError> {
    let (written, taken) = data_path.injection_pair();
    let is_injection = |link: &Link| link.name == written || link.name == taken;
    let links = netlink.links().await?.into_iter();
    Ok(links.filter(|link| is_ours(link, data_path) && !is_injection(link)).collect())
}

/// The pair through which parked packets are sent on: where they are written, and where the
/// program takes them. An existing pair is used again.
///
/// # Errors
/// The kernel refuses.
pub async fn injection_pair(
    netlink: &Netlink,
    data_path: DataPathId,
) -> Result<(Link, Link), NetlinkError> {
    let (written, taken) = data_path.injection_pair();
    if netlink.find(&written).await?.is_none() {
        let [near_mac, far_mac] = macs(&written);
        let near = VethEnd { name: &written, mac: near_mac, namespace: None };
        let far = VethEnd { name: &taken, mac: far_mac, namespace: None };
        netlink.add_veth(&near, &far, INJECTION_MTU, data_path.group()).await?;
    }
    for name in [&written, &taken] {
        netns::disable_ipv6(name);
        netlink.set_up(netlink.get(name).await?.index).await?;
    }
    Ok((netlink.wait_operational(&written).await?, netlink.wait_operational(&taken).await?))
}

/// Removes that pair; done if it is gone.
///
/// # Errors
/// The kernel refuses.
pub async fn remove_injection_pair(
    netlink: &Netlink,
    data_path: DataPathId,
) -> Result<(), NetlinkError> {
    match netlink.find(&data_path.injection_pair().0).await? {
        Some(link) => netlink.remove(link.index).await,
        None => Ok(()),
    }
}

fn is_ours(link: &Link, data_path: DataPathId) -> bool {
    link.is_veth && link.group == data_path.group()
}

/// A name that no other interface has.
async fn free_name(netlink: &Netlink, alias: &Alias) -> Result<String, VethError> {
    for attempt in 0..ATTEMPTS {
        let name = alias.ifname(attempt);
        match netlink.find(&name).await? {
            None => return Ok(name),
            Some(link) if is_ours(&link, alias.data_path) => {
                netlink.remove(link.index).await?;
                return Ok(name);
            }
            Some(_) => {}
        }
    }
    Err(VethError::NoName { alias: *alias })
}

/// Locally administered addresses of both ends. Given at the making of the pair, because
/// programs like udev set random ones anew some time later.
fn macs(name: &str) -> [Mac; 2] {
    let digest = Sha256::digest(name.as_bytes());
    let mac = |end: u8| [0x02, digest[0], digest[1], digest[2], digest[3], digest[4] & 0xfe | end];
    [mac(0), mac(1)]
}

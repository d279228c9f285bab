//! What this node is on the underlay, and what a net manager before left on it.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::Ipv4Net;
use net_common::{Addr, Config as NodeConfig, limits};
use tracing::{info, warn};
use xylem_types::mqtt::TunnelEndpoint;

use super::{ports::Ports, start::DaemonError};
use crate::{
    chain::Chain,
    config::Config,
    core::{
        ifname::DataPathId,
        port_range::PortRange,
        translation::LocalInstance,
        worker::Worker,
        xdp::{self, Choice, UplinkXdp},
    },
    kernel::{
        self,
        bpf::{DataPath, Program},
        bpffs::{self, Lock},
        clock, headroom,
        netlink::{Link, Netlink},
        own_ports,
        veth::{self, Wiring},
    },
};

const PARKED_LINK: &str = "parked";
/// An interface's name may contain dots, which the BPF file system refuses; its index does not.
const UPLINK_LINK: &str = "uplink_";
const XDP_LINK: &str = "xdp_";

/// fdff::/16: all service IPs and instance IPs, of every policy.
const SERVICE_NET_V6: [u8; 4] = [0xfd, 0xff, 0, 0];
const SERVICE_MASK_V6: [u8; 4] = [0xff, 0xff, 0, 0];
/// 10.18.0.0/16: the namespace IPs of all workers.
const NAMESPACE_NET_V4: [u8; 4] = [10, 18, 0, 0];
const NAMESPACE_MASK_V4: [u8; 4] = [255, 255, 0, 0];

/// Every IPv4 host takes packets of this size (RFC 791); the instances' interfaces have it at
/// least.
const LEAST_MTU: u32 = 576;

/// The node's own interfaces.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) netlink: Netlink,
    pub(super) id: DataPathId,
    /// Written end and taken end of the pair for parked packets.
    pub(super) injection: (Link, Link),
    /// See [`headroom::prepare`].
    headroom: Option<u32>,
    /// Held for as long as the net manager runs.
    pub(super) lock: Lock,
    uplink: Link,
    address: Ipv4Addr,
    /// For published ports and what leaves the overlay.
    address_v6: Option<Ipv6Addr>,
    tunnel_port: u16,
    uplink_xdp: UplinkXdp,
    service_net: Ipv4Net,
    masquerade: Option<PortRange>,
}

impl Node {
    /// Looks at the node and makes what belongs to it alone.
    ///
    /// # Errors
    /// Another net manager works here, or there is no uplink with an address.
    pub(super) async fn open(config: &Config) -> Result<Self, DaemonError> {
        bpffs::prepare(&config.bpffs_root)?;
        let lock = bpffs::lock(&config.bpffs_root).await?;
        let netlink = Netlink::open()?;
        let uplink = uplink(&netlink, config.uplink.as_deref()).await?;
        let ifname = || uplink.name.clone();
        if uplink.mtu < LEAST_MTU + limits::TUNNEL_OVERHEAD_V4 {
            return Err(DaemonError::SmallMtu { ifname: ifname(), mtu: uplink.mtu });
        }
        let address = match config.node_address {
            Some(address) => address,
            None => {
                let addresses = netlink.addresses_v4(uplink.index).await?;
                *addresses.first().ok_or_else(|| DaemonError::NoAddress { ifname: ifname() })?
            }
        };
        let address_v6 = match config.node_address_v6 {
            Some(address) => Some(address),
            None => netlink.global_address_v6(uplink.index).await?,
        };
        if let Some(ports) = config.masquerade {
            check_own_ports(ports)?;
        }
        let id = DataPathId::new(&config.bpffs_root);
        let injection = veth::injection_pair(&netlink, id).await?;
        let headroom = headroom::prepare(&netlink, id).await;
        info!(net.ifname = uplink.name, %address, mtu = uplink.mtu, "uplink");
        Ok(Self {
            netlink,
            id,
            injection,
            headroom,
            lock,
            uplink,
            address,
            address_v6,
            tunnel_port: config.tunnel_port,
            uplink_xdp: config.uplink_xdp,
            masquerade: config.masquerade,
            service_net: config.service_net,
        })
    }

    /// Where peers reach this node.
    pub(super) fn endpoint(&self) -> TunnelEndpoint {
        TunnelEndpoint { host_ip: self.address.into(), host_port: self.tunnel_port }
    }

    /// How instances are connected.
    pub(super) fn wiring(&self) -> Wiring {
        Wiring { mtu: self.instance_mtu(), headroom: self.headroom }
    }

    /// Interface of the uplink.
    pub(super) fn uplink_index(&self) -> u32 {
        self.uplink.index
    }

    /// MTU of the instances' interfaces.
    pub(super) fn instance_mtu(&self) -> u32 {
        self.uplink.mtu - limits::TUNNEL_OVERHEAD_V4
    }

    /// Where ports are published.
    pub(super) fn ports(&self) -> Ports {
        let v6 = self.address_v6.map(IpAddr::from);
        Ports::new([self.address.into()].into_iter().chain(v6).collect(), self.tunnel_port)
    }

    /// What the programs must know; `published` ports are there already.
    pub(super) fn config(&self, published: usize) -> NodeConfig {
        let word = |ip: Ipv4Addr| u32::from_ne_bytes(ip.octets());
        NodeConfig {
            node_addr: self.address.into(),
            node_addr_v6: self.address_v6.map(Addr::from).unwrap_or_default(),
            uplink_ifindex: self.uplink.index,
            tunnel_port: self.tunnel_port.to_be(),
            _pad: 0,
            service_net_v4: word(self.service_net.network()),
            service_mask_v4: word(self.service_net.netmask()),
            service_net_v6: u32::from_ne_bytes(SERVICE_NET_V6),
            service_mask_v6: u32::from_ne_bytes(SERVICE_MASK_V6),
            features: kernel::version::features(),
            namespace_net_v4: u32::from_ne_bytes(NAMESPACE_NET_V4),
            namespace_mask_v4: u32::from_ne_bytes(NAMESPACE_MASK_V4),
            instance_mtu: self.instance_mtu(),
            masquerade_first: self.masquerade.map_or(0, |ports| ports.first()),
            masquerade_count: self.masquerade.map_or(0, |ports| ports.count()),
            published_count: published as u32,
        }
    }

    /// Gives every interface its program, and removes what is only half there: instances without
    /// interface, interfaces and links without instance.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) async fn take_over(
        &self,
        data_path: &mut DataPath,
        worker: &mut Worker,
    ) -> Result<(), DaemonError> {
        let mut links: HashMap<u32, Link> = veth::of_instances(&self.netlink, self.id)
            .await?
            .into_iter()
            .map(|link| (link.index, link))
            .collect();
        let uplink_link = format!("{UPLINK_LINK}{}", self.uplink.index);
        data_path.attach(Program::FromUplink, &self.uplink.name, &uplink_link)?;
        data_path.attach(Program::FromParked, &self.injection.1.name, PARKED_LINK)?;
        let mut wanted = HashSet::from([uplink_link, PARKED_LINK.to_owned()]);
        wanted.extend(self.attach_xdp(data_path)?);

        let local: Vec<LocalInstance> = worker.translation().local().collect();
        for local in local {
            let LocalInstance { name, number, ifindex, .. } = local;
            match links.remove(&ifindex) {
                Some(link) => {
                    data_path.attach(Program::FromInstance, &link.name, &link.name)?;
                    headroom::give(&self.netlink, link.index, self.headroom).await?;
                    info!(service = %name, instance = number, "taken over");
                    wanted.insert(link.name);
                }
                None => {
                    warn!(service = %name, instance = number, "the instance's interface is gone");
                    worker.detach(name, number, clock::now());
                }
            }
        }
        for link in data_path.links()?.iter().filter(|link| !wanted.contains(*link)) {
            info!(link, "a left-over link is removed");
            data_path.detach(link)?;
        }
        for link in links.values() {
            info!(net.ifname = link.name, "a left-over interface is removed");
            self.netlink.remove(link.index).await?;
        }
        Ok(())
    }
}

/// The node's own connections and those of instances must not have the same ports: answers to one
/// would reach the other.
fn check_own_ports(ports: PortRange) -> Result<(), DaemonError> {
    let own = own_ports::read().map_err(DaemonError::OwnPorts)?;
    match ports.clash(&own.local, &own.reserved) {
        Some(clash) => Err(DaemonError::PortsClash { ports, local: own.local, clash }),
        None => Ok(()),
    }
}

impl Node {
    /// The name of the uplink's XDP link, if it gets one.
    fn attach_xdp(&self, data_path: &mut DataPath) -> Result<Option<String>, DaemonError> {
        let (ifname, index) = (&self.uplink.name, self.uplink.index);
        let choice = xdp::choose(self.uplink_xdp, self.uplink.kind.as_deref());
        let (mode, must) = match choice {
            Choice::Must(mode) => (mode, true),
            Choice::Try(mode) => (mode, false),
            Choice::Not(why) => {
                info!(net.ifname = ifname, %why, "no XDP on the uplink");
                return Ok(None);
            }
        };
        let link = format!("{XDP_LINK}{}_{index}", mode.name());
        // An interface has one mode at a time.
        for other in data_path.links()? {
            if other.starts_with(XDP_LINK) && other != link {
                data_path.detach(&other)?;
            }
        }
        match data_path.attach_xdp(mode, ifname, &link) {
            Ok(()) => {
                info!(net.ifname = ifname, mode = mode.name(), "XDP on the uplink");
                Ok(Some(link))
            }
            Err(error) if must => Err(error.into()),
            Err(error) => {
                info!(net.ifname = ifname, error = %Chain(&error), "no XDP on the uplink");
                Ok(None)
            }
        }
    }
}

async fn uplink(netlink: &Netlink, ifname: Option<&str>) -> Result<Link, DaemonError> {
    if let Some(ifname) = ifname {
        return Ok(netlink.get(ifname).await?);
    }
    let index = netlink.default_route_interface().await?.ok_or(DaemonError::NoUplink)?;
    let links = netlink.links().await?;
    links.into_iter().find(|link| link.index == index).ok_or(DaemonError::NoUplink)
}

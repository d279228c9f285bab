//! What this node is on the underlay, and what a net manager before left on it.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use net_common::Config as NodeConfig;
use tracing::{info, warn};
use xylem_types::mqtt::TunnelEndpoint;

use super::{
    plumbing,
    ports::Ports,
    start::DaemonError,
    uplink::{addresses, configured},
};
use crate::{
    config::Config,
    core::{
        ifname::DataPathId,
        port_range::PortRange,
        translation::LocalInstance,
        uplink::{Uplink, Wanted},
        worker::Worker,
        xdp::UplinkXdp,
    },
    kernel::{
        self,
        bpf::{DataPath, Program},
        bpffs::{self, Lock},
        clock, headroom,
        netlink::{Link, Netlink},
        own_ports,
        uplink::Watcher,
        veth::{self, Wiring},
    },
};

const PARKED_LINK: &str = "parked";

/// fdff::/16: all service IPs and instance IPs, of every policy.
const SERVICE_NET_V6: [u8; 4] = [0xfd, 0xff, 0, 0];
const SERVICE_MASK_V6: [u8; 4] = [0xff, 0xff, 0, 0];
/// 10.18.0.0/16: the namespace IPs of all workers.
const NAMESPACE_NET_V4: [u8; 4] = [10, 18, 0, 0];
const NAMESPACE_MASK_V4: [u8; 4] = [255, 255, 0, 0];

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
    /// Has seen the uplink, and hears of each change since.
    pub(super) watcher: Watcher,
    pub(super) uplink: Uplink,
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
        let mut watcher = Watcher::open(Wanted {
            interface: config.uplink.clone(),
            address: config.node_address,
            address_v6: config.node_address_v6,
        })?;
        let uplink = watcher.look(None).await??;
        if let Some(ports) = config.masquerade {
            check_own_ports(ports)?;
        }
        let id = DataPathId::new(&config.bpffs_root);
        let injection = veth::injection_pair(&netlink, id).await?;
        let headroom = headroom::prepare(&netlink, id).await;
        let Uplink { interface, address, .. } = &uplink;
        info!(net.ifname = interface.name, %address, mtu = interface.mtu, "uplink");
        Ok(Self {
            netlink,
            id,
            injection,
            headroom,
            lock,
            watcher,
            uplink,
            tunnel_port: config.tunnel_port,
            uplink_xdp: config.uplink_xdp,
            masquerade: config.masquerade,
            service_net: config.service_net,
        })
    }

    /// Where peers reach this node.
    pub(super) fn endpoint(&self) -> TunnelEndpoint {
        TunnelEndpoint { host_ip: self.uplink.address, host_port: self.tunnel_port }
    }

    /// How instances are connected.
    pub(super) fn wiring(&self) -> Wiring {
        Wiring { mtu: self.uplink.instance_mtu(), headroom: self.headroom }
    }

    /// Where ports are published.
    pub(super) fn ports(&self) -> Ports {
        Ports::new(addresses(&self.uplink), self.tunnel_port)
    }

    /// What the programs must know; `published` ports are there already.
    pub(super) fn config(&self, published: usize) -> NodeConfig {
        let word = |ip: Ipv4Addr| u32::from_ne_bytes(ip.octets());
        let own = NodeConfig {
            tunnel_port: self.tunnel_port.to_be(),
            service_net_v4: word(self.service_net.network()),
            service_mask_v4: word(self.service_net.netmask()),
            service_net_v6: u32::from_ne_bytes(SERVICE_NET_V6),
            service_mask_v6: u32::from_ne_bytes(SERVICE_MASK_V6),
            features: kernel::features::supported(),
            namespace_net_v4: u32::from_ne_bytes(NAMESPACE_NET_V4),
            namespace_mask_v4: u32::from_ne_bytes(NAMESPACE_MASK_V4),
            masquerade_first: self.masquerade.map_or(0, |ports| ports.first()),
            masquerade_count: self.masquerade.map_or(0, |ports| ports.count()),
            published_count: published as u32,
            ..NodeConfig::default()
        };
        configured(&self.uplink, own)
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
        let of_uplink = plumbing::attach_uplink(data_path, &self.uplink, self.uplink_xdp)?;
        data_path.attach(Program::FromParked, &self.injection.1.name, PARKED_LINK)?;
        let mut wanted = HashSet::from([PARKED_LINK.to_owned()]);
        wanted.extend(of_uplink);

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

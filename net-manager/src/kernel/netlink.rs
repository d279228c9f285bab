//! Interfaces, addresses and routes of one network namespace.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use futures::TryStreamExt;
use netlink_packet_route::{
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage, State},
    route::{RouteAttribute, RouteFlags},
};
use nix::errno::Errno;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder,
};
use tokio::{task::AbortHandle, time::Instant};

/// How long an interface may take from up to operational, which takes a millisecond or two.
const CARRIER_PATIENCE: Duration = Duration::from_secs(5);
const CARRIER_POLL: Duration = Duration::from_millis(1);

/// RFC 7348, 8.
const VXLAN_PORT: u16 = 4789;

/// A hardware address.
pub type Mac = [u8; 6];

/// A request that the kernel refused.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    #[error("cannot {doing}")]
    Refused {
        doing: String,
        #[source]
        source: rtnetlink::Error,
    },
    #[error("there is no interface {ifname}")]
    NoSuchInterface { ifname: String },
    #[error("the interface {ifname} does not come up")]
    StaysDown { ifname: String },
}

impl NetlinkError {
    /// The kernel's reason, if it gave one.
    pub fn errno(&self) -> Option<Errno> {
        let Self::Refused { source: rtnetlink::Error::NetlinkError(message), .. } = self else {
            return None;
        };
        message.code.map(|code| Errno::from_raw(-code.get()))
    }
}

/// What is being done when the interfaces are read.
pub(super) const LIST_LINKS: &str = "list the interfaces";

pub(super) fn refused(doing: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError::Refused { doing: doing.into(), source }
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub mac: Mac,
    pub mtu: u32,
    /// Device group: 0 unless somebody set it.
    pub group: u32,
    pub alias: Option<String>,
    /// Of a veth, the index of its other end.
    pub peer: Option<u32>,
    pub is_veth: bool,
    /// Of a virtual interface, its kind as the kernel names it.
    pub kind: Option<String>,
    /// Whether it takes packets; `up` alone does not say so.
    pub is_operational: bool,
}

impl From<&LinkMessage> for Link {
    fn from(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: Mac::default(),
            mtu: 0,
            group: 0,
            alias: None,
            peer: None,
            is_veth: false,
            kind: None,
            is_operational: false,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => {
                    link.mac = mac.as_slice().try_into().unwrap_or_default();
                }
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Group(group) => link.group = *group,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias.clone()),
                LinkAttribute::OperState(state) => link.is_operational = *state == State::Up,
                LinkAttribute::Link(peer) => link.peer = Some(*peer),
                LinkAttribute::LinkInfo(infos) => {
                    let kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind),
                        _ => None,
                    });
                    link.is_veth = kind == Some(&InfoKind::Veth);
                    link.kind = kind.map(ToString::to_string);
                }
                _ => {}
            }
        }
        link
    }
}

/// One end of a veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct VethEnd<'a> {
    pub name: &'a str,
    /// Given, so that no other program of the machine sets another later.
    pub mac: Mac,
    /// Where to make it; here, without one.
    pub namespace: Option<BorrowedFd<'a>>,
}

/// A netlink connection into the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    handle: Handle,
    connection: AbortHandle,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    /// Opens a connection, served by the current runtime.
    ///
    /// # Errors
    /// There is no socket to be had.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Socket)?;
        let connection = tokio::spawn(connection).abort_handle();
        Ok(Self { handle, connection })
    }

    /// Every interface.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn links(&self) -> Result<Vec<Link>, NetlinkError> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(refused(LIST_LINKS))?;
        Ok(messages.iter().map(Link::from).collect())
    }

    /// The interface of this name, if there is one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn find(&self, ifname: &str) -> Result<Option<Link>, NetlinkError> {
        let mut found = self.handle.link().get().match_name(ifname.to_owned()).execute();
        match found.try_next().await {
            Ok(message) => Ok(message.as_ref().map(Link::from)),
            Err(source) => {
                let error = refused(format!("look at the interface {ifname}"))(source);
                if error.errno() == Some(Errno::ENODEV) { Ok(None) } else { Err(error) }
            }
        }
    }

    /// The interface of this name.
    ///
    /// # Errors
    /// There is none, or the kernel refuses.
    pub async fn get(&self, ifname: &str) -> Result<Link, NetlinkError> {
        let missing = || NetlinkError::NoSuchInterface { ifname: ifname.to_owned() };
        self.find(ifname).await?.ok_or_else(missing)
    }

    /// Makes a veth pair, both ends down. `group` marks the first end from its first moment on.
    ///
    /// # Errors
    /// A name is taken, or the kernel refuses.
    pub async fn add_veth(
        &self,
        near: &VethEnd<'_>,
        far: &VethEnd<'_>,
        mtu: u32,
        group: u32,
    ) -> Result<(), NetlinkError> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(far.name)
            .address(far.mac.to_vec())
            .mtu(mtu);
        if let Some(namespace) = far.namespace {
            peer = peer.setns_by_fd(namespace.as_raw_fd());
        }
        let pair = LinkMessageBuilder::<LinkVeth>::new(near.name, far.name)
            .address(near.mac.to_vec())
            .mtu(mtu)
            .link_group(group)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        let doing = format!("make the veth pair {} – {}", near.name, far.name);
        self.handle.link().add(pair.build()).execute().await.map_err(refused(doing))
    }

    /// Makes a bridge, which is down.
    ///
    /// # Errors
    /// The name is taken, or the kernel refuses.
    pub async fn add_bridge(&self, name: &str, group: u32) -> Result<(), NetlinkError> {
        let bridge = LinkMessageBuilder::<LinkBridge>::new(name).link_group(group);
        let made = self.handle.link().add(bridge.build()).execute().await;
        made.map_err(refused(format!("make the bridge {name}")))
    }

    /// Makes a VXLAN interface, which is down.
    ///
    /// # Errors
    /// The name or the network's number is taken, or the kernel refuses.
    pub async fn add_vxlan(&self, name: &str, vni: u32, group: u32) -> Result<(), NetlinkError> {
        let vxlan = LinkVxlan::new(name, vni).port(VXLAN_PORT).link_group(group);
        let made = self.handle.link().add(vxlan.build()).execute().await;
        made.map_err(refused(format!("make the VXLAN interface {name}")))
    }

    /// Makes an interface a port of a bridge; one that is that already stays it.
    ///
    /// # Errors
    /// It is gone, or the kernel refuses.
    pub async fn enslave(&self, index: u32, bridge: u32) -> Result<(), NetlinkError> {
        let change = LinkUnspec::new_with_index(index).controller(bridge).build();
        self.change(change, "give a bridge", index).await
    }

    /// Sets an interface's alias.
    ///
    /// # Errors
    /// It is gone, or the kernel refuses.
    pub async fn set_alias(&self, index: u32, alias: &str) -> Result<(), NetlinkError> {
        let change = LinkUnspec::new_with_index(index).alias(alias).build();
        self.change(change, "set the alias of", index).await
    }

    /// Sets the largest packet that an interface sends.
    ///
    /// # Errors
    /// It is gone, or does not take that size.
    pub async fn set_mtu(&self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let change = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.change(change, "set the MTU of", index).await
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// It is gone, or the kernel refuses.
    pub async fn set_up(&self, index: u32) -> Result<(), NetlinkError> {
        self.change(LinkUnspec::new_with_index(index).up().build(), "set up", index).await
    }

    /// Waits until an interface, whose other end is up as well, takes packets: the kernel makes
    /// it so a moment after the carrier is there, and drops until then what is sent.
    ///
    /// # Errors
    /// That does not happen, or the kernel refuses.
    pub async fn wait_operational(&self, ifname: &str) -> Result<Link, NetlinkError> {
        let started = Instant::now();
        loop {
            let link = self.get(ifname).await?;
            if link.is_operational {
                return Ok(link);
            }
            if started.elapsed() > CARRIER_PATIENCE {
                return Err(NetlinkError::StaysDown { ifname: ifname.to_owned() });
            }
            tokio::time::sleep(CARRIER_POLL).await;
        }
    }

    async fn change(
        &self,
        message: LinkMessage,
        doing: &str,
        index: u32,
    ) -> Result<(), NetlinkError> {
        let doing = format!("{doing} interface {index}");
        self.handle.link().change(message).execute().await.map_err(refused(doing))
    }

    /// Removes an interface, and of a veth pair the other end with it; done if it is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove(&self, index: u32) -> Result<(), NetlinkError> {
        let removed = self.handle.link().del(index).execute().await;
        match removed.map_err(refused(format!("remove interface {index}"))) {
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Gives an interface an address.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn add_address(
        &self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), NetlinkError> {
        let added = self.handle.address().add(index, address, prefix).replace().execute().await;
        added.map_err(refused(format!("give interface {index} the address {address}/{prefix}")))
    }

    /// A neighbour whose hardware address is never asked for.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn add_neighbour(
        &self,
        index: u32,
        address: IpAddr,
        mac: Mac,
    ) -> Result<(), NetlinkError> {
        let neighbours = self.handle.neighbours();
        let added = neighbours.add(index, address).link_layer_address(&mac).replace();
        added.execute().await.map_err(refused(format!("make {address} a neighbour")))
    }

    /// A default route of the gateway's family, through a gateway that is no address of the link.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn add_default_route(&self, index: u32, gateway: IpAddr) -> Result<(), NetlinkError> {
        let mut route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build(),
        };
        route.attributes.push(RouteAttribute::Oif(index));
        route.header.flags |= RouteFlags::Onlink;
        let added = self.handle.route().add(route).replace().execute().await;
        added.map_err(refused(format!("route everything through {gateway}")))
    }
}

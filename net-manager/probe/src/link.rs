//! An interface of the network namespace that this runs in.

use std::{io, thread};

use futures::TryStreamExt;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec};

use crate::{Support, XdpFeatures, driver, netdev};

/// Where an XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's stack, for any interface.
    Generic,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Bytes.
    pub mtu: u32,
    pub is_up: bool,
    /// Index of the interface that it is a port of.
    pub controller: Option<u32>,
    /// Of a virtual interface, its kind as the kernel names it; a network card has none.
    pub kind: Option<String>,
    /// As `ethtool -i` says; absent if the driver does not say.
    pub driver: Option<String>,
    /// Whether an XDP program is attached, of whomever.
    pub xdp: Option<XdpMode>,
    /// What its driver does with XDP programs; why that is not known otherwise.
    pub xdp_features: Result<XdpFeatures, String>,
}

/// Why an interface cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot ask the kernel about interfaces")]
    Netlink(#[source] io::Error),
    #[error("no interface with the index {index} in this network namespace")]
    NotThere {
        index: u32,
        #[source]
        source: rtnetlink::Error,
    },
}

impl Link {
    /// The interface with this index. Blocks.
    ///
    /// # Errors
    /// There is none.
    pub fn probe(index: u32) -> Result<Self, LinkError> {
        let message = with_netlink(async |netlink| {
            let mut links = netlink.link().get().match_index(index).execute();
            links.try_next().await
        })
        .map_err(LinkError::Netlink)?;
        let message = message.map_err(|source| LinkError::NotThere { index, source })?;
        let message = message
            .ok_or(LinkError::NotThere { index, source: rtnetlink::Error::RequestFailed })?;
        Ok(Self::of(index, &message))
    }

    fn of(index: u32, message: &LinkMessage) -> Self {
        use netlink_packet_route::link::LinkFlags;
        let mut link = Self {
            index,
            name: String::new(),
            mtu: 0,
            is_up: message.header.flags.contains(LinkFlags::Up),
            controller: None,
            kind: None,
            driver: None,
            xdp: None,
            xdp_features: netdev::xdp_features(index).map_err(|errno| match errno {
                Errno::ENOENT => "this kernel does not say (before 6.3)".to_owned(),
                other => other.desc().to_owned(),
            }),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Controller(index) => link.controller = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                }
                LinkAttribute::Xdp(facts) => {
                    link.xdp = facts.iter().find_map(|fact| match fact {
                        LinkXdp::Attached(XdpAttached::Driver | XdpAttached::Hardware) => {
                            Some(XdpMode::Native)
                        }
                        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link.driver = driver::name(&link.name).ok().filter(|name| !name.is_empty());
        link
    }
}

/// Whether the kernel can make interfaces of a kind: tried in a network namespace of its own, which
/// ends with the thread.
pub(crate) fn can_make(kind: &str) -> Support {
    let kind = InfoKind::from(kind);
    let tried = thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)?;
                with_netlink(async |netlink| {
                    let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(kind)
                        .name("xyprobe".to_owned())
                        .build();
                    netlink.link().add(message).execute().await
                })
            })
            .join()
    });
    match tried {
        Ok(Ok(Ok(()))) => Support::Yes,
        Ok(Ok(Err(rtnetlink::Error::NetlinkError(error)))) => {
            let errno = Errno::from_raw(-error.raw_code());
            match errno {
                Errno::EOPNOTSUPP => Support::No,
                // The kind is known, and wants to be told more.
                Errno::EINVAL => Support::Yes,
                error => Support::Unknown(error.to_string()),
            }
        }
        Ok(Ok(Err(error))) => Support::Unknown(error.to_string()),
        Ok(Err(error)) => Support::Unknown(error.to_string()),
        Err(_) => Support::Unknown("the trial ended early".to_owned()),
    }
}

/// Runs `work` with a netlink socket of the calling thread's network namespace.
fn with_netlink<T>(work: impl AsyncFnOnce(Handle) -> T) -> io::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let connection = tokio::spawn(connection);
        let result = work(handle).await;
        connection.abort();
        Ok(result)
    })
}

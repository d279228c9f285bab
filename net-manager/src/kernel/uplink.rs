//! Watches what this node is on the underlay: interfaces, addresses and default routes, told by
//! netlink when they change and then read as a whole.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, channel::mpsc::UnboundedReceiver};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    link::LinkAttribute,
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use rtnetlink::{
    Handle, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    sys::SocketAddr,
};
use tokio::{sync::watch, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, warn};

use super::netlink::{self, Link, NetlinkError, refused};
use crate::{
    chain::Chain,
    core::uplink::{self, Interface, NoUplink, Seen, Uplink, Wanted},
};

/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(5);
/// After which the kernel is listened to again when it has refused.
const RETRY: Duration = Duration::from_secs(1);

type Changes = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Hears of changes from the moment it is opened.
#[derive(Debug)]
pub struct Watcher {
    wanted: Wanted,
    /// Interfaces that are the uplink, or may become it when they change.
    candidates: Vec<u32>,
    handle: Handle,
    changes: Changes,
    _connection: AbortOnDropHandle<()>,
}

impl Watcher {
    /// Opens a netlink socket in the namespace of this thread, served by the current runtime.
    ///
    /// # Errors
    /// There is none to be had.
    pub fn open(wanted: Wanted) -> Result<Self, NetlinkError> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, changes) =
            rtnetlink::new_multicast_connection(&groups).map_err(NetlinkError::Socket)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok(Self { wanted, candidates: Vec::new(), handle, changes, _connection: connection })
    }

    /// What the uplink is now.
    ///
    /// # Errors
    /// The kernel refuses to tell, or no interface can be the uplink.
    pub async fn look(
        &mut self,
        before: Option<&Uplink>,
    ) -> Result<Result<Uplink, NoUplink>, NetlinkError> {
        let seen = self.see().await?;
        let chosen = uplink::choose(&self.wanted, before, &seen);
        self.candidates = match &self.wanted.interface {
            Some(ifname) => {
                let named = seen.interfaces.into_iter().find(|own| own.name == *ifname);
                named.map(|own| own.index).into_iter().collect()
            }
            None => seen.default_routes,
        };
        let uplinks = [before, chosen.as_ref().ok()];
        self.candidates.extend(uplinks.into_iter().flatten().map(|uplink| uplink.interface.index));
        Ok(chosen)
    }

    /// Tells the uplink whenever it has changed, until nobody listens any more. While nothing can
    /// be the uplink, it is what it was.
    pub async fn run(mut self, told: watch::Sender<Uplink>) {
        let mut said = None;
        while !told.is_closed() {
            // Looked at first: it may have changed before anybody listened.
            let before = told.borrow().clone();
            match self.look(Some(&before)).await {
                Ok(Ok(now)) => {
                    said = None;
                    told.send_if_modified(|told| std::mem::replace(told, now.clone()) != now);
                }
                Ok(Err(none)) => {
                    if said.as_ref() != Some(&none) {
                        warn!(error = %none, "the uplink stays what it was");
                    }
                    said = Some(none);
                }
                Err(error) => {
                    error!(error = %Chain(&error), "cannot look at the uplink, will retry");
                    sleep(RETRY).await;
                    continue;
                }
            }
            tokio::select! {
                is_heard = self.concerned() => {
                    if is_heard {
                        // A burst is one change; what comes meanwhile is seen as well.
                        sleep(SETTLE).await;
                        while self.changes.try_recv().is_ok() {}
                    } else {
                        self.listen_again().await;
                    }
                }
                () = told.closed() => return,
            }
        }
    }

    /// Waits for a change that can make another uplink; false if no more will be heard here.
    async fn concerned(&mut self) -> bool {
        while let Some((change, _)) = self.changes.next().await {
            if concerns(&change.payload, &self.wanted, &self.candidates) {
                return true;
            }
        }
        false
    }

    async fn listen_again(&mut self) {
        warn!("the kernel tells no changes of the network any more, listening again");
        loop {
            match Self::open(self.wanted.clone()) {
                Ok(again) => {
                    *self = again;
                    return;
                }
                Err(error) => {
                    error!(error = %Chain(&error), "changes of the uplink go unseen, will retry");
                    sleep(RETRY).await;
                }
            }
        }
    }

    async fn see(&self) -> Result<Seen, NetlinkError> {
        let mut seen = Seen::default();
        let mut links = self.handle.link().get().execute();
        while let Some(message) = links.try_next().await.map_err(refused(netlink::LIST_LINKS))? {
            let Link { index, name, mtu, kind, .. } = Link::from(&message);
            seen.interfaces.push(Interface { index, name, mtu, kind });
        }
        let mut addresses = self.handle.address().get().execute();
        while let Some(message) =
            addresses.try_next().await.map_err(refused("list the addresses"))?
        {
            match address(&message) {
                Some(IpAddr::V4(v4)) => seen.v4.push((message.header.index, v4)),
                Some(IpAddr::V6(v6)) => seen.v6.push((message.header.index, v6)),
                None => {}
            }
        }
        // A node without a way to the IPv4 world may have one to the other.
        seen.default_routes =
            self.default_routes(RouteMessageBuilder::<Ipv4Addr>::new().build()).await?;
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        seen.default_routes.extend(self.default_routes(v6).await?);
        Ok(seen)
    }

    /// The interfaces of the default routes of one family, the lowest metric first.
    async fn default_routes(&self, family: RouteMessage) -> Result<Vec<u32>, NetlinkError> {
        let mut routes = Vec::new();
        let mut messages = self.handle.route().get(family).execute();
        while let Some(message) = messages.try_next().await.map_err(refused("list the routes"))? {
            routes.extend(default_route(&message));
        }
        routes.sort_by_key(|(metric, _)| *metric);
        Ok(routes.into_iter().map(|(_, index)| index).collect())
    }
}

/// Whether another uplink can follow from a change. What was lost may have been anything.
fn concerns(
    change: &NetlinkPayload<RouteNetlinkMessage>,
    wanted: &Wanted,
    candidates: &[u32],
) -> bool {
    let NetlinkPayload::InnerMessage(message) = change else { return true };
    match message {
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            candidates.contains(&link.header.index)
                || link.attributes.iter().any(|attribute| {
                    matches!(attribute, LinkAttribute::IfName(ifname)
                        if wanted.interface.as_ref() == Some(ifname))
                })
        }
        RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address) => {
            candidates.contains(&address.header.index)
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            wanted.interface.is_none() && default_route(route).is_some()
        }
        _ => false,
    }
}

/// An address by which hosts elsewhere can answer: of IPv6, of global scope, and neither
/// tentative, about to end nor made to be thrown away; of IPv4, not one that the node has only
/// because nobody gave it any (RFC 3927).
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let header = &message.header;
    match header.family {
        AddressFamily::Inet => message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(v4)) if !v4.is_link_local() => Some((*v4).into()),
            _ => None,
        }),
        AddressFamily::Inet6 => {
            let unfit = AddressHeaderFlags::Tentative
                | AddressHeaderFlags::Dadfailed
                | AddressHeaderFlags::Deprecated
                | AddressHeaderFlags::Secondary;
            if header.scope != AddressScope::Universe || header.flags.intersects(unfit) {
                return None;
            }
            message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(IpAddr::V6(v6)) => Some((*v6).into()),
                _ => None,
            })
        }
        _ => None,
    }
}

/// Metric and interface of a default route of the main table; of one with several ways, the first.
fn default_route(route: &RouteMessage) -> Option<(u32, u32)> {
    let header = &route.header;
    if header.destination_prefix_length != 0
        || header.kind != RouteType::Unicast
        || header.table != RouteHeader::RT_TABLE_MAIN
    {
        return None;
    }
    let metric = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    });
    let interface = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        RouteAttribute::MultiPath(ways) => ways.first().map(|way| way.interface_index),
        _ => None,
    });
    Some((metric.unwrap_or(0), interface?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_those_of_the_main_table_that_lead_somewhere() {
        let mut route = RouteMessageBuilder::<Ipv4Addr>::new().build();
        assert_eq!(default_route(&route), None, "no interface");
        route.attributes.push(RouteAttribute::Oif(4));
        assert_eq!(default_route(&route), Some((0, 4)));
        route.attributes.push(RouteAttribute::Priority(100));
        assert_eq!(default_route(&route), Some((100, 4)));
        let mut other = route.clone();
        other.header.kind = RouteType::BlackHole;
        assert_eq!(default_route(&other), None);
        let mut other = route.clone();
        other.header.table = 7;
        assert_eq!(default_route(&other), None);
        route.header.destination_prefix_length = 8;
        assert_eq!(default_route(&route), None);
    }

    #[test]
    fn only_addresses_that_can_be_answered_count() {
        let message = |text: &str, scope, flags| {
            let ip: IpAddr = text.parse().unwrap();
            let mut message = AddressMessage::default();
            message.header.family =
                if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            message.header.scope = scope;
            message.header.flags = flags;
            let attributes = [AddressAttribute::Address(ip), AddressAttribute::Local(ip)];
            message.attributes.extend(attributes.into_iter().take(1 + usize::from(ip.is_ipv4())));
            address(&message)
        };
        let (global, none) = (AddressScope::Universe, AddressHeaderFlags::empty());
        assert_eq!(message("192.0.2.1", global, none), Some(IpAddr::from([192, 0, 2, 1])));
        assert_eq!(message("169.254.7.1", AddressScope::Link, none), None);
        assert!(message("2001:db8::1", global, none).is_some());
        assert_eq!(message("fe80::1", AddressScope::Link, none), None);
        assert_eq!(message("2001:db8::1", global, AddressHeaderFlags::Tentative), None);
        assert_eq!(message("2001:db8::1", global, AddressHeaderFlags::Secondary), None);
    }
}

//! Which frames lead to other nodes, so that the programs need not ask the kernel for each packet:
//! the route to each node, the neighbour on it, and that neighbour's hardware address.
//!
//! What is told holds for [`VALID`]. It is told again before that is over, and at once when a
//! route, a neighbour or an interface changes; if this process dies it runs out by itself.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::LinkAttribute,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use rtnetlink::{Error, Handle, MulticastGroup, RouteMessageBuilder, packet_core::NetlinkPayload};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::{
    clock,
    netlink::{Mac, NetlinkError},
    prober::Assignment,
};
use crate::core::translation::Macs;

/// How long what is told holds.
const VALID: Duration = Duration::from_secs(3);
/// How often it is told again.
const REFRESH: Duration = Duration::from_secs(1);
/// Changes that come together are looked at together.
const SETTLE: Duration = Duration::from_millis(5);

/// Frames by underlay address, and until when they hold (`CLOCK_MONOTONIC`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NextHops {
    /// Interface of the uplink by which they leave.
    pub uplink: u32,
    pub frames: BTreeMap<IpAddr, Macs>,
    pub until: Duration,
}

/// Tells the next hops of the nodes of interest until nobody listens any more.
///
/// # Errors
/// There is no netlink socket to be had.
pub async fn run(
    mut assignments: watch::Receiver<Assignment>,
    told: watch::Sender<NextHops>,
) -> Result<(), NetlinkError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut changes) =
        rtnetlink::new_multicast_connection(&groups).map_err(NetlinkError::Socket)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let uplink = assignments.borrow().uplink;
    let mut finder = Finder { handle, uplink, routes: HashMap::new() };
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said = false;
    loop {
        tokio::select! {
            _ = refresh.tick() => {}
            changed = assignments.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
            }
            change = changes.next() => {
                let Some((change, _)) = change else { return Ok(()) };
                if !concerns(&change.payload, finder.uplink) {
                    continue;
                }
                // A burst is one change; what comes meanwhile is seen as well.
                sleep(SETTLE).await;
                while changes.try_recv().is_ok() {}
                finder.routes.clear();
            }
            () = told.closed() => return Ok(()),
        }
        let (uplink, nodes) = {
            let assignment = assignments.borrow_and_update();
            let nodes = assignment.targets.values().map(|target| target.addr.addr.to_ip());
            (assignment.uplink, nodes.collect::<BTreeSet<IpAddr>>())
        };
        finder.set_uplink(uplink);
        let frames = match finder.frames(&nodes).await {
            Ok(frames) => frames,
            Err(error) => {
                if !said {
                    warn!(%error, "the next hops of other nodes are looked up for each packet");
                    said = true;
                }
                BTreeMap::new()
            }
        };
        told.send_replace(NextHops { uplink, frames, until: clock::now() + VALID });
    }
}

/// Whether a change of the kernel's tables can change a way that leaves by the uplink.
fn concerns(change: &NetlinkPayload<RouteNetlinkMessage>, uplink: u32) -> bool {
    let NetlinkPayload::InnerMessage(message) = change else { return false };
    match message {
        RouteNetlinkMessage::NewNeighbour(neighbour)
        | RouteNetlinkMessage::DelNeighbour(neighbour) => neighbour.header.ifindex == uplink,
        RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
            link.header.index == uplink
        }
        RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => true,
        _ => false,
    }
}

struct Finder {
    handle: Handle,
    uplink: u32,
    /// The neighbour that packets to a node go to, looked up once until something changes.
    routes: HashMap<IpAddr, Option<IpAddr>>,
}

impl Finder {
    fn set_uplink(&mut self, uplink: u32) {
        if self.uplink != uplink {
            self.uplink = uplink;
            self.routes.clear();
        }
    }

    async fn frames(&mut self, nodes: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, Macs>, Error> {
        self.routes.retain(|node, _| nodes.contains(node));
        if nodes.is_empty() {
            return Ok(BTreeMap::new());
        }
        let Some(source) = self.uplink_mac().await? else { return Ok(BTreeMap::new()) };
        let neighbours = self.neighbours().await?;
        let mut frames = BTreeMap::new();
        for node in nodes {
            let via = match self.routes.get(node) {
                Some(via) => *via,
                None => {
                    let via = self.neighbour_towards(*node).await;
                    self.routes.insert(*node, via);
                    via
                }
            };
            if let Some(destination) = via.and_then(|via| neighbours.get(&via)) {
                frames.insert(*node, macs(*destination, source));
            }
        }
        Ok(frames)
    }

    /// The uplink's own hardware address, if it has one and is up.
    async fn uplink_mac(&self) -> Result<Option<Mac>, Error> {
        let mut links = self.handle.link().get().match_index(self.uplink).execute();
        let Some(link) = links.try_next().await? else { return Ok(None) };
        Ok(link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(mac) => usable(mac),
            _ => None,
        }))
    }

    /// The hardware addresses of the uplink's neighbours that are known now.
    async fn neighbours(&self) -> Result<HashMap<IpAddr, Mac>, Error> {
        let mut messages = self.handle.neighbours().get().execute();
        let mut neighbours = HashMap::new();
        while let Some(message) = messages.try_next().await? {
            if message.header.ifindex == self.uplink {
                neighbours.extend(neighbour(&message));
            }
        }
        Ok(neighbours)
    }

    /// To whom the kernel sends packets for this address: the gateway, or itself on the link.
    /// `None` if they do not leave by the uplink.
    async fn neighbour_towards(&self, address: IpAddr) -> Option<IpAddr> {
        let wanted = match address {
            IpAddr::V4(v4) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(v4, 32).build()
            }
            IpAddr::V6(v6) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(v6, 128).build()
            }
        };
        let mut routes = Box::pin(self.handle.route().get(wanted).execute());
        match routes.try_next().await {
            Ok(route) => next_hop(&route?, self.uplink, address),
            Err(error) => {
                debug!(%address, %error, "no route to a node");
                None
            }
        }
    }
}

fn next_hop(route: &RouteMessage, uplink: u32, address: IpAddr) -> Option<IpAddr> {
    let leaves_by_uplink = route
        .attributes
        .iter()
        .any(|a| matches!(a, RouteAttribute::Oif(index) if *index == uplink));
    if !leaves_by_uplink || route.header.kind != RouteType::Unicast {
        return None;
    }
    let mut via = Some(address);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) if address.is_ipv4() => {
                via = Some((*gateway).into());
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) if address.is_ipv6() => {
                via = Some((*gateway).into());
            }
            // A gateway of the other family, an encapsulation, several ways: the kernel knows.
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::EncapType(_)
            | RouteAttribute::MultiPath(_) => return None,
            _ => {}
        }
    }
    via
}

fn neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Mac)> {
    let is_usable = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    if !is_usable {
        return None;
    }
    let (mut address, mut hardware) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(IpAddr::V4(*ip));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(IpAddr::V6(*ip));
            }
            NeighbourAttribute::LinkLayerAddress(mac) => hardware = usable(mac),
            _ => {}
        }
    }
    Some((address?, hardware?))
}

/// An Ethernet address; all zeros are none.
fn usable(mac: &[u8]) -> Option<Mac> {
    Mac::try_from(mac).ok().filter(|mac| *mac != Mac::default())
}

/// The first 12 bytes of a frame, in words as they stand in memory.
fn macs(destination: Mac, source: Mac) -> Macs {
    let [a, b, c, d, e, f] = destination;
    let [g, h, i, j, k, l] = source;
    [[a, b], [c, d], [e, f], [g, h], [i, j], [k, l]].map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPLINK: u32 = 4;
    const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    const NODE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
    const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xfe);

    #[test]
    fn the_neighbour_is_the_gateway_or_the_node_itself() {
        let gateways = [
            RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY)),
            RouteAttribute::Gateway(RouteAddress::Inet6(GATEWAY_V6)),
        ];
        for (node, other, gateway) in
            [(NODE, NODE_V6, GATEWAY.into()), (NODE_V6, NODE, IpAddr::from(GATEWAY_V6))]
        {
            let mut route = RouteMessage::default();
            route.header.kind = RouteType::Unicast;
            assert_eq!(next_hop(&route, UPLINK, node), None, "no interface");
            route.attributes.push(RouteAttribute::Oif(UPLINK));
            assert_eq!(next_hop(&route, UPLINK, node), Some(node));
            assert_eq!(next_hop(&route, UPLINK + 1, node), None);
            route.attributes.push(gateways[usize::from(node.is_ipv6())].clone());
            assert_eq!(next_hop(&route, UPLINK, node), Some(gateway));
            assert_eq!(next_hop(&route, UPLINK, other), None, "of the other family");
            route.header.kind = RouteType::Local;
            assert_eq!(next_hop(&route, UPLINK, node), None);
        }
    }

    #[test]
    fn a_neighbour_counts_while_its_address_is_known() {
        for node in [NODE, NODE_V6] {
            let mut message = NeighbourMessage::default();
            message.header.state = NeighbourState::Stale;
            let address = match node {
                IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
                IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
            };
            message.attributes.push(NeighbourAttribute::Destination(address));
            assert_eq!(neighbour(&message), None);
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 7]));
            assert_eq!(neighbour(&message), Some((node, [2, 0, 0, 0, 0, 7])));
            for state in [NeighbourState::Failed, NeighbourState::Incomplete, NeighbourState::Noarp]
            {
                message.header.state = state;
                assert_eq!(neighbour(&message), None, "{state:?}");
            }
        }
    }

    #[test]
    fn macs_stand_as_in_a_frame() {
        let words = macs([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12]);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(bytes, (1..=12).collect::<Vec<u8>>());
    }
}

//! How large the packets are that the tunnels to other nodes carry.
//!
//! Most paths carry whatever an instance sends, and then nobody looks at the size of a packet. A
//! node has a limit of its own where a router said so, where the outer headers are larger than
//! those of most nodes, and while interfaces of instances are larger than they should be.

use std::{collections::BTreeMap, time::Duration};

use net_common::{Addr, Node};

use super::{Translation, nodes::peer_addr};
use crate::core::{
    tables::{NodeId, PeerAddr},
    uplink::tunnel_overhead,
};

/// How long what a router said of a path's MTU holds (RFC 1191, 6.3).
const PATH_MTU_AGE: Duration = Duration::from_secs(600);
/// The least MTU that is believed of a path: every IPv4 host takes packets of this size (RFC 791),
/// and every IPv6 link carries packets of that one (RFC 8200, 5).
const LEAST_PATH_MTU: u32 = 576;
const LEAST_PATH_MTU_V6: u32 = 1280;

/// What this node itself puts on its uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes of the largest packet on the uplink; 0 = not known yet.
    pub uplink_mtu: u32,
    /// Bytes of the largest packet that an instance should send.
    pub instance_mtu: u32,
    /// Some instance may send larger ones, so each packet is looked at.
    pub is_enforced: bool,
}

impl Carried {
    /// What [`Node::mtu`] is for a node at this address as long as no router says less.
    fn limit(&self, addr: &Addr) -> u32 {
        let inside = self.uplink_mtu.saturating_sub(tunnel_overhead(addr));
        let is_limited = self.is_enforced || inside < self.instance_mtu;
        if self.uplink_mtu != 0 && is_limited { inside } else { 0 }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Mtus {
    carried: Carried,
    /// When a path's MTU was learned.
    learned: BTreeMap<NodeId, Duration>,
}

impl Mtus {
    pub(super) fn limit(&self, addr: &Addr) -> u32 {
        self.carried.limit(addr)
    }

    /// The path to this node is another one, or of no interest.
    pub(super) fn forget(&mut self, id: NodeId) {
        self.learned.remove(&id);
    }
}

impl Translation {
    /// The uplink, or what instances may send, is different now. What routers said of paths by
    /// another uplink holds no more.
    pub fn set_carried(&mut self, carried: Carried) {
        let before = std::mem::replace(&mut self.mtus.carried, carried);
        if before == carried {
            return;
        }
        let is_other_path = before.uplink_mtu != 0 && before.uplink_mtu != carried.uplink_mtu;
        let nodes: Vec<(NodeId, Node)> =
            self.desired.nodes.iter().filter(|(id, _)| *id != 0).map(|(id, n)| (id, *n)).collect();
        for (id, node) in nodes {
            let (was, limit) = (before.limit(&node.addr), carried.limit(&node.addr));
            let is_learned = node.mtu != was && !is_other_path;
            let mtu = if is_learned { smaller(node.mtu, limit) } else { limit };
            if !is_learned {
                self.mtus.forget(id);
            }
            self.desired.nodes.set(id, Node { mtu, ..node });
        }
    }

    /// The paths by the uplink are others: what routers said of them holds no more.
    pub fn forget_paths(&mut self) {
        let learned = std::mem::take(&mut self.mtus.learned);
        for id in learned.into_keys() {
            if let Some(node) = self.desired.nodes.get(id).copied() {
                let mtu = self.mtus.limit(&node.addr);
                self.desired.nodes.set(id, Node { mtu, ..node });
            }
        }
    }

    /// A router says that the path to a node carries packets of `bytes` bytes, outer headers
    /// included; the MTU inside the tunnel, if that is news.
    pub fn set_path_mtu(
        &mut self,
        id: NodeId,
        from: PeerAddr,
        bytes: u32,
        now: Duration,
    ) -> Option<u32> {
        let node = self.desired.nodes.get(id).copied()?;
        let least = if node.addr.is_v4() { LEAST_PATH_MTU } else { LEAST_PATH_MTU_V6 };
        let overhead = tunnel_overhead(&node.addr);
        if id == 0
            || peer_addr(&node) != from
            || !(least..self.mtus.carried.uplink_mtu).contains(&bytes)
            || (node.mtu != 0 && bytes - overhead > node.mtu)
        {
            return None;
        }
        let mtu = bytes - overhead;
        self.mtus.learned.insert(id, now);
        self.desired.nodes.set(id, Node { mtu, ..node });
        (node.mtu != mtu).then_some(mtu)
    }

    /// Paths may carry more again. What a net manager before has learned counts as learned now.
    pub fn forget_path_mtus(&mut self, now: Duration) {
        let mtus = &self.mtus;
        let is_learned = |(_, node): &(NodeId, &Node)| node.mtu != mtus.limit(&node.addr);
        let limited = self.desired.nodes.iter().filter(|(id, _)| *id != 0).filter(is_learned);
        let limited: Vec<(NodeId, Node)> = limited.map(|(id, node)| (id, *node)).collect();
        self.mtus.learned.retain(|id, _| limited.iter().any(|(other, _)| other == id));
        for (id, node) in limited {
            let since = *self.mtus.learned.entry(id).or_insert(now);
            if now.saturating_sub(since) >= PATH_MTU_AGE {
                self.mtus.learned.remove(&id);
                let mtu = self.mtus.limit(&node.addr);
                self.desired.nodes.set(id, Node { mtu, ..node });
            }
        }
    }
}

/// Of two limits, of which 0 is none.
fn smaller(a: u32, b: u32) -> u32 {
    if a == 0 || b == 0 { a.max(b) } else { a.min(b) }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use xylem_types::mqtt::{Peer, PeerKind, TunnelEndpoint};

    use super::*;
    use crate::core::translation::Capacities;

    const NOW: Duration = Duration::from_secs(1000);
    const PORT: u16 = 50103;
    const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));
    const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2));

    fn at(ip: IpAddr) -> PeerAddr {
        PeerAddr { addr: ip.into(), port: PORT }
    }

    /// A node with a peer of each family.
    fn with_peers(carried: Carried) -> Translation {
        let me = at(Ipv4Addr::new(192, 0, 2, 1).into());
        let mut translation = Translation::new(me, Capacities::default());
        translation.set_carried(carried);
        let peer = |host_ip: IpAddr| Peer {
            worker_id: host_ip.to_string(),
            endpoint: TunnelEndpoint { host_ip, host_port: PORT },
            subnet: None,
            subnet_v6: None,
            kind: PeerKind::Xylem,
        };
        translation.set_peers(&[peer(V4), peer(V6)]).unwrap();
        translation
    }

    fn mtus(translation: &Translation) -> [u32; 2] {
        [V4, V6].map(|ip| {
            let nodes = &mut translation.desired.nodes.iter();
            nodes.find(|(id, node)| *id != 0 && node.addr == ip.into()).unwrap().1.mtu
        })
    }

    fn id_of(translation: &Translation, ip: IpAddr) -> NodeId {
        *translation.desired.peers.get(at(ip)).unwrap()
    }

    const IPV4: Carried = Carried { uplink_mtu: 1500, instance_mtu: 1472, is_enforced: false };

    #[test]
    fn larger_outer_headers_leave_less_room() {
        let mut translation = with_peers(IPV4);
        assert_eq!(mtus(&translation), [0, 1452]);
        // A node of the IPv6 world: its instances send no more than either carries.
        translation.set_carried(Carried { instance_mtu: 1452, ..IPV4 });
        assert_eq!(mtus(&translation), [0, 0]);
        translation.set_carried(Carried { is_enforced: true, ..IPV4 });
        assert_eq!(mtus(&translation), [1472, 1452]);
        translation.set_carried(Carried {
            uplink_mtu: 1400,
            instance_mtu: 1372,
            is_enforced: false,
        });
        assert_eq!(mtus(&translation), [0, 1352]);
    }

    #[test]
    fn a_router_is_believed_for_a_while_and_on_this_uplink() {
        let mut translation = with_peers(IPV4);
        let [v4, v6] = [V4, V6].map(|ip| id_of(&translation, ip));
        assert_eq!(translation.set_path_mtu(v4, at(V4), 1400, NOW), Some(1372));
        assert_eq!(translation.set_path_mtu(v6, at(V6), 1400, NOW), Some(1352));
        assert_eq!(translation.set_path_mtu(v6, at(V6), 1279, NOW), None, "no IPv6 link has that");
        assert_eq!(translation.set_path_mtu(v6, at(V4), 1300, NOW), None, "another's path");
        // Looking at each packet does not make a path wider.
        translation.set_carried(Carried { is_enforced: true, ..IPV4 });
        assert_eq!(mtus(&translation), [1372, 1352]);
        translation.set_carried(IPV4);
        assert_eq!(mtus(&translation), [1372, 1352]);
        translation.forget_path_mtus(NOW + PATH_MTU_AGE);
        assert_eq!(mtus(&translation), [0, 1452]);

        translation.set_path_mtu(v4, at(V4), 1400, NOW);
        translation.forget_paths();
        assert_eq!(mtus(&translation), [0, 1452]);
        translation.set_path_mtu(v4, at(V4), 1400, NOW);
        translation.set_carried(Carried { uplink_mtu: 9000, instance_mtu: 8972, ..IPV4 });
        assert_eq!(mtus(&translation), [0, 8952]);
    }
}

//! What is done about other nodes: who they are, whether they are reached, and whether what they
//! send is theirs.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use net_common::{Addr, Policy};
use tracing::{debug, info, warn};
use xylem_types::{
    load::Loads,
    mqtt::{AddressChanged, Peer, PeersRequest, TableQuery, TunnelEndpoint},
};

use super::{Effect, Worker};
use crate::core::{
    questions::{Limits, Questions},
    tables::{InstanceId, NodeId, PeerAddr},
    translation::{Carried, Macs, Path},
};

/// Who an unknown sender is.
const SENDERS: Limits = Limits { again: Duration::from_secs(30), per_second: 5, remembered: 1024 };
/// Where the instance lives whose instance IP a peer sends from.
const SOURCES: Limits = Limits { again: Duration::from_secs(10), per_second: 20, remembered: 4096 };

/// Questions about others that are open or were answered a while ago.
#[derive(Debug)]
pub(super) struct Strangers {
    senders: Questions<PeerAddr>,
    sources: Questions<Addr>,
    /// Sources of which the cluster is asked, and the node that sent from each.
    suspects: BTreeMap<Addr, NodeId>,
    check_sources: bool,
}

impl Strangers {
    pub(super) fn new(check_sources: bool) -> Self {
        Self {
            senders: Questions::new(SENDERS),
            sources: Questions::new(SOURCES),
            suspects: BTreeMap::new(),
            check_sources,
        }
    }
}

impl Worker {
    /// This node is reached at another address now, and says so at once.
    pub fn on_address(&mut self, host_ip: IpAddr) {
        if self.me.host_ip == host_ip {
            return;
        }
        info!(address = %host_ip, before = %self.me.host_ip, "this node has another address now");
        self.me.host_ip = host_ip;
        let port = self.me.host_port;
        self.translation.set_me(PeerAddr { addr: host_ip.into(), port });
        if !self.connected {
            // With the next session everything is said anew.
            return;
        }
        // Our cluster moves the instances along; Oakestra's is told of each.
        self.request_subnet();
        let moved = self.translation.local().map(|local| {
            Effect::Moved(AddressChanged {
                appname: local.name.to_string(),
                instance_number: local.number,
                host_ip: host_ip.to_string(),
                host_port: port,
            })
        });
        self.effects.extend(moved);
    }

    /// The cluster announced everybody from whom tunnel packets are accepted.
    pub fn on_peers(&mut self, peers: &[Peer]) {
        debug!(peers = peers.len(), "the cluster announced this node's peers");
        if let Err(full) = self.translation.set_peers(peers) {
            self.effects.push(Effect::ReportFull(full));
        }
    }

    /// Tunnel packets come from somebody whom nobody has announced.
    pub fn on_unknown_peer(&mut self, peer: PeerAddr, now: Duration) {
        if self.translation.desired().peers.get(peer).is_none()
            && self.strangers.senders.may_ask(peer, now)
        {
            info!(?peer, "tunnel packets of an unknown sender are dropped; asking who that is");
            let sender = TunnelEndpoint { host_ip: peer.addr.to_ip(), host_port: peer.port };
            self.effects.push(Effect::AskPeer(PeersRequest { sender }));
        }
    }

    /// What was measured of the paths to other nodes.
    pub fn on_paths(&mut self, paths: &BTreeMap<NodeId, Path>) {
        for (node, path) in paths {
            self.translation.set_path(*node, path);
        }
    }

    /// The uplink is another one, or another way to it: nothing that is known of paths holds.
    pub fn on_other_way(&mut self) {
        self.translation.set_next_hops(&BTreeMap::new(), Duration::ZERO);
        self.translation.forget_paths();
    }

    /// What this node puts on its uplink.
    pub fn set_carried(&mut self, carried: Carried) {
        self.translation.set_carried(carried);
    }

    /// The frames to other nodes, for as long as they hold.
    pub fn on_next_hops(&mut self, next_hops: &BTreeMap<IpAddr, Macs>, until: Duration) {
        self.translation.set_next_hops(next_hops, until);
    }

    /// A router says how much the path to a node carries.
    pub fn on_path_mtu(&mut self, node: NodeId, peer: PeerAddr, bytes: u32, now: Duration) {
        if let Some(mtu) = self.translation.set_path_mtu(node, peer, bytes, now) {
            info!(?peer, mtu, "the path to a node carries smaller packets only");
        } else {
            debug!(?peer, bytes, "what a router says of a path is no news, or makes no sense");
        }
    }

    /// What instances use changed.
    pub fn on_load(&mut self, loads: &Loads) {
        self.translation.set_load(loads);
    }

    /// Time has passed, flows came and went: the tables that depend on either are looked at.
    pub fn on_measured(&mut self, flows: BTreeMap<InstanceId, u32>, now: Duration) {
        self.translation.set_flows(flows);
        self.translation.rebalance();
        self.translation.forget_path_mtus(now);
    }

    /// A node sends from an instance IP that the programs do not know.
    pub fn on_learned_source(&mut self, node: NodeId, src: Addr, now: Duration) {
        if !self.strangers.check_sources {
            return;
        }
        if self.dial(src) {
            self.judge_source(node, src);
        } else if self.strangers.sources.may_ask(src, now) {
            let open = &self.strangers.sources;
            self.strangers.suspects.retain(|src, _| open.was_asked(*src, now));
            self.strangers.suspects.insert(src, node);
            self.effects
                .push(Effect::Query(TableQuery { sip: src.to_string(), ..TableQuery::default() }));
        }
    }

    /// The cluster said who this is. Of one whom it does not know either, nothing follows: it may
    /// be too new.
    pub(super) fn judge_suspect(&mut self, src: Addr) {
        if let Some(node) = self.strangers.suspects.remove(&src)
            && self.dial(src)
        {
            self.judge_source(node, src);
        }
    }

    /// The maps know the address now, so the programs refuse it from any other node; what they let
    /// in before is removed.
    fn judge_source(&mut self, node: NodeId, src: Addr) {
        let desired = self.translation.desired();
        let lives_there = desired.services.get(src).is_some_and(|service| {
            service.policy == Policy::Instance as u32
                && desired.instances.get(service.instance).is_some_and(|i| i.node == node)
        });
        if !lives_there {
            let peer = desired.nodes.get(node).map(|node| node.addr);
            warn!(?peer, %src, "a node sends from an address that is not there; it is refused");
            self.effects.push(Effect::RemoveFlowsFrom { node, src });
        }
    }
}

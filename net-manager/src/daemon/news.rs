//! What the daemon's task does about news of the network, and of what is measured.

use std::{collections::BTreeMap, net::Ipv4Addr};

use tracing::{debug, error};

use super::{Daemon, network::News};
use crate::{
    chain::Chain,
    kernel::{clock, events::Notice},
};

impl Daemon {
    pub(super) fn on_news(&mut self, news: News) {
        let now = clock::now();
        match news {
            News::Paths(paths) => self.worker.on_paths(&paths),
            News::Address(address) => self.on_address(address),
            News::NextHops(hops) => self.worker.on_next_hops(&hops.frames, hops.until),
            News::Notice(Notice::UnknownPeer(peer)) => self.worker.on_unknown_peer(peer, now),
            News::Notice(Notice::PathMtu { node, peer, bytes }) => {
                self.worker.on_path_mtu(node, peer, bytes, self.uplink_mtu, now);
            }
            News::Notice(Notice::LearnedSource { node, src }) => {
                self.worker.on_learned_source(node, src, now);
            }
        }
    }

    /// The node is reached at another address now. What its instances have open goes on; what left
    /// the overlay with the old address, and ports published there, does not.
    pub(super) fn on_address(&mut self, address: Ipv4Addr) {
        let told = self.maps.config().and_then(|config| {
            self.maps.set_config(&net_common::Config { node_addr: address.into(), ..config })
        });
        if let Err(failure) = told {
            error!(
                error = %Chain(&failure),
                "the programs do not know of the node's new address: restart the net manager"
            );
        }
        self.watchers.move_to(address);
        self.worker.on_address(address);
    }

    /// Looks at the tables that depend on what is measured.
    pub(super) fn on_balance(&mut self) {
        let mut flows = BTreeMap::new();
        for id in self.worker.translation().weighed_by_flows() {
            // Those that were alive when flows were counted, and all that came since: none ends
            // unseen for longer than from one count to the next.
            let given = match self.maps.instance_traffic(id) {
                Ok(traffic) => traffic.new_flows,
                Err(error) => {
                    debug!(error = %Chain(&error), "cannot read an instance's counters");
                    continue;
                }
            };
            let (alive, until) = *self.counted.entry(id).or_insert((0, given));
            let since = u32::try_from(given.saturating_sub(until)).unwrap_or(u32::MAX);
            flows.insert(id, alive.saturating_add(since));
        }
        self.worker.on_measured(flows, clock::now());
    }

    /// Flows have been counted: those given since then come on top.
    pub(super) fn recount(&mut self) {
        self.counted.clear();
        for id in self.worker.translation().weighed_by_flows() {
            if let Ok(traffic) = self.maps.instance_traffic(id) {
                let counted = self.sweeper.last.flows_by_instance.get(&id).copied().unwrap_or(0);
                let alive = u32::try_from(counted).unwrap_or(u32::MAX);
                self.counted.insert(id, (alive, traffic.new_flows));
            }
        }
    }
}

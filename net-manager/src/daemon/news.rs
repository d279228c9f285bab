//! What the daemon's task does about news of the network, and of what is measured.

use std::collections::BTreeMap;

use tracing::debug;

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
            News::Uplink(uplink) => self.on_uplink(uplink),
            // Of another uplink they are out of date, or not yet of use.
            News::NextHops(hops) if hops.uplink == self.uplink.interface.index => {
                self.worker.on_next_hops(&hops.frames, hops.until);
            }
            News::NextHops(_) => {}
            News::Notice(Notice::UnknownPeer(peer)) => self.worker.on_unknown_peer(peer, now),
            News::Notice(Notice::PathMtu { node, peer, bytes }) => {
                self.worker.on_path_mtu(node, peer, bytes, now);
            }
            News::Notice(Notice::LearnedSource { node, src }) => {
                self.worker.on_learned_source(node, src, now);
            }
        }
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
}

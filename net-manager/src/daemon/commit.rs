//! What is desired is brought to the maps, and what was to be done after that is done.

use net_common::Addr;
use net_maps::Name;
use tokio::sync::oneshot;
use tracing::{debug, error, warn};

use super::{Daemon, answer, command::NotAttached};
use crate::{
    chain::Chain,
    core::{plan::plan, translation::LocalInstance, worker::Effect},
    kernel::{apply, clock, inject::InjectError},
    uplink::ToCluster,
};

/// A reply that is due once the maps are written.
#[derive(Debug)]
pub(super) enum Reply {
    Attached { name: Name, number: u32, addr: Addr, to: oneshot::Sender<Result<(), NotAttached>> },
    Detached { what: Option<LocalInstance>, to: oneshot::Sender<Option<LocalInstance>> },
}

impl Daemon {
    /// Brings the maps to what is desired, then does what was to be done after that.
    pub(super) fn commit(&mut self) {
        self.worker.balance(clock::now());
        if let Some(targets) = self.worker.translation_mut().changed_targets() {
            self.watchers.assign(targets);
        }
        let ops = plan(&self.held, self.worker.translation().desired());
        let applied = apply::apply(&mut self.maps, &mut self.held, &ops);
        for map in &applied.full {
            self.full.count(map, clock::now());
        }
        match &applied.failure {
            // What found no room is tried again with the next tick.
            None if applied.frees_ids() => self.worker.translation_mut().settle(),
            None => {}
            Some(failure) => {
                if let Some(count) = self.failed_writes.pass(clock::now()) {
                    error!(count, error = %Chain(failure), "writes to the maps fail, will retry");
                }
            }
        }
        self.incomplete |= !applied.is_complete();
        self.tell_published();
        self.reply();
        for effect in self.worker.take_effects() {
            self.perform(effect);
        }
        self.reply_named();
    }

    fn reply(&mut self) {
        for reply in std::mem::take(&mut self.replies) {
            match reply {
                Reply::Attached { name, number, addr, to } => {
                    let is_there =
                        self.held.endpoints.get(addr).is_some() && self.are_published(name, number);
                    if !is_there {
                        self.worker.detach(name, number, clock::now());
                    }
                    answer(to, if is_there { Ok(()) } else { Err(NotAttached::NotWritten) });
                }
                Reply::Detached { what, to } => answer(to, what),
            }
        }
    }

    /// Whether the ports of an instance are in the map.
    fn are_published(&self, name: Name, number: u32) -> bool {
        let ports = self.worker.translation().ports(name, number);
        ports.iter().all(|mapping| {
            let desired = self.worker.translation().desired().published.get(mapping.node);
            desired == self.held.published.get(mapping.node)
        })
    }

    /// The programs look for published ports only while there are any.
    fn tell_published(&mut self) {
        let count = self.held.published.len() as u32;
        if count == self.published_count {
            return;
        }
        let told = self.maps.config().and_then(|config| {
            self.maps.set_config(&net_common::Config { published_count: count, ..config })
        });
        match told {
            Ok(()) => self.published_count = count,
            Err(failure) => {
                self.incomplete = true;
                error!(error = %Chain(&failure), "published ports are not watched, will retry");
            }
        }
    }

    fn reply_named(&mut self) {
        let translation = self.worker.translation();
        self.unnamed.retain(|(_, _, waiting)| !waiting.is_closed());
        let is_named = |(name, number, _): &mut (Name, u32, _)| {
            translation
                .local_instance(*name, *number)
                .is_none_or(|local| !local.instance.instance_ip_v4.is_unspecified())
        };
        for (_, _, waiting) in self.unnamed.extract_if(.., is_named) {
            answer(waiting, ());
        }
    }

    fn perform(&mut self, effect: Effect) {
        let say = |message: ToCluster| {
            if let Some(session) = &self.session {
                session.send(&message);
            }
        };
        match effect {
            Effect::RequestSubnet(request) => say(ToCluster::Subnet(request)),
            Effect::Query(query) => {
                self.observation.on_query(&query, clock::now());
                say(ToCluster::Query(query));
            }
            Effect::Deployed(report) => say(ToCluster::Deployed(report)),
            Effect::Undeployed(report) => say(ToCluster::Undeployed(report)),
            Effect::RemoveInterest(interest) => say(ToCluster::RemoveInterest(interest)),
            Effect::Follow(name) => {
                if let Some(session) = &self.session {
                    session.follow(name);
                }
            }
            Effect::Unfollow(name) => {
                if let Some(session) = &self.session {
                    session.unfollow(name);
                }
            }
            Effect::SendOn(packet) => match self.injector.send(&packet.frame) {
                Ok(()) => self.observation.on_sent_on(&packet, clock::now()),
                Err(error @ InjectError::Malformed(_)) => debug!(%error, "a packet is dropped"),
                Err(error) => {
                    if let Some(count) = self.lost_packets.pass(clock::now()) {
                        warn!(count, error = %Chain(&error), "parked packets are lost");
                    }
                }
            },
            Effect::Remember(subnet) => {
                if let Err(error) = self.state.set_subnet(Some(subnet)) {
                    error!(error = %Chain(&error), "the subnet is not kept for the next start");
                }
            }
            Effect::ReportFull(full) => self.full.count(full.map, clock::now()),
            Effect::Moved(report) => say(ToCluster::Moved(report)),
            Effect::AskPeer(request) => say(ToCluster::AskPeer(request)),
            Effect::RemoveFlowsFrom { node, src } => self.remover.add(node, src),
        }
    }
}

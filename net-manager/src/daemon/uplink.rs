//! What the daemon's task does when the uplink changes: another interface, another address, another
//! MTU.
//!
//! In this order, so that at no time packets leave or arrive where no program is: the programs are
//! attached to the new interface, the entry `config` is replaced whole, the programs leave the old
//! interface. What takes longer (the sizes of the instances' interfaces, the reserved ports, flows
//! that cannot go on) is done beside the task, and comes back as input.

use std::{net::IpAddr, sync::Arc};

use net_common::{Addr, Config as NodeConfig};
use net_maps::MapsError;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::{
    Daemon,
    plumbing::{self, Plumbing},
};
use crate::{
    chain::Chain,
    core::{
        translation::Carried,
        uplink::{Uplink, tunnel_overhead},
        worker::Worker,
    },
    kernel::{bpf::BpfError, clock, netns::IPV6_LEAST_MTU},
};

/// Why the programs stay where they are.
#[derive(Debug, thiserror::Error)]
enum MoveError {
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// The node's addresses of both families.
pub(super) fn addresses(uplink: &Uplink) -> Vec<IpAddr> {
    uplink.v4.map(IpAddr::from).into_iter().chain(uplink.v6.map(IpAddr::from)).collect()
}

/// What an uplink says of the programs' configuration.
pub(super) fn configured(uplink: &Uplink, config: NodeConfig) -> NodeConfig {
    NodeConfig {
        node_addr: uplink.v4.map(Addr::from).unwrap_or_default(),
        node_addr_v6: uplink.v6.map(Addr::from).unwrap_or_default(),
        uplink_ifindex: uplink.interface.index,
        instance_mtu: uplink.instance_mtu(),
        ..config
    }
}

/// What this node puts on its uplink.
fn carried(uplink: &Uplink, is_enforced: bool) -> Carried {
    Carried { uplink_mtu: uplink.interface.mtu, instance_mtu: uplink.instance_mtu(), is_enforced }
}

/// Whether instances with IPv6 have larger interfaces than the uplink has room for.
fn is_tight(uplink: &Uplink) -> bool {
    uplink.instance_mtu() < IPV6_LEAST_MTU
}

/// Sizes at the start: what the net manager before knew, by the programs' configuration, and what
/// holds now. Until the instances were looked at, they may be larger.
pub(super) fn set_carried_at_start(worker: &mut Worker, uplink: &Uplink, before: &NodeConfig) {
    let own =
        if before.node_addr.is_unspecified() { before.node_addr_v6 } else { before.node_addr };
    let (mtu, mtu_before) = (uplink.instance_mtu(), before.instance_mtu);
    if mtu_before != 0 {
        let uplink_mtu = mtu_before + tunnel_overhead(&own);
        worker.set_carried(Carried { uplink_mtu, instance_mtu: mtu_before, is_enforced: true });
    }
    worker.set_carried(carried(uplink, mtu < mtu_before || is_tight(uplink)));
}

impl Daemon {
    /// The kernel tells another uplink.
    pub(super) fn on_uplink(&mut self, uplink: Uplink) {
        self.unmoved = None;
        if uplink == self.uplink {
            return;
        }
        if let Err(failure) = self.move_to(&uplink) {
            if let Some(count) = self.failed_moves.pass(clock::now()) {
                error!(
                    count, net.ifname = uplink.interface.name, error = %Chain(&failure),
                    "the programs cannot move to the new uplink, will retry"
                );
            }
            self.unmoved = Some(uplink);
        }
    }

    /// A move that failed is tried again.
    pub(super) fn retry_move(&mut self) {
        if let Some(uplink) = self.unmoved.take() {
            self.on_uplink(uplink);
        }
    }

    fn move_to(&mut self, uplink: &Uplink) -> Result<(), MoveError> {
        let wanted = self.uplink_xdp;
        let attach = |data_path: &mut _| plumbing::attach_uplink(data_path, uplink, wanted);
        let attached = self.plumbing.with_data_path(attach)?;
        let is_other_way = uplink.interface.index != self.uplink.interface.index
            || uplink.address != self.uplink.address;
        if is_other_way {
            // The frames to other nodes bear hardware addresses of the old way.
            self.worker.on_other_way();
        }
        let shrinks = uplink.instance_mtu() < self.uplink.instance_mtu();
        let is_enforced = shrinks || self.oversized || is_tight(uplink);
        self.worker.set_carried(carried(uplink, is_enforced));
        self.commit();
        let config = self.maps.config()?;
        self.maps.set_config(&configured(uplink, config))?;
        let before = std::mem::replace(&mut self.uplink, uplink.clone());
        info!(
            net.ifname = uplink.interface.name, address = %uplink.address,
            mtu = uplink.interface.mtu, before = before.interface.name,
            "the uplink has changed"
        );
        let detached = self
            .plumbing
            .with_data_path(|data_path| plumbing::detach_other_uplinks(data_path, &attached));
        if let Err(error) = detached {
            warn!(error = %Chain(&error), "programs stay on an interface until the next start");
        }
        self.injector.set_mtu(uplink.instance_mtu());
        self.watchers.move_to(uplink);
        self.worker.on_address(uplink.address);
        let is_elsewhere = addresses(&before) != addresses(uplink);
        if (is_other_way || is_elsewhere)
            && let Some(session) = &self.session
        {
            session.check_way();
        }
        if is_elsewhere {
            self.remover.keep_outside(&addresses(uplink));
        }
        self.refitter.start(uplink);
        Ok(())
    }

    /// The instances have the size of the uplink, but for so many.
    pub(super) fn on_refitted(&mut self, larger: Option<usize>) {
        // Of what could not be looked at, nothing is known.
        self.oversized = larger != Some(0) || is_tight(&self.uplink);
        if let Some(larger @ 1..) = larger {
            warn!(
                instances = larger,
                mtu = self.uplink.instance_mtu(),
                "instances send larger packets than the uplink carries: they are told so packet by \
                 packet"
            );
        }
        self.worker.set_carried(carried(&self.uplink, self.oversized));
    }
}

/// Fits instances and reserved ports to the uplink, beside the daemon's task.
#[derive(Debug)]
pub(super) struct Refitter {
    plumbing: Arc<Plumbing>,
    running: Option<JoinHandle<Option<usize>>>,
    /// What the uplink has become meanwhile.
    next: Option<Uplink>,
}

impl Refitter {
    pub(super) fn new(plumbing: Arc<Plumbing>) -> Self {
        Self { plumbing, running: None, next: None }
    }

    /// Instances that are connected from now on fit; those that are, and the ports, will soon.
    pub(super) fn start(&mut self, uplink: &Uplink) {
        self.plumbing.set_mtu(uplink.instance_mtu());
        if self.running.is_some() {
            self.next = Some(uplink.clone());
            return;
        }
        let (plumbing, addresses) = (Arc::clone(&self.plumbing), addresses(uplink));
        self.running = Some(tokio::spawn(async move {
            plumbing.ports.move_to(addresses);
            match plumbing.resize().await {
                Ok(larger) => Some(larger),
                Err(error) => {
                    warn!(error = %Chain(&error), "the instances' interfaces keep their size");
                    None
                }
            }
        }));
    }

    /// Waits until it is done; how many instances still send larger packets than they should, if
    /// that is known. For ever, while nothing is to be done.
    pub(super) async fn step(&mut self) -> Option<usize> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let larger = running.await.ok().flatten();
        self.running = None;
        if let Some(next) = self.next.take() {
            self.start(&next);
        }
        larger
    }
}

//! What the daemon's task hears of the network around the node, and what it says to those who
//! watch it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use net_common::Addr;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tracing::{error, info, warn};

use super::uplink::addresses;
use crate::{
    chain::Chain,
    core::{
        tables::NodeId,
        translation::{Path, Targets},
        uplink::Uplink,
    },
    kernel::{
        events::Notice,
        foreign,
        next_hop::{self, NextHops},
        prober::{self, Assignment, Found, ProbeReply},
        sweep::SweepError,
        uplink::Watcher,
    },
};

/// Answers to probes on their way to the prober.
const REPLY_QUEUE: usize = 8192;
/// Notices of the programs on their way to the daemon's task.
const NOTICE_QUEUE: usize = 1024;
/// Foreign sources whose flows wait to be removed.
const FOREIGN: usize = 1024;

/// Something of the network.
#[derive(Debug)]
pub(super) enum News {
    Paths(BTreeMap<NodeId, Path>),
    NextHops(NextHops),
    Notice(Notice),
    /// The uplink has changed.
    Uplink(Uplink),
}

/// Those who watch the network, as the daemon's task hears them.
#[derive(Debug)]
pub(super) struct Network {
    found: Arc<Found>,
    next_hops: watch::Receiver<NextHops>,
    uplink: watch::Receiver<Uplink>,
    notices: mpsc::Receiver<Notice>,
    _tasks: JoinSet<()>,
}

/// What the daemon's task says to them.
#[derive(Debug)]
pub(super) struct Watchers {
    tunnel_port: u16,
    assignments: watch::Sender<Assignment>,
    found: Arc<Found>,
}

/// Where the programs' events go, but for misses.
#[derive(Debug)]
pub(super) struct Senders {
    pub(super) replies: mpsc::Sender<ProbeReply>,
    pub(super) notices: mpsc::Sender<Notice>,
}

/// Starts to watch; `cache` tells whether next hops are.
pub(super) fn watch(
    uplink: &Uplink,
    tunnel_port: u16,
    watcher: Watcher,
    cache: bool,
) -> (Watchers, Network, Senders) {
    let (me, index) = (own(uplink, tunnel_port), uplink.interface.index);
    let assignment = Assignment { me, uplink: index, targets: Targets::new() };
    let (assignments, assigned) = watch::channel(assignment);
    let (replies, reply_queue) = mpsc::channel(REPLY_QUEUE);
    let (notices, notice_queue) = mpsc::channel(NOTICE_QUEUE);
    let (told, next_hops) = watch::channel(NextHops::default());
    let found = Arc::new(Found::default());
    let mut tasks = JoinSet::new();
    let (assigned_too, found_too) = (assigned.clone(), Arc::clone(&found));
    tasks.spawn(async move {
        if let Err(error) = prober::run(assigned_too, reply_queue, found_too).await {
            error!(%error, "other nodes are not probed");
        }
    });
    if cache {
        tasks.spawn(async move {
            if let Err(error) = next_hop::run(assigned, told).await {
                error!(
                    error = %Chain(&error),
                    "the next hops of other nodes are looked up for each packet"
                );
            }
        });
    }
    let (changed, changes) = watch::channel(uplink.clone());
    tasks.spawn(watcher.run(changed));
    let watchers = Watchers { tunnel_port, assignments, found: Arc::clone(&found) };
    let network =
        Network { found, next_hops, uplink: changes, notices: notice_queue, _tasks: tasks };
    (watchers, network, Senders { replies, notices })
}

/// The ends of this node's tunnels.
fn own(uplink: &Uplink, tunnel_port: u16) -> Vec<SocketAddr> {
    let end = |address| SocketAddr::new(address, tunnel_port);
    addresses(uplink).into_iter().map(end).collect()
}

impl Watchers {
    /// Which share of the last probes of each node was lost.
    pub(super) fn losses(&self) -> BTreeMap<NodeId, f64> {
        self.found.losses()
    }

    /// These nodes are of interest.
    pub(super) fn assign(&self, targets: Targets) {
        self.assignments.send_modify(|assignment| assignment.targets = targets);
    }

    /// This node is reached there now.
    pub(super) fn move_to(&self, uplink: &Uplink) {
        self.assignments.send_modify(|assignment| {
            assignment.me = own(uplink, self.tunnel_port);
            assignment.uplink = uplink.interface.index;
        });
    }
}

impl Network {
    /// The next news; those of paths first, because flows depend on them.
    pub(super) async fn next(&mut self) -> News {
        tokio::select! {
            biased;
            paths = self.found.take() => News::Paths(paths),
            Some(notice) = self.notices.recv() => News::Notice(notice),
            Ok(()) = self.next_hops.changed() => {
                News::NextHops(self.next_hops.borrow_and_update().clone())
            }
            Ok(()) = self.uplink.changed() => {
                News::Uplink(self.uplink.borrow_and_update().clone())
            }
            else => std::future::pending().await,
        }
    }
}

/// Flows that are to be removed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Unwanted {
    /// Those that lead out of the overlay by other addresses of the node than these.
    OutsideBut(Vec<Addr>),
    /// Those that a node opened in the name of an instance that is not there.
    From(NodeId, Addr),
}

/// Removes flows, of one kind at a time.
#[derive(Debug)]
pub(super) struct Remover {
    bpffs_root: PathBuf,
    waiting: BTreeSet<Unwanted>,
    running: Option<JoinHandle<Result<usize, SweepError>>>,
}

impl Remover {
    pub(super) fn new(bpffs_root: PathBuf) -> Self {
        Self { bpffs_root, waiting: BTreeSet::new(), running: None }
    }

    /// The flows of this source are to be removed. What finds no room is told again when the
    /// source opens another flow.
    pub(super) fn add(&mut self, node: NodeId, src: Addr) {
        if self.waiting.len() < FOREIGN {
            self.waiting.insert(Unwanted::From(node, src));
        }
        self.start();
    }

    /// The node has these addresses and no others.
    pub(super) fn keep_outside(&mut self, own: &[IpAddr]) {
        self.waiting.retain(|unwanted| matches!(unwanted, Unwanted::From(..)));
        let own = own.iter().map(|address| Addr::from(*address)).collect();
        self.waiting.insert(Unwanted::OutsideBut(own));
        self.start();
    }

    fn start(&mut self) {
        if self.running.is_none()
            && let Some(unwanted) = self.waiting.pop_first()
        {
            let bpffs_root = self.bpffs_root.clone();
            let remove = move || match unwanted {
                Unwanted::OutsideBut(own) => foreign::remove_outside_flows(&bpffs_root, &own),
                Unwanted::From(node, src) => foreign::remove_flows(&bpffs_root, node, src),
            };
            self.running = Some(tokio::task::spawn_blocking(remove));
        }
    }

    /// Waits until those of one kind are removed, and goes on with the next; for ever without any.
    pub(super) async fn step(&mut self) {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let outcome = running.await.unwrap_or_else(|ended| Err(SweepError::Thread(ended)));
        self.running = None;
        match outcome {
            Ok(entries) => info!(entries, "flows by an address that is not there are removed"),
            Err(error) => {
                warn!(error = %Chain(&error), "flows by an address that is not there stay")
            }
        }
        self.start();
    }
}

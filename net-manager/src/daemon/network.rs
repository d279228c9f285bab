//! What the daemon's task hears of the network around the node, and what it says to those who
//! watch it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    sync::Arc,
};

use net_common::Addr;
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tracing::{error, info, warn};
use xylem_types::mqtt::TunnelEndpoint;

use crate::{
    chain::Chain,
    core::{
        tables::NodeId,
        translation::{Path, Targets},
    },
    kernel::{
        address,
        events::Notice,
        foreign,
        next_hop::{self, NextHops},
        prober::{self, Assignment, Found, ProbeReply},
        sweep::SweepError,
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
    /// The uplink has another address.
    Address(Ipv4Addr),
}

/// Those who watch the network, as the daemon's task hears them.
#[derive(Debug)]
pub(super) struct Network {
    found: Arc<Found>,
    next_hops: watch::Receiver<NextHops>,
    address: watch::Receiver<Ipv4Addr>,
    notices: mpsc::Receiver<Notice>,
    _tasks: JoinSet<()>,
}

/// What the daemon's task says to them.
#[derive(Debug)]
pub(super) struct Watchers {
    assignments: watch::Sender<Assignment>,
    found: Arc<Found>,
}

/// Where the programs' events go, but for misses.
#[derive(Debug)]
pub(super) struct Senders {
    pub(super) replies: mpsc::Sender<ProbeReply>,
    pub(super) notices: mpsc::Sender<Notice>,
}

/// What is watched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settings {
    pub(super) next_hop_cache: bool,
    /// The node's address is the uplink's, whichever that is.
    pub(super) follow_address: bool,
}

/// Starts to watch.
pub(super) fn watch(
    me: &TunnelEndpoint,
    uplink: u32,
    settings: Settings,
) -> (Watchers, Network, Senders) {
    let me = match me.host_ip {
        IpAddr::V4(ip) => Some(SocketAddrV4::new(ip, me.host_port)),
        // The tunnel runs over IPv4.
        IpAddr::V6(_) => None,
    };
    let (assignments, assigned) = watch::channel(Assignment { me, targets: Targets::new() });
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
    if settings.next_hop_cache {
        tasks.spawn(async move {
            if let Err(error) = next_hop::run(uplink, assigned, told).await {
                error!(
                    error = %Chain(&error),
                    "the next hops of other nodes are looked up for each packet"
                );
            }
        });
    }
    let (moved, address) = watch::channel(me.map_or(Ipv4Addr::UNSPECIFIED, |me| *me.ip()));
    if settings.follow_address && me.is_some() {
        tasks.spawn(async move {
            if let Err(error) = address::run(uplink, moved).await {
                error!(error = %Chain(&error), "a change of this node's address will go unseen");
            }
        });
    }
    let watchers = Watchers { assignments, found: Arc::clone(&found) };
    let network = Network { found, next_hops, address, notices: notice_queue, _tasks: tasks };
    (watchers, network, Senders { replies, notices })
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
    pub(super) fn move_to(&self, address: Ipv4Addr) {
        self.assignments.send_modify(|assignment| {
            assignment.me = assignment.me.map(|me| SocketAddrV4::new(address, me.port()));
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
            Ok(()) = self.address.changed() => News::Address(*self.address.borrow_and_update()),
            else => std::future::pending().await,
        }
    }
}

/// Removes the flows of foreign sources, one source at a time.
#[derive(Debug)]
pub(super) struct Remover {
    bpffs_root: PathBuf,
    waiting: BTreeSet<(NodeId, Addr)>,
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
            self.waiting.insert((node, src));
        }
        self.start();
    }

    fn start(&mut self) {
        if self.running.is_none()
            && let Some((node, src)) = self.waiting.pop_first()
        {
            let bpffs_root = self.bpffs_root.clone();
            let remove = move || foreign::remove_flows(&bpffs_root, node, src);
            self.running = Some(tokio::task::spawn_blocking(remove));
        }
    }

    /// Waits until those of one source are removed, and goes on with the next; for ever without
    /// any.
    pub(super) async fn step(&mut self) {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let outcome = running.await.unwrap_or_else(|ended| Err(SweepError::Thread(ended)));
        self.running = None;
        match outcome {
            Ok(entries) => info!(entries, "flows from an address that is not there are removed"),
            Err(error) => warn!(error = %Chain(&error), "flows of a foreign source stay"),
        }
        self.start();
    }
}

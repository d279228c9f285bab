//! Probes the nodes of interest, in a task of its own: a burst of map writes delays no probe, and a
//! node that is cut off is found while the daemon's task is busy.
//!
//! Requests leave through a socket of the tunnel's port, because that is the sender whom the peer
//! knows. Answers do not come that way: the kernel program takes them, with the time at which it
//! had them, and they arrive through the event ring.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use net_common::Probe;
use nix::errno::Errno;
use tokio::{
    net::UdpSocket,
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};
use zerocopy::IntoBytes;

use super::clock;
use crate::core::{
    probe::{Change, Probes, Reply, Secret, Settings, report::Reporter},
    tables::{NodeId, PeerAddr},
    translation::{Path, Target, Targets},
};

/// How often a socket that cannot be had is tried for.
const RETRY: Duration = Duration::from_secs(5);
/// How often losses are told.
const LOSSES: Duration = Duration::from_secs(1);
/// Answers taken together before probes are sent.
const BATCH: usize = 1024;

/// An answer to a probe, and from whom the program says it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReply {
    pub node: NodeId,
    pub from: PeerAddr,
    pub reply: Reply,
}

/// What is to be probed, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Of each family one address at most.
    pub me: Vec<SocketAddr>,
    /// Interface of the uplink.
    pub uplink: u32,
    pub targets: Targets,
}

/// What was found and nobody has taken yet: of each node the newest.
#[derive(Debug, Default)]
pub struct Found {
    paths: Mutex<BTreeMap<NodeId, Path>>,
    news: Notify,
    /// Share of lost probes, of those that are probed.
    losses: Mutex<BTreeMap<NodeId, f64>>,
}

impl Found {
    fn tell(&self, node: NodeId, path: Path) {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner).insert(node, path);
        self.news.notify_one();
    }

    /// Which share of the last probes of each node was lost.
    pub fn losses(&self) -> BTreeMap<NodeId, f64> {
        self.losses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was found since this was last asked; waits until there is something.
    pub async fn take(&self) -> BTreeMap<NodeId, Path> {
        loop {
            let found =
                std::mem::take(&mut *self.paths.lock().unwrap_or_else(PoisonError::into_inner));
            if !found.is_empty() {
                return found;
            }
            self.news.notified().await;
        }
    }
}

/// Probes until the sender of the assignments is gone.
///
/// # Errors
/// There is no randomness to be had.
pub async fn run(
    assignments: watch::Receiver<Assignment>,
    replies: mpsc::Receiver<ProbeReply>,
    found: Arc<Found>,
) -> io::Result<()> {
    let mut secret = [0; 32];
    rand::TryRngCore::try_fill_bytes(&mut rand::rngs::OsRng, &mut secret)
        .map_err(io::Error::other)?;
    let probes = Probes::new(Settings::default(), Secret::new(secret));
    let targets = BTreeMap::new();
    let reporter = Reporter::default();
    let sockets = Vec::new();
    Prober { probes, targets, reporter, sockets, found, losses_due: Duration::ZERO }
        .run(assignments, replies)
        .await;
    Ok(())
}

struct Prober {
    probes: Probes,
    /// Those that are probed now.
    targets: Targets,
    reporter: Reporter,
    sockets: Vec<(SocketAddr, UdpSocket)>,
    found: Arc<Found>,
    losses_due: Duration,
}

impl Prober {
    async fn run(
        mut self,
        mut assignments: watch::Receiver<Assignment>,
        mut replies: mpsc::Receiver<ProbeReply>,
    ) {
        let mut retry: Option<Instant> = None;
        let mut is_said = false;
        let mut is_new = true;
        loop {
            if std::mem::take(&mut is_new) {
                let assignment = assignments.borrow_and_update().clone();
                retry = None;
                match self.open(&assignment.me) {
                    Ok(()) => is_said = false,
                    Err((address, error)) => {
                        if !std::mem::replace(&mut is_said, true) {
                            warn!(
                                %address, %error,
                                "nodes are not probed: the port of the tunnel must be free on the \
                                 node's address; stop who has it, or set --tunnel-port or \
                                 --node-address"
                            );
                        }
                        retry = Some(Instant::now() + RETRY);
                    }
                }
                // Without probes every node counts as up.
                let mut targets = assignment.targets;
                targets.retain(|_, target| self.socket_to(target.addr).is_some());
                self.aim(targets);
            }
            self.poll();
            self.tell_losses();
            tokio::select! {
                // Answers first: what waits while this task was late must not be missed.
                biased;
                Some(reply) = replies.recv() => self.on_reply(&reply),
                changed = assignments.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    is_new = true;
                }
                () = at(retry) => is_new = true,
                () = until(self.probes.next_deadline()) => {}
            }
            for _ in 0..BATCH {
                let Ok(reply) = replies.try_recv() else { break };
                self.on_reply(&reply);
            }
        }
    }

    /// Has sockets at these addresses and no others. One that cannot be had does without.
    fn open(&mut self, me: &[SocketAddr]) -> Result<(), (SocketAddr, io::Error)> {
        self.sockets.retain(|(bound, _)| me.contains(bound));
        let mut failure = None;
        for address in me {
            if self.sockets.iter().any(|(bound, _)| bound == address) {
                continue;
            }
            match open(*address) {
                Ok(socket) => {
                    info!(%address, "probing other nodes");
                    self.sockets.push((*address, socket));
                }
                Err(error) => failure = failure.or(Some((*address, error))),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// The socket of the peer's family.
    fn socket_to(&self, peer: PeerAddr) -> Option<&UdpSocket> {
        let own = self.sockets.iter().find(|(bound, _)| bound.is_ipv4() == peer.addr.is_v4());
        own.map(|(_, socket)| socket)
    }

    /// Probes these nodes and no others.
    fn aim(&mut self, targets: Targets) {
        let now = clock::now();
        let gone = |(id, old): &(&NodeId, &Target)| {
            targets.get(*id).is_none_or(|target| target.addr != old.addr)
        };
        let gone: Vec<NodeId> = self.targets.iter().filter(gone).map(|(id, _)| *id).collect();
        for id in gone {
            self.probes.remove_peer(id);
            self.targets.remove(&id);
        }
        for (id, target) in targets {
            self.targets.insert(id, target);
            let change = self.probes.set_peer(id, target.must_answer, now);
            self.on_change(change);
            // Whoever asks may have forgotten what it was told.
            self.reporter.forget(id);
            self.report(id);
        }
    }

    fn on_reply(&mut self, answer: &ProbeReply) {
        let ProbeReply { node, from, reply } = answer;
        // Its id may be another's by now.
        if self.targets.get(node).is_some_and(|target| target.addr == *from) {
            self.probes.answer(*node, reply, clock::now());
            self.report(*node);
        }
    }

    fn poll(&mut self) {
        let step = self.probes.poll(clock::now());
        for change in step.changes {
            self.on_change(Some(change));
        }
        for probe in step.probes {
            let Some(target) = self.targets.get(&probe.node) else { continue };
            let sent = clock::now();
            let sent_ns = u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX);
            let request = Probe::request(probe.seq, sent_ns, probe.nonce);
            self.probes.sent(probe.node, probe.seq, sent);
            if let Some(socket) = self.socket_to(target.addr) {
                let to = SocketAddr::new(target.addr.addr.to_ip(), target.addr.port);
                // One that cannot be sent is lost, as one that is lost on its way: the peer is
                // found to be cut off, and that is what is told.
                let _: io::Result<usize> = socket.try_send_to(request.as_bytes(), to);
            }
        }
    }

    fn on_change(&mut self, change: Option<Change>) {
        if let Some(Change { node, is_up }) = change {
            if let Some(target) = self.targets.get(&node) {
                let peer = target.addr;
                if is_up {
                    info!(?peer, "a node answers again");
                } else {
                    warn!(?peer, "a node does not answer: it gets no new flows until it does");
                }
            }
            self.report(node);
        }
    }

    /// For the metrics, now and then.
    fn tell_losses(&mut self) {
        let now = clock::now();
        if now < self.losses_due {
            return;
        }
        self.losses_due = now + LOSSES;
        let loss = |id: &NodeId| Some((*id, self.probes.path(*id, now)?.loss?));
        let losses = self.targets.keys().filter_map(loss).collect();
        *self.found.losses.lock().unwrap_or_else(PoisonError::into_inner) = losses;
    }

    fn report(&mut self, node: NodeId) {
        let Some(target) = self.targets.get(&node) else { return };
        let (is_up, rtt) = (self.probes.is_up(node), self.probes.rtt(node));
        if self.reporter.is_news(node, is_up, rtt, clock::now()) {
            self.found.tell(node, Path { addr: target.addr, is_up, rtt });
        }
    }
}

fn open(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    // As the tunnel's own packets: the program that sends a probe back need not sum it up.
    leave_checksums_out(&socket, address.is_ipv4())?;
    UdpSocket::from_std(socket)
}

/// The kernel sends UDP checksums of 0, which stand for none (RFC 768; for tunnels over IPv6,
/// RFC 6935).
fn leave_checksums_out(socket: &std::net::UdpSocket, is_v4: bool) -> io::Result<()> {
    let (level, option) = if is_v4 {
        (libc::SOL_SOCKET, libc::SO_NO_CHECK)
    } else {
        (libc::SOL_UDP, libc::UDP_NO_CHECK6_TX)
    };
    let on: libc::c_int = 1;
    // SAFETY: the socket is open, and the option is an int of the size given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    Ok(Errno::result(set).map(drop)?)
}

/// Until then; never, without a time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Until this time of the kernel's clock; never, without one.
async fn until(deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => sleep(deadline.saturating_sub(clock::now())).await,
        None => std::future::pending().await,
    }
}

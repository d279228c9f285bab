//! Probes the nodes of interest, in a task of its own: a burst of map writes delays no probe, and a
//! node that is cut off is found while the daemon's task is busy.
//!
//! Requests leave through a socket of the tunnel's port, because that is the sender whom the peer
//! knows. Answers do not come that way: the kernel program takes them, with the time at which it
//! had them, and they arrive through the event ring.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    let prober = Prober {
        probes,
        targets,
        reporter,
        sockets: Vec::new(),
        out_of_reach: BTreeSet::new(),
        found,
        losses_due: Duration::ZERO,
    };
    prober.run(assignments, replies).await;
    Ok(())
}

struct Prober {
    probes: Probes,
    /// Those that are probed now.
    targets: Targets,
    reporter: Reporter,
    sockets: Vec<(SocketAddr, UdpSocket)>,
    /// Those of which that was said.
    out_of_reach: BTreeSet<PeerAddr>,
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
                let mut targets = assignment.targets;
                self.leave_out_of_reach(&assignment.me, &mut targets);
                // Without probes every node counts as up.
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

    /// A node of a family of which this one has no address cannot be reached, whatever it answers.
    fn leave_out_of_reach(&mut self, me: &[SocketAddr], targets: &mut Targets) {
        let mut out_of_reach = BTreeSet::new();
        targets.retain(|id, target| {
            let peer = target.addr;
            let is_in_reach = me.iter().any(|own| own.is_ipv4() == peer.addr.is_v4());
            let was_in_reach = !self.out_of_reach.contains(&peer);
            if was_in_reach && !is_in_reach {
                warn!(
                    ?peer,
                    "a node cannot be reached: this one has no address of that family; give its \
                     uplink one, or give both an address of one family (--node-address)"
                );
            }
            if !(was_in_reach && is_in_reach) {
                self.found.tell(*id, Path { addr: peer, is_up: is_in_reach, rtt: None });
            }
            if !is_in_reach {
                out_of_reach.insert(peer);
            }
            is_in_reach
        });
        self.out_of_reach = out_of_reach;
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use tokio::time::timeout;
    use zerocopy::FromBytes;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// A peer on the loopback interface, which takes datagrams without checksums as well.
    async fn peer(ip: IpAddr) -> UdpSocket {
        let socket = UdpSocket::bind((ip, 0)).await.unwrap();
        if ip.is_ipv6() {
            let on: libc::c_int = 1;
            // SAFETY: the socket is open, and the option is an int of the size given.
            let set = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_UDP,
                    libc::UDP_NO_CHECK6_RX,
                    (&raw const on).cast(),
                    size_of_val(&on) as libc::socklen_t,
                )
            };
            assert_eq!(set, 0);
        }
        socket
    }

    fn target(address: SocketAddr) -> Target {
        let addr = PeerAddr { addr: address.ip().into(), port: address.port() };
        Target { addr, must_answer: false }
    }

    /// An address with a port that nobody has.
    async fn free(ip: IpAddr) -> SocketAddr {
        UdpSocket::bind((ip, 0)).await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_node_is_probed_over_its_family_or_out_of_reach() {
        let families: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        let peers = [peer(families[0]).await, peer(families[1]).await];
        let targets = || {
            let addresses = peers.iter().map(|peer| target(peer.local_addr().unwrap()));
            (1..).zip(addresses).collect::<Targets>()
        };
        let v6_only =
            Assignment { me: vec![free(families[1]).await], uplink: 1, targets: targets() };
        let me = vec![free(families[0]).await, free(families[1]).await];
        let (assignments, assigned) = watch::channel(v6_only);
        let (_replies, no_replies) = mpsc::channel(1);
        let found = Arc::new(Found::default());
        let _prober = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(run(
            assigned,
            no_replies,
            Arc::clone(&found),
        )));
        let probed = async |peer: &UdpSocket| {
            let mut buffer = [0; 128];
            let (len, from) =
                timeout(PATIENCE, peer.recv_from(&mut buffer)).await.unwrap().unwrap();
            let probe = Probe::read_from_bytes(&buffer[..len]).unwrap();
            assert_eq!((probe.magic, probe.kind), (Probe::MAGIC, Probe::REQUEST));
            from
        };
        let told = async || timeout(PATIENCE, found.take()).await.unwrap();
        let paths = told().await;
        assert_eq!(paths.keys().collect::<Vec<_>>(), [&1], "the other counts as up");
        assert!(!paths[&1].is_up);
        probed(&peers[1]).await;
        assert!(peers[0].try_recv(&mut [0; 9]).is_err(), "nothing leaves for it");

        // The node gets an address of the other family as well.
        assignments.send_modify(|assignment| assignment.me = me.clone());
        assert!(told().await[&1].is_up);
        for (peer, me) in peers.iter().zip(me) {
            while probed(peer).await != me {}
        }
    }
}

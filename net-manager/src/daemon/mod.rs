//! The daemon: one task that owns the state and the maps, and what surrounds it.
//!
//! | Task | Takes | Gives |
//! |---|---|---|
//! | [`Daemon::run`] | misses, the cluster's messages, commands, time | map writes, packets sent on, messages to the cluster |
//! | `kernel::events` | the event ring | misses, answers to probes, notices |
//! | `kernel::prober` | which nodes are of interest, answers to probes | probes, paths |
//! | `kernel::next_hop` | the same nodes, changes of routes and neighbours | next hops |
//! | `kernel::uplink` | changes of interfaces, addresses and default routes | what the uplink is |
//! | [`uplink::Refitter`] | the uplink | instances and reserved ports that fit it |
//! | `uplink` | the broker's connection | the cluster's messages |
//! | `api` | HTTP requests | commands, by way of [`instances::Instances`] |
//! | `kernel::sweep` (a thread, now and then) | the flow table | ended flows removed, services in use |
//!
//! The task never waits for anybody: what takes time is done elsewhere and comes back as input.

pub mod command;
mod commit;
mod full;
mod gate;
pub mod instances;
mod network;
mod news;
mod node;
mod observation;
mod plumbing;
mod ports;
pub mod purge;
pub mod start;
pub mod state;
mod sweeper;
mod uplink;

use std::{collections::HashMap, sync::Arc, time::Duration};

use net_maps::{Name, PinnedMaps};
use tokio::{
    sync::{mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use xylem_types::{
    net_api::{RegisterRequest, Status},
    port::PortMapping,
};

use crate::{
    chain::Chain,
    core::{
        ipam::Lease,
        tables::{InstanceId, Tables},
        uplink::Uplink,
        worker::Worker,
        xdp::UplinkXdp,
    },
    kernel::{clock, events::Miss, inject::Injector},
    uplink::{Broker, FromCluster, Message, Session},
};
use command::{Command, NotAttached};
use commit::Reply;
use full::FullMaps;
use gate::Gate;
use network::{Network, Remover, Watchers};
use observation::Observation;
use plumbing::Plumbing;
use state::State;
use sweeper::Sweeper;
use uplink::Refitter;

/// Inputs taken together before the maps are written, so that a burst costs one plan.
const BATCH: usize = 256;
/// Messages of the cluster that may wait.
const CLUSTER_QUEUE: usize = 1024;
/// How often interests and failed writes are looked after.
const TICK: Duration = Duration::from_secs(1);
/// How often lookup tables that depend on what is measured are looked at.
const BALANCE: Duration = Duration::from_millis(500);

/// The daemon's task.
#[derive(Debug)]
pub struct Daemon {
    worker: Worker,
    maps: PinnedMaps,
    /// What the maps hold, as far as this task, their only writer, knows.
    held: Tables,
    /// How many published ports the programs were told of.
    published_count: u32,
    /// A write failed and is to be tried again.
    incomplete: bool,
    injector: Injector,
    state: State,
    mqtt_port: u16,
    session: Option<Session>,
    full: FullMaps,
    lost_packets: Gate,
    failed_writes: Gate,
    /// Who waits for an instance's own address.
    unnamed: Vec<(Name, u32, oneshot::Sender<()>)>,
    replies: Vec<Reply>,
    sweeper: Sweeper,
    observation: Observation,
    watchers: Watchers,
    remover: Remover,
    uplink: Uplink,
    uplink_xdp: UplinkXdp,
    plumbing: Arc<Plumbing>,
    refitter: Refitter,
    /// Some instance may send larger packets than the uplink carries.
    oversized: bool,
    /// The uplink to which the programs could not move yet.
    unmoved: Option<Uplink>,
    failed_moves: Gate,
    /// Flows in progress to each instance when they were last counted, and how many it had been
    /// given until then.
    counted: HashMap<InstanceId, (u32, u64)>,
}

/// Where the daemon's inputs come from.
#[derive(Debug)]
struct Inputs {
    misses: mpsc::Receiver<Miss>,
    commands: mpsc::Receiver<Command>,
    cluster: Option<mpsc::Receiver<FromCluster>>,
    network: Network,
}

impl Daemon {
    /// Runs until told to stop; the data path stays as it is.
    async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) {
        if let Some(registration) = self.state.registration().cloned() {
            self.start_session(&registration, &mut inputs);
        }
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut balances = tokio::time::interval(BALANCE);
        balances.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.commit();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(miss) = inputs.misses.recv() => self.on_miss(miss),
                Some(message) = from_cluster(&mut inputs.cluster) => self.on_cluster(message),
                Some(command) = inputs.commands.recv() => self.on_command(command, &mut inputs),
                () = until(self.worker.next_deadline()) => self.worker.on_time(clock::now()),
                swept = self.sweeper.finished() => self.on_swept(swept),
                news = inputs.network.next() => self.on_news(news),
                () = self.remover.step() => {}
                larger = self.refitter.step() => self.on_refitted(larger),
                _ = balances.tick() => self.on_balance(),
                _ = ticks.tick() => self.on_tick(),
            }
            self.take_more(&mut inputs);
            self.commit();
        }
    }

    /// Whatever else is there already.
    fn take_more(&mut self, inputs: &mut Inputs) {
        for _ in 0..BATCH {
            let Ok(miss) = inputs.misses.try_recv() else { break };
            self.on_miss(miss);
        }
        for _ in 0..BATCH {
            let Some(Ok(message)) = inputs.cluster.as_mut().map(mpsc::Receiver::try_recv) else {
                break;
            };
            self.on_cluster(message);
        }
    }

    fn on_miss(&mut self, miss: Miss) {
        self.worker.on_miss(miss.kind, miss.dst, miss.packet, clock::now());
    }

    fn on_cluster(&mut self, message: FromCluster) {
        match message {
            FromCluster::Connected => self.worker.on_connected(),
            FromCluster::Disconnected => {
                self.worker.on_disconnected();
                self.observation.on_disconnected();
            }
            FromCluster::Message(Message::Grant(grant)) => self.worker.on_grant(&grant),
            FromCluster::Message(Message::Answer(answer)) => {
                let now = clock::now();
                self.observation.on_answer(&answer, now);
                self.worker.on_answer(&answer, now);
            }
            FromCluster::Message(Message::Peers(peers)) => self.worker.on_peers(&peers.peers),
            FromCluster::Message(Message::Load(loads)) => self.worker.on_load(&loads),
            FromCluster::Message(Message::Updated(name)) => self.worker.on_update(name),
        }
    }

    fn on_command(&mut self, command: Command, inputs: &mut Inputs) {
        match command {
            Command::Register(request) => self.on_register(&request, inputs),
            Command::Lease(reply) => {
                if let Err(Ok(lease)) = reply.send(self.worker.lease()) {
                    self.worker.release(lease);
                }
            }
            Command::Release(lease) => self.worker.release(lease),
            Command::Attach { name, number, lease, ifindex, ports, reply } => {
                self.on_attach(name, number, lease, ifindex, &ports, reply);
            }
            Command::Detach { name, number, reply } => {
                let what = self.worker.detach(name, number, clock::now());
                self.replies.push(Reply::Detached { what, to: reply });
            }
            Command::Local { name, number, reply } => {
                let translation = self.worker.translation();
                let local = translation.local_instance(name, number);
                answer(reply, local.map(|local| (local, translation.ports(name, number))));
            }
            Command::Named { name, number, reply } => self.unnamed.push((name, number, reply)),
            Command::Status(reply) => answer(reply, self.status()),
            Command::Observe(reply) => answer(reply, self.observe()),
        }
    }

    fn on_attach(
        &mut self,
        name: Name,
        number: u32,
        lease: Lease,
        ifindex: u32,
        ports: &[PortMapping],
        reply: oneshot::Sender<Result<(), NotAttached>>,
    ) {
        let now = clock::now();
        let attached = self
            .worker
            .translation()
            .check_ports(name, number, ports)
            .map_err(NotAttached::from)
            .and_then(|()| Ok(self.worker.attach(name, number, lease, ifindex, now)?))
            .and_then(|()| Ok(self.worker.publish(name, number, ports)?));
        match attached {
            Ok(()) => {
                let addr = lease.v4.into();
                self.replies.push(Reply::Attached { name, number, addr, to: reply });
            }
            Err(refused) => {
                if let NotAttached::Full(full) = &refused {
                    self.full.count(full.map, now);
                }
                answer(reply, Err(refused));
            }
        }
    }

    fn on_register(&mut self, request: &RegisterRequest, inputs: &mut Inputs) {
        let before = self.state.registration();
        if before == Some(request) && self.session.is_some() {
            return;
        }
        info!(node.id = request.client_id, cluster = request.cluster_address, "registered");
        let other_worker = before.is_some_and(|before| before.client_id != request.client_id);
        let mut kept = self.state.set_registration(request);
        if other_worker {
            // Another worker has another subnet.
            kept = kept.and_then(|()| self.state.set_subnet(None));
            self.worker.forget_subnet();
        }
        if let Err(error) = kept {
            error!(error = %Chain(&error), "after a restart this worker must be registered again");
        }
        self.start_session(request, inputs);
    }

    fn start_session(&mut self, registration: &RegisterRequest, inputs: &mut Inputs) {
        let broker = Broker {
            worker_id: registration.client_id.clone(),
            host: registration.cluster_address.clone(),
            port: registration.mqtt_port.unwrap_or(self.mqtt_port),
        };
        if self.session.as_ref().is_some_and(|session| *session.broker() == broker) {
            return;
        }
        self.worker.on_disconnected();
        let (owner, messages) = mpsc::channel(CLUSTER_QUEUE);
        inputs.cluster = Some(messages);
        self.session = Some(Session::start(broker, owner));
    }

    /// Services that were not used lose their interest; failed writes are tried again.
    fn on_tick(&mut self) {
        let now = clock::now();
        for name in self.worker.idle(now) {
            match self.last_use(name, now) {
                Ok(used) => self.worker.used(name, used),
                Err(error) => {
                    warn!(error = %Chain(&error), "cannot read when a service was used");
                    self.worker.used(name, now);
                }
            }
        }
        self.worker.drop_idle(now);
        let translation = self.worker.translation();
        self.observation.retain(|name| translation.knows(name));
        if std::mem::take(&mut self.incomplete) {
            self.worker.translation_mut().unsettle(&self.held);
        }
        self.start_sweep();
        self.retry_move();
    }

    fn last_use(&self, name: Name, now: Duration) -> Result<Duration, net_maps::MapsError> {
        let mut last = Duration::ZERO;
        for slot in self.worker.translation().slots(name) {
            let packet = Duration::from_nanos(self.maps.service_traffic(slot)?.last_used_ns);
            last = last.max(self.sweeper.last().last_use(slot, packet, now));
        }
        Ok(last)
    }

    fn status(&self) -> Status {
        let translation = self.worker.translation();
        Status {
            worker_id: self.state.registration().map(|request| request.client_id.clone()),
            connected: self.worker.is_connected(),
            subnet: self.worker.subnet().map(|subnet| subnet.v4().to_string()),
            instances: translation.local().count(),
            services: translation.names().count(),
            open_questions: self.worker.open_questions(),
            map_full: self.full.counts(),
        }
    }
}

/// The next message of the cluster; never, without a session.
async fn from_cluster(messages: &mut Option<mpsc::Receiver<FromCluster>>) -> Option<FromCluster> {
    match messages {
        Some(messages) => messages.recv().await,
        None => std::future::pending().await,
    }
}

/// Until this time of the kernel's clock; never, without one.
async fn until(deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline.saturating_sub(clock::now())).await,
        None => std::future::pending().await,
    }
}

/// Whoever asked may have gone.
fn answer<T>(to: oneshot::Sender<T>, what: T) {
    if to.send(what).is_err() {
        debug!("nobody waits for a reply any more");
    }
}

//! The workers: who they are, when they were last heard, how much room they have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use xylem_types::{
    mqtt::{ControlError, Peer, PeerKind, TunnelEndpoint},
    node::Node,
    port::node_ports,
    session::WorkerRoom,
};

use super::{Cluster, Instance, Time};
use crate::message::{FromWorker, ToWorker};

/// Ticks further apart than this mean that the cluster itself stood still.
const OWN_PAUSE: Duration = Duration::from_secs(1);
/// Longest identity of a worker, bytes.
const ID_MAX: usize = 200;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// As registered; the dynamic fields as last heard.
    pub node: Node,
    #[serde(default)]
    pub subnet: Option<Subnet>,
    /// Where its tunnel is reached, as it said itself: Xylem's net manager does.
    #[serde(default)]
    pub endpoint: Option<TunnelEndpoint>,
    /// The same, as its last attached instance said: all that Oakestra's net manager tells.
    #[serde(default)]
    pub endpoint_seen: Option<TunnelEndpoint>,
    #[serde(skip)]
    pub(super) live: Live,
}

/// The range of a worker's namespace IPs, by network addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// What need not survive a restart of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Live {
    /// Silence counts from here. Ahead of the present while a grace lasts.
    heard_at: Time,
    /// Has spoken since the cluster started.
    heard: bool,
    lost: bool,
    /// Whether it was told its peers and commands since it, the broker or the cluster came back.
    pub(super) up_to_date: bool,
    /// When it last listed its instances.
    pub(super) resources_at: Option<Time>,
    pub(super) peers_sent: Option<Vec<Peer>>,
    /// When the peers were sent again because the worker had asked.
    pub(super) peers_repeated_at: Option<Time>,
    /// It waits for a subnet.
    pub(super) subnet_wanted: bool,
}

/// Why a worker cannot join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationRefused {
    #[error("neither id nor host is given: send the worker's own id, or its host name")]
    NoIdentity,
    #[error(
        "{id:?} cannot name a worker: it is part of MQTT topics, so it must be shorter than \
         {ID_MAX} bytes and have no '/', '+', '#', space or control character"
    )]
    Identity { id: String },
}

impl Worker {
    /// Xylem's workers bring an identity of their own, and know generations.
    pub fn identified(&self) -> bool {
        !self.node.id.is_empty()
    }

    pub(super) fn kind(&self) -> PeerKind {
        if self.endpoint.is_some() { PeerKind::Xylem } else { PeerKind::Oakestra }
    }

    /// Where peers reach its tunnel.
    pub(super) fn tunnel(&self) -> Option<TunnelEndpoint> {
        self.endpoint.or(self.endpoint_seen).or_else(|| {
            let host_ip: IpAddr = self.node.ip.parse().ok()?;
            let host_port = Some(self.node.net_manager_port).filter(|port| *port != 0)?;
            Some(TunnelEndpoint { host_ip, host_port })
        })
    }

    /// Takes part in placement: it has spoken, and not fallen silent since.
    pub(super) fn active(&self) -> bool {
        self.live.heard && !self.live.lost
    }

    pub(super) fn lost(&self) -> bool {
        self.live.lost
    }

    /// MB of the whole machine, from what is available and how much that is not.
    fn total_memory(&self) -> f64 {
        let available_share = 1.0 - self.node.memory_percent / 100.0;
        if available_share > 0.01 { self.node.memory / available_share } else { self.node.memory }
    }
}

impl Live {
    fn hear(&mut self, now: Time) {
        self.heard_at = now;
        self.heard = true;
        self.lost = false;
    }

    /// Nothing could be heard until now: silence counts only from `grace` on.
    pub(super) fn grant_grace(&mut self, now: Time, grace: Duration) {
        self.heard_at = self.heard_at.max(now + grace);
    }

    fn silence(&self, now: Time) -> Duration {
        now.saturating_sub(self.heard_at)
    }
}

impl Cluster {
    /// A worker joins, or says again who it is. `peer_ip` is where its request came from.
    ///
    /// Returns its id: its own where it has one, else its host name.
    ///
    /// # Errors
    /// When it says no name that could be part of a topic.
    pub fn register(
        &mut self,
        mut node: Node,
        peer_ip: Option<IpAddr>,
        now: Time,
    ) -> Result<String, RegistrationRefused> {
        let id = if node.id.is_empty() { node.host.clone() } else { node.id.clone() };
        if id.is_empty() {
            return Err(RegistrationRefused::NoIdentity);
        }
        let odd = |c: char| matches!(c, '/' | '+' | '#') || c.is_whitespace() || c.is_control();
        if id.len() >= ID_MAX || id.contains(odd) {
            return Err(RegistrationRefused::Identity { id });
        }
        if node.host.is_empty() {
            node.host.clone_from(&id);
        }
        if node.ip.is_empty() {
            node.ip = peer_ip.map(|ip| ip.to_string()).unwrap_or_default();
        }
        match self.workers.get_mut(&id) {
            Some(worker) => worker.node = node,
            None => {
                let worker = Worker {
                    node,
                    subnet: None,
                    endpoint: None,
                    endpoint_seen: None,
                    live: Live::default(),
                };
                self.workers.insert(id.clone(), worker);
            }
        }
        let worker = self.workers.get_mut(&id).expect("inserted above");
        // It takes part once it speaks at the broker; before, it would miss its commands.
        worker.live.grant_grace(now, self.settings.worker_silence);
        // It may have restarted and forgotten what it was told.
        worker.live.up_to_date = false;
        self.touched.workers.insert(id.clone());
        Ok(id)
    }

    /// Notes that a worker speaks; false when nobody of this id has registered.
    ///
    /// Only the node engine's word counts as a sign of life: it has what is needed to run
    /// instances. When the net manager speaks, the node engine need not be there.
    pub(super) fn hear(&mut self, id: &str, message: &FromWorker, now: Time) -> bool {
        let Some(worker) = self.workers.get_mut(id) else { return false };
        let by_node_engine = matches!(
            message,
            FromWorker::Information(_) | FromWorker::Job(_) | FromWorker::Resources(_)
        );
        if !by_node_engine {
            return true;
        }
        if !worker.active() {
            // The root need not wait to hear that there is more room.
            self.resources_due = now;
        }
        worker.live.hear(now);
        if !std::mem::replace(&mut worker.live.up_to_date, true) {
            worker.live.peers_sent = None;
            self.peers_stale = true;
            self.repeat_commands(id, now);
        }
        true
    }

    /// A worker that we do not know can do nothing but register. Answered once a beat, not once a
    /// message.
    pub(super) fn answer_stranger(&mut self, id: &str, message: &FromWorker) {
        if matches!(message, FromWorker::Information(_)) {
            let message = format!("no worker {id} has registered at this cluster: register again");
            self.send(id, ToWorker::Error(ControlError { message }));
        }
    }

    pub(super) fn on_information(&mut self, id: &str, said: &Node) {
        let worker = self.workers.get_mut(id).expect("heard just before");
        let node = &mut worker.node;
        node.cpu_percent = said.cpu_percent;
        node.memory_percent = said.memory_percent;
        node.gpu_usage = said.gpu_usage;
        node.gpu_temp = said.gpu_temp;
        node.vram_percent = said.vram_percent;
        if said.memory > 0.0 {
            node.memory = said.memory;
        }
        if said.vram > 0.0 {
            node.vram = said.vram;
        }
        // What does not change by itself is written down when it did. A zero means "not said".
        let before = node.clone();
        if said.vcpus > 0 {
            node.vcpus = said.vcpus;
        }
        if said.vgpus > 0 {
            node.vgpus = said.vgpus;
        }
        if said.net_manager_port > 0 {
            node.net_manager_port = said.net_manager_port;
        }
        let texts = [
            (&mut node.host, &said.host),
            (&mut node.ip, &said.ip),
            (&mut node.port, &said.port),
            (&mut node.architecture, &said.architecture),
            (&mut node.gpu_driver, &said.gpu_driver),
        ];
        for (known, said) in texts {
            if !said.is_empty() {
                known.clone_from(said);
            }
        }
        for (known, said) in [
            (&mut node.virtualization, &said.virtualization),
            (&mut node.supported_addons, &said.supported_addons),
        ] {
            if !said.is_empty() {
                known.clone_from(said);
            }
        }
        if !said.csi_drivers.is_empty() {
            node.csi_drivers.clone_from(&said.csi_drivers);
        }
        if *node != before {
            self.touched.workers.insert(id.to_owned());
        }
    }

    /// While this process was stopped, nobody could be heard: that time is nobody's silence.
    pub(super) fn forgive_own_pauses(&mut self, now: Time) {
        let pause = now.saturating_sub(self.last_tick);
        if pause > OWN_PAUSE {
            for worker in self.workers.values_mut() {
                let live = &mut worker.live;
                live.heard_at = live.heard_at.max((live.heard_at + pause).min(now));
            }
        }
    }

    pub(super) fn find_lost_workers(&mut self, now: Time) {
        if !self.broker_connected {
            return;
        }
        let limit = self.settings.worker_silence;
        let lost: Vec<String> = self
            .workers
            .iter_mut()
            .filter(|(_, worker)| !worker.live.lost && worker.live.silence(now) > limit)
            .map(|(id, worker)| {
                worker.live.lost = true;
                worker.live.up_to_date = false;
                id.clone()
            })
            .collect();
        for id in lost {
            tracing::warn!(node.id = %id, silence = ?limit, "worker lost");
            self.tally.workers_lost += 1;
            self.resources_due = now;
            self.give_up_worker(&id, now);
        }
    }

    /// The room on every active worker, after reservations.
    pub(super) fn rooms(&self) -> Vec<WorkerRoom> {
        let mut rooms: BTreeMap<&str, Room> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.active())
            .map(|(id, worker)| {
                let cordoned = self.membership.cordoned.contains(id);
                (id.as_str(), Room::new(id, worker, cordoned))
            })
            .collect();
        for instance in self.instances.values().filter(|instance| instance.occupies()) {
            let room = instance.worker.as_ref().and_then(|id| rooms.get_mut(id.as_str()));
            if let Some(room) = room {
                room.take(instance);
            }
        }
        rooms.into_values().map(Room::left).collect()
    }

    /// The root's list of workers that take no new instances.
    pub(super) fn on_cordoned(&mut self, workers: BTreeSet<String>, now: Time) {
        if self.membership.cordoned != workers {
            tracing::info!(nodes = ?workers, "workers that take no new instances");
            self.membership.cordoned = workers;
            self.touched.membership = true;
            self.resources_due = now;
        }
    }

    pub fn workers(&self) -> impl Iterator<Item = (&String, &Worker, bool)> {
        self.workers.iter().map(|(id, worker)| (id, worker, worker.active()))
    }
}

/// The room on a worker, while instances are counted against it.
struct Room {
    left: WorkerRoom,
    /// MB, as the worker says, less what its instances have yet to take.
    available: f64,
}

impl Room {
    fn new(id: &str, worker: &Worker, cordoned: bool) -> Self {
        let node = &worker.node;
        let total_memory = worker.total_memory();
        let left = WorkerRoom {
            worker_id: id.to_owned(),
            name: node.host.clone(),
            free_vcpus: f64::from(node.vcpus),
            free_memory: total_memory,
            free_vgpus: node.vgpus,
            total_vcpus: f64::from(node.vcpus),
            total_memory,
            instances: 0,
            node_ports: BTreeSet::new(),
            cordoned,
            cpu_percent: node.cpu_percent,
            memory_percent: node.memory_percent,
            architecture: node.architecture.clone(),
            virtualization: node.virtualization.clone(),
            csi_drivers: node.csi_drivers.iter().map(|d| d.csi_driver_name.clone()).collect(),
        };
        Self { left, available: node.memory }
    }

    fn take(&mut self, instance: &Instance) {
        let command = &instance.placement.command;
        let memory = command.memory as f64;
        self.left.free_vcpus -= command.vcpus;
        self.left.free_memory -= memory;
        self.left.free_vgpus = self.left.free_vgpus.saturating_sub(instance.placement.vgpus);
        self.left.instances += 1;
        self.left.node_ports.extend(node_ports(&command.port));
        // One that runs has its memory, so what is available no longer includes it.
        if instance.live.running_since.is_none() {
            self.available -= memory;
        }
    }

    fn left(mut self) -> WorkerRoom {
        self.left.free_memory = self.left.free_memory.min(self.available);
        self.left
    }
}

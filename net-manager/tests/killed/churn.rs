//! What changes around the flows: instances come, move, drain and go, ports are published and
//! withdrawn, nodes die, return, are announced and are not; and somebody dials it all.
//!
//! Whatever is asked of the net manager is asked again until it is done, as a node engine does it.

use std::{
    cell::Cell,
    fmt,
    net::{Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use hyper::{Method, StatusCode};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;
use xylem_types::{
    mqtt::IpType,
    net_api::{DeployRequest, UndeployRequest},
};

use crate::{
    scene::{self, PLAYED},
    support::{
        NetManager,
        cluster::{self, Cluster},
        peer::Peer,
        process::Process,
    },
};

const SERVICES: u8 = 4;
const NUMBERS: u8 = 3;
/// Until a request is done, with a net manager that is killed meanwhile.
const PATIENCE: Duration = Duration::from_secs(20);
/// A service with many instances, which all come and go at once: to write them takes a while.
const CROWD: &str = "churn.prod.crowd.prod";
const CROWD_RR: Ipv4Addr = Ipv4Addr::new(10, 30, 20, 1);
const CROWD_SIZE: u32 = 300;
const POLICIES: [(u8, IpType); 3] =
    [(2, IpType::Closest), (3, IpType::Underutilized), (4, IpType::Affinity)];

/// What is told of what changes.
pub struct World<'a> {
    pub cluster: &'a Cluster,
    pub peers: &'a [Peer],
    /// Whether the net manager that is looked at was asked something and has not answered yet.
    pub is_asked: Cell<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Nowhere,
    Here,
    /// On a node that is played.
    Elsewhere(usize),
}

/// One instance.
#[derive(Debug)]
struct Slot {
    service: u8,
    number: u8,
    place: Place,
    /// How many ports it publishes while it is here.
    ports: u16,
}

impl Slot {
    fn name(&self) -> String {
        name(self.service)
    }

    fn ports(&self) -> String {
        let first = 9000 + 10 * (u16::from(self.service) * 3 + u16::from(self.number));
        let ports: Vec<String> = (0..self.ports)
            .map(|n| format!("{}:80/{}", first + n, ["tcp", "udp"][usize::from(n % 2)]))
            .collect();
        ports.join(";")
    }
}

/// See the module's documentation.
pub struct Churn {
    chance: StdRng,
    slots: Vec<Slot>,
    processes: Vec<Process>,
    steps: u32,
    /// Requests that found nobody, or whose answer did not come.
    repeated: u32,
}

impl fmt::Display for Churn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} changes, {} requests made again", self.steps, self.repeated)
    }
}

fn name(service: u8) -> String {
    format!("churn.prod.s{service}.prod")
}

impl World<'_> {
    /// Much changes at once.
    pub async fn change_everything(&self, chance: &mut StdRng) {
        let is_there = !self.cluster.state.lock().unwrap().services[CROWD].deployed.is_empty();
        self.gather_crowd(if is_there { 0 } else { CROWD_SIZE }).await;
        for service in 0..SERVICES {
            for number in 0..NUMBERS {
                if chance.random_ratio(1, 3) {
                    self.toggle_draining(service, number);
                }
            }
            self.cluster.announce_update(&name(service)).await;
        }
        self.announce_some(chance).await;
    }

    /// So many instances of the crowd are on a node that is played.
    async fn gather_crowd(&self, count: u32) {
        self.cluster.state.lock().unwrap().services.get_mut(CROWD).unwrap().deployed.clear();
        for number in 0..count {
            let [high, low] = (number as u16).to_be_bytes();
            self.cluster.place(CROWD, number, [10, 18, 200 + high, low], PLAYED[0]);
        }
        self.cluster.announce_update(CROWD).await;
    }

    fn toggle_draining(&self, service: u8, number: u8) {
        let mut state = self.cluster.state.lock().unwrap();
        let draining = &mut state.services.get_mut(&name(service)).unwrap().draining;
        if !draining.remove(&number.into()) {
            draining.insert(number.into());
        }
    }

    /// Announces the real node and some of those that are played.
    async fn announce_some(&self, chance: &mut StdRng) {
        let mut some = vec![scene::THERE];
        some.extend(PLAYED.iter().filter(|_| chance.random_ratio(2, 3)));
        self.cluster.set_peers(cluster::WORKER, &some).await;
    }
}

impl Churn {
    /// Tells the cluster of the services, none of which has an instance yet.
    pub fn declare(cluster: &Cluster) {
        for service in 0..SERVICES {
            let numbers: Vec<(u32, [u8; 4])> =
                (0..NUMBERS).map(|n| (n.into(), [10, 30, 10 + service, 10 + n])).collect();
            cluster.declare(&name(service), [10, 30, 10 + service, 1], &numbers);
            for (last, policy) in POLICIES {
                cluster.set_address(&name(service), policy, [10, 30, 10 + service, last]);
            }
        }
        let numbers: Vec<(u32, [u8; 4])> = (0..CROWD_SIZE)
            .map(|n| {
                let [high, low] = (n as u16).to_be_bytes();
                (n, [10, 30, 21 + high, low])
            })
            .collect();
        cluster.declare(CROWD, CROWD_RR.octets(), &numbers);
    }

    pub async fn new(seed: u64) -> Self {
        let mut chance = StdRng::seed_from_u64(!seed);
        let mut slots = Vec::new();
        let mut processes = Vec::new();
        for service in 0..SERVICES {
            for number in 0..NUMBERS {
                let ports = chance.random_range(0..4);
                slots.push(Slot { service, number, place: Place::Nowhere, ports });
                processes.push(Process::start().await);
            }
        }
        Self { chance, slots, processes, steps: 0, repeated: 0 }
    }

    /// Changes something, and again, until told to stop.
    pub async fn run(
        &mut self,
        world: &World<'_>,
        manager: &NetManager,
        dialler: &Process,
        stop: &Cell<bool>,
    ) {
        while !stop.get() {
            self.step(world, manager, dialler).await;
            self.steps += 1;
            tokio::time::sleep(Duration::from_millis(self.chance.random_range(0..15))).await;
        }
    }

    async fn step(&mut self, world: &World<'_>, manager: &NetManager, dialler: &Process) {
        let index = self.chance.random_range(0..self.slots.len());
        let Slot { service, number, .. } = self.slots[index];
        match self.chance.random_range(0..10) {
            0..4 => {
                let to = match self.chance.random_range(0..5) {
                    0 => Place::Nowhere,
                    1 | 2 => Place::Here,
                    _ => Place::Elsewhere(self.chance.random_range(0..PLAYED.len())),
                };
                self.relocate(index, to, world, manager).await;
            }
            4 => {
                self.slots[index].ports = self.chance.random_range(0..4);
                if self.slots[index].place == Place::Here {
                    self.deploy(index, world, manager).await;
                }
            }
            5 => {
                world.toggle_draining(service, number);
                world.cluster.announce_update(&name(service)).await;
            }
            6 => world.announce_some(&mut self.chance).await,
            7 => {
                let is_mute = self.chance.random_ratio(1, 2);
                world.peers[usize::from(number)].mute(is_mute);
            }
            _ => {
                let all = self.addresses();
                let some = (0..8).map(|_| all[self.chance.random_range(0..all.len())]);
                dial(dialler, some.chain([CROWD_RR]).collect()).await;
            }
        }
    }

    async fn relocate(&mut self, index: usize, to: Place, world: &World<'_>, manager: &NetManager) {
        let slot = &self.slots[index];
        let (name, number, from) = (slot.name(), u32::from(slot.number), slot.place);
        if from == to {
            return;
        }
        if from == Place::Here {
            let request = UndeployRequest {
                pid: -1,
                service_name: name.clone(),
                instance_number: number,
                port_mappings: String::new(),
            };
            self.insist(world, manager, "/container/undeploy", &request).await;
        }
        let service = |change: &dyn Fn(&mut cluster::Service)| {
            change(world.cluster.state.lock().unwrap().services.get_mut(&name).unwrap());
        };
        // What the net manager had no time to say, the node engine says.
        service(&|service| {
            service.deployed.remove(&number);
        });
        self.slots[index].place = to;
        match to {
            Place::Nowhere => {}
            Place::Here => self.deploy(index, world, manager).await,
            Place::Elsewhere(node) => {
                let namespace_ip = [10, 18, 100 + node as u8, 2 + index as u8];
                world.cluster.place(&name, number, namespace_ip, PLAYED[node]);
            }
        }
        world.cluster.announce_update(&name).await;
    }

    async fn deploy(&mut self, index: usize, world: &World<'_>, manager: &NetManager) {
        let request = self.deployment(index);
        self.insist(world, manager, "/container/deploy", &request).await;
    }

    fn deployment(&self, index: usize) -> DeployRequest {
        let slot = &self.slots[index];
        DeployRequest {
            pid: self.processes[index].pid(),
            service_name: slot.name(),
            instance_number: slot.number.into(),
            port_mappings: slot.ports(),
        }
    }

    /// Asks until it is done. What is answered is never a refusal.
    async fn insist<T: Serialize>(
        &mut self,
        world: &World<'_>,
        manager: &NetManager,
        path: &str,
        body: &T,
    ) {
        let started = Instant::now();
        loop {
            let body = serde_json::to_vec(body).unwrap();
            world.is_asked.set(true);
            let reply = manager.request(Method::POST, path, body).await;
            world.is_asked.set(false);
            match reply {
                Ok(reply) => return assert_eq!(reply.status, StatusCode::OK, "{path}: {reply:?}"),
                Err(error) => assert!(started.elapsed() < PATIENCE, "{path}: {error}"),
            }
            self.repeated += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Every node returns and is announced, and the cluster knows what runs where.
    pub async fn settle(&mut self, world: &World<'_>, manager: &NetManager) {
        for peer in world.peers {
            peer.mute(false);
        }
        // One more of each, so that there is something to compare.
        for (index, to) in [(0, Place::Here), (1, Place::Elsewhere(0)), (2, Place::Elsewhere(1))] {
            self.relocate(index, to, world, manager).await;
        }
        let mut all = vec![scene::THERE];
        all.extend(PLAYED);
        world.cluster.set_peers(cluster::WORKER, &all).await;
        world.gather_crowd(CROWD_SIZE / 2).await;
        for service in 0..SERVICES {
            world.cluster.announce_update(&name(service)).await;
        }
    }

    /// Deploys what is to be here, by a net manager that nobody kills.
    pub async fn deploy_all(&self, manager: &NetManager) {
        for index in 0..self.slots.len() {
            if self.slots[index].place == Place::Here {
                let reply = manager.post("/container/deploy", &self.deployment(index)).await;
                assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
            }
        }
    }

    /// How many instances are to be here.
    pub fn here(&self) -> usize {
        self.slots.iter().filter(|slot| slot.place == Place::Here).count()
    }

    pub fn names(&self) -> impl Iterator<Item = String> {
        (0..SERVICES).map(name).chain([CROWD.to_owned()])
    }

    /// Every address of every service, but for the instance IPs of the crowd.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        let lasts = (1..5).chain((0..NUMBERS).map(|n| 10 + n));
        let lasts: Vec<u8> = lasts.collect();
        (0..SERVICES)
            .flat_map(|s| lasts.iter().map(move |last| Ipv4Addr::new(10, 30, 10 + s, *last)))
            .chain([CROWD_RR])
            .collect()
    }
}

/// Sends one datagram to each.
pub async fn dial(dialler: &Process, addresses: Vec<Ipv4Addr>) {
    dialler
        .run(move || {
            for address in addresses {
                // From another port each time: each is a flow of its own.
                let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
                // It may be told that nobody is there.
                socket.send_to(b"hello", (address, 80)).ok();
            }
        })
        .await;
}

//! What the maps and the kernel have counted, read in one go.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    time::Duration,
};

use aya::{maps::MapInfo, programs::loaded_programs};
use net_common::{
    Addr, Counter, DropReason, Instance, Node, NodeState, Policy, ProgramCounter, Traffic,
};
use net_maps::{MapsError, Name, OpenError, PinnedMaps};

use crate::core::{
    tables::{InstanceId, NodeId, Slot, is_known, is_present},
    translation::Moved,
};

/// What only the daemon's task knows.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    pub connected: bool,
    pub open_questions: u64,
    /// Since the last answer about each service, or since the start.
    pub knowledge_ages: Vec<(Name, Duration)>,
    pub flows_by_slot: BTreeMap<Slot, u64>,
    pub flows_by_instance: BTreeMap<InstanceId, u64>,
    /// Entries of the flow table at the last count: established, and not yet.
    pub flow_entries: (u64, u64),
    pub sweep_took: Duration,
    /// Of every affinity table.
    pub moved: Vec<(Name, Policy, Moved)>,
    /// Share of lost probes.
    pub losses: BTreeMap<NodeId, f64>,
    pub map_full: BTreeMap<String, u64>,
}

/// Traffic of a service or an instance.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    pub traffic: Traffic,
    pub active_flows: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct MapSize {
    pub map: &'static str,
    pub entries: u64,
    pub capacity: u64,
}

#[derive(Clone, Debug)]
pub struct PeerState {
    pub address: String,
    pub is_up: bool,
    pub rtt: Option<Duration>,
    pub loss: Option<f64>,
}

/// What the kernel tells of a program while `kernel.bpf_stats_enabled` is on.
#[derive(Clone, Debug)]
pub struct Runs {
    pub program: String,
    pub time: Duration,
    pub count: u64,
}

/// One scrape.
#[derive(Debug)]
pub struct Reading {
    pub services: BTreeMap<(Name, PolicyName), Used>,
    pub instances: BTreeMap<(Name, u32), Used>,
    pub drops: Vec<(DropReason, Counter)>,
    pub actions: Vec<(ProgramCounter, Counter)>,
    pub maps: Vec<MapSize>,
    pub peers: Vec<PeerState>,
    pub runs: Vec<Runs>,
    pub observed: Observed,
}

/// A policy, in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyName(&'static str);

impl From<Policy> for PolicyName {
    fn from(policy: Policy) -> Self {
        Self(policy.name())
    }
}

impl PolicyName {
    pub fn name(self) -> &'static str {
        self.0
    }
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error("the reading ended early")]
    Thread(#[from] tokio::task::JoinError),
}

/// Reads everything. Blocks.
///
/// # Errors
/// A map cannot be read.
pub fn read(
    bpffs_root: &Path,
    programs: &[(u32, String)],
    observed: Observed,
) -> Result<Reading, ReadError> {
    let maps = PinnedMaps::open(bpffs_root)?;
    let names: HashMap<Slot, Name> = maps.names()?.into_iter().collect();
    let services = maps.services()?;
    let instances = present(maps.instances()?);
    let nodes = maps.nodes()?;
    let sizes = sizes(&maps, &observed, &names, services.len(), instances.len(), &nodes)?;

    let mut by_service: BTreeMap<(Name, PolicyName), Used> = BTreeMap::new();
    let policies: HashMap<Slot, Policy> = services
        .iter()
        .filter_map(|(_, service)| Some((service.slot, Policy::from_raw(service.policy)?)))
        .collect();
    for (slot, policy) in policies {
        let Some(name) = names.get(&slot) else { continue };
        let traffic = maps.service_traffic(slot)?;
        let active_flows = observed.flows_by_slot.get(&slot).copied().unwrap_or(0);
        if was_used(&traffic) {
            let used = by_service.entry((*name, policy.into())).or_default();
            used.traffic = add(used.traffic, traffic);
            used.active_flows += active_flows;
        }
    }
    let mut by_instance = BTreeMap::new();
    for (id, instance) in instances {
        let Some(name) = names.get(&instance.service) else { continue };
        let traffic = maps.instance_traffic(id)?;
        let active_flows = observed.flows_by_instance.get(&id).copied().unwrap_or(0);
        if was_used(&traffic) {
            by_instance.insert((*name, instance.number), Used { traffic, active_flows });
        }
    }
    Ok(Reading {
        services: by_service,
        instances: by_instance,
        drops: maps.drops()?,
        actions: maps.program_counters()?,
        maps: sizes,
        peers: nodes.iter().filter_map(|(id, node)| peer(*id, node, &observed)).collect(),
        runs: runs(programs),
        observed,
    })
}

fn present(instances: Vec<(InstanceId, Instance)>) -> Vec<(InstanceId, Instance)> {
    instances.into_iter().filter(|(_, instance)| is_present(instance)).collect()
}

fn was_used(traffic: &Traffic) -> bool {
    traffic.new_flows != 0 || traffic.egress.packets != 0 || traffic.ingress.packets != 0
}

fn add(a: Traffic, b: Traffic) -> Traffic {
    let counter = |a: Counter, b: Counter| Counter {
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
    };
    Traffic {
        egress: counter(a.egress, b.egress),
        ingress: counter(a.ingress, b.ingress),
        new_flows: a.new_flows.wrapping_add(b.new_flows),
        last_used_ns: a.last_used_ns.max(b.last_used_ns),
    }
}

fn sizes(
    maps: &PinnedMaps,
    observed: &Observed,
    names: &HashMap<Slot, Name>,
    services: usize,
    instances: usize,
    nodes: &[(NodeId, Node)],
) -> Result<Vec<MapSize>, ReadError> {
    let nodes = nodes.iter().filter(|(_, node)| is_known(node)).count();
    let (flows, opening) = observed.flow_entries;
    let entries = [
        ("services", services as u64),
        ("names", names.len() as u64),
        ("instances", instances as u64),
        ("nodes", nodes as u64),
        ("peers", maps.peers()?.len() as u64),
        ("endpoints", maps.endpoints()?.len() as u64),
        ("published", maps.published()?.len() as u64),
        ("flows", flows),
        ("opening", opening),
    ];
    let size = |(map, entries): (&'static str, u64)| {
        let info = MapInfo::from_pin(maps.dir().join(map)).ok()?;
        Some(MapSize { map, entries, capacity: info.max_entries().into() })
    };
    Ok(entries.into_iter().filter_map(size).collect())
}

fn peer(id: NodeId, node: &Node, observed: &Observed) -> Option<PeerState> {
    let is_another = id != 0 && is_known(node) && node.addr != Addr::UNSPECIFIED;
    is_another.then(|| PeerState {
        address: std::net::SocketAddr::new(node.addr.to_ip(), u16::from_be(node.port)).to_string(),
        is_up: node.state == NodeState::Up as u32,
        rtt: (node.rtt_us != 0).then(|| Duration::from_micros(node.rtt_us.into())),
        loss: observed.losses.get(&id).copied(),
    })
}

/// One program may be loaded several times, for several hooks.
fn runs(programs: &[(u32, String)]) -> Vec<Runs> {
    let mut found: BTreeMap<&str, Runs> = BTreeMap::new();
    for info in loaded_programs().flatten() {
        let Some((_, name)) = programs.iter().find(|(id, _)| *id == info.id()) else { continue };
        let runs = found.entry(name).or_insert_with(|| Runs {
            program: name.clone(),
            time: Duration::ZERO,
            count: 0,
        });
        runs.time += info.run_time();
        runs.count += info.run_count();
    }
    found.into_values().collect()
}

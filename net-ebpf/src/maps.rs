//! Every map of the data path: who writes it, who reads it. All are pinned by user space.
//!
//! Capacities are the defaults of `net_common::limits`; user space may create them with others.

use crate::packet::Packet;
use aya_ebpf::{
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf},
    macros::btf_map,
};
use net_common::{
    Addr, Config, Counter, DropReason, Endpoint, Flow, FlowKey, Instance, Node, PeerKey,
    ProgramCounter, Service, Traffic, limits,
};

/// `BPF_F_NO_PREALLOC`: memory for entries that exist, not for those that may.
const NO_PREALLOC: usize = 1;
/// `BPF_F_INNER_MAP`: inner maps may have fewer elements than the template.
const INNER_MAP: usize = 0x1000;

/// Written by user space.
#[btf_map(name = "config")]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Translation table: service or instance IP → what it means. Written by user space.
#[btf_map(name = "services")]
pub static SERVICES: HashMap<Addr, Service, { limits::SERVICES as usize }, NO_PREALLOC> =
    HashMap::new();

/// By slot: the weighted lookup table. Written by user space, which replaces a whole inner map at
/// a time: element 0 is the number of ids, the ids follow.
#[btf_map(name = "tables")]
pub static TABLES: ArrayOfMaps<
    Array<u32, { limits::TABLE_LEN as usize }, INNER_MAP>,
    { limits::SERVICES as usize },
> = ArrayOfMaps::new();

/// By slot: how many flows a round-robin address has placed. Written here.
#[btf_map(name = "cursors")]
pub static CURSORS: Array<u64, { limits::SERVICES as usize }> = Array::new();

/// By id; written by user space.
#[btf_map(name = "instances")]
pub static INSTANCES: Array<Instance, { limits::INSTANCES as usize }> = Array::new();

/// By id; written by user space.
#[btf_map(name = "nodes")]
pub static NODES: Array<Node, { limits::NODES as usize }> = Array::new();

/// Outer source of a tunnel packet → node id. Written by user space.
#[btf_map(name = "peers")]
pub static PEERS: HashMap<PeerKey, u32, { limits::NODES as usize }, NO_PREALLOC> = HashMap::new();

/// Addresses of this node's instances. Written by user space.
#[btf_map(name = "endpoints")]
pub static ENDPOINTS: HashMap<Addr, Endpoint, { limits::ENDPOINTS as usize }, NO_PREALLOC> =
    HashMap::new();

/// Proxy table. Written here; user space removes what is idle or gone.
#[btf_map(name = "flows")]
pub static FLOWS: LruHashMap<FlowKey, Flow, { limits::FLOWS as usize }> = LruHashMap::new();

/// By slot of the service IP. Written here.
#[btf_map(name = "service_traffic")]
pub static SERVICE_TRAFFIC: PerCpuArray<Traffic, { limits::SERVICES as usize }> =
    PerCpuArray::new();

/// By instance id. Written here.
#[btf_map(name = "instance_traffic")]
pub static INSTANCE_TRAFFIC: PerCpuArray<Traffic, { limits::INSTANCES as usize }> =
    PerCpuArray::new();

/// By drop reason. Written here.
#[btf_map(name = "drops")]
pub static DROPS: PerCpuArray<Counter, { DropReason::COUNT as usize }> = PerCpuArray::new();

/// By program counter. Written here.
#[btf_map(name = "program_counters")]
pub static PROGRAM_COUNTERS: PerCpuArray<Counter, { ProgramCounter::COUNT as usize }> =
    PerCpuArray::new();

/// Parked packets, to user space.
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<u8, { limits::EVENTS_BYTES as usize }> = RingBuf::new();

/// By slot: full name of the service. Written and read by user space only, pinned so that the
/// command line knows names while every daemon is dead.
#[btf_map(name = "names")]
pub static NAMES: HashMap<
    u32,
    [u8; limits::NAME_BYTES],
    { limits::SERVICES as usize },
    NO_PREALLOC,
> = HashMap::new();

/// Where a flow entry is put together before it is inserted. Not pinned.
#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Flow, 1> = PerCpuArray::new();

/// What `packet::parse` found. In a map and not on the stack, so that the verifier forgets which
/// way it was found: it looks at what follows once, and not once for each family, transport and
/// number of extension headers. Not pinned.
#[btf_map(name = "packet")]
pub static PACKET: PerCpuArray<Packet, 1> = PerCpuArray::new();

//! Every map of the data path: who writes it, who reads it. All are pinned by user space.
//!
//! Capacities are the defaults of `net_common::limits`; user space may create them with others.

use crate::{packet::Keys, refuse::Answer};
use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockHash},
    macros::btf_map,
};
use net_common::{
    Addr, Chunk, Config, Counter, DropReason, Endpoint, Explanation, Flow, FlowKey, FragmentKey,
    FragmentPorts, Instance, Joined, MissBudget, Node, Packet, PeerKey, ProgramCounter, Published,
    PublishedKey, Service, SocketKey, SocketLayout, Table, Traffic, limits,
};

/// `BPF_F_NO_PREALLOC`: memory for entries that exist, not for those that may.
const NO_PREALLOC: usize = 1;

/// `BPF_F_MMAPABLE`: user space writes entries without a system call.
const MMAPABLE: usize = 1 << 10;

/// Written by user space.
#[btf_map(name = "config")]
pub static CONFIG: Array<Config, 1> = Array::new();

/// Translation table: service or instance IP → what it means. Written by user space.
#[btf_map(name = "services")]
pub static SERVICES: HashMap<Addr, Service, { limits::SERVICES as usize }, NO_PREALLOC> =
    HashMap::new();

/// By slot: where its weighted lookup table is. Written by user space.
#[btf_map(name = "tables")]
pub static TABLES: HashMap<u32, Table, { limits::SERVICES as usize }, NO_PREALLOC> = HashMap::new();

/// Parts of all lookup tables. Written by user space, which never writes one that is in use.
#[btf_map(name = "chunks")]
pub static CHUNKS: Array<Chunk, { limits::CHUNKS as usize }, MMAPABLE> = Array::new();

/// By slot: how many flows a round-robin address has placed. Written here.
#[btf_map(name = "cursors")]
pub static CURSORS: Array<u64, { limits::SERVICES as usize }> = Array::new();

/// By id; written by user space.
#[btf_map(name = "instances")]
pub static INSTANCES: Array<Instance, { limits::INSTANCES as usize }, MMAPABLE> = Array::new();

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

/// Proxy table: established flows. Written here; user space removes what is idle or gone.
#[btf_map(name = "flows")]
pub static FLOWS: HashMap<FlowKey, Flow, { limits::FLOWS as usize }, NO_PREALLOC> = HashMap::new();

/// Proxy table: flows that are not established yet. Written here, as `flows` is.
#[btf_map(name = "opening")]
pub static OPENING: LruHashMap<FlowKey, Flow, { limits::OPENING as usize }> = LruHashMap::new();

/// Ports of datagrams in fragments. Written here.
#[btf_map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, { limits::FRAGMENTS as usize }> =
    LruHashMap::new();

/// Ports of the node that lead to an instance. Written by user space.
#[btf_map(name = "published")]
pub static PUBLISHED: HashMap<
    PublishedKey,
    Published,
    { limits::PUBLISHED as usize },
    NO_PREALLOC,
> = HashMap::new();

/// By interface, or origin of tunnel packets: what it may still ask of user space. Written here.
#[btf_map(name = "miss_budgets")]
pub static MISS_BUDGETS: LruHashMap<u32, MissBudget, { limits::MISS_BUDGETS as usize }> =
    LruHashMap::new();

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

/// Steps of the decision about a packet that is looked at only. Written here, read by the command
/// line.
#[btf_map(name = "explain")]
pub static EXPLAIN: Array<Explanation, 1> = Array::new();

/// What people watch: new and ended flows, drops. Written here while somebody reads.
#[btf_map(name = "observations")]
pub static OBSERVATIONS: RingBuf<u8, { limits::OBSERVATIONS_BYTES as usize }> = RingBuf::new();

/// Parked packets and what else user space must act on.
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

/// Cookie of an instance's network namespace → host end of its veth pair. Written by user space.
#[btf_map(name = "namespaces")]
pub static NAMESPACES: HashMap<u64, u32, { limits::ENDPOINTS as usize }, NO_PREALLOC> =
    HashMap::new();

/// Sockets that something may be put into directly. Entered here, left when they are closed.
#[btf_map(name = "sockets")]
pub static SOCKETS: SockHash<SocketKey, { limits::SOCKETS as usize }> = SockHash::new();

/// What is known of each of them. Written here.
#[btf_map(name = "joined")]
pub static JOINED: HashMap<SocketKey, Joined, { limits::SOCKETS as usize }, NO_PREALLOC> =
    HashMap::new();

/// Written by user space. Not pinned, so that programs that a later net manager replaces keep
/// what they were loaded with.
#[btf_map(name = "socket_layout")]
pub static SOCKET_LAYOUT: Array<SocketLayout, 1> = Array::new();

/// Where a flow entry is put together before it is inserted. Not pinned.
#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<Flow, 1> = PerCpuArray::new();

/// When this CPU told of a stranger last. Not pinned.
#[btf_map(name = "asked")]
pub static ASKED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Keys of the packet's flow. Not pinned.
#[btf_map(name = "keys")]
pub static KEYS: PerCpuArray<Keys, 1> = PerCpuArray::new();

/// Where the answer to a refused packet is put together. Not pinned.
#[btf_map(name = "answer")]
pub static ANSWER: PerCpuArray<Answer, 1> = PerCpuArray::new();

/// What `packet::parse` found. In a map and not on the stack, so that the verifier forgets which
/// way it was found: it looks at what follows once, and not once for each family, transport and
/// number of extension headers. Not pinned.
#[btf_map(name = "packet")]
pub static PACKET: PerCpuArray<Packet, 1> = PerCpuArray::new();

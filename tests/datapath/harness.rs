//! The real programs over real maps, run packet by packet with `BPF_PROG_TEST_RUN`.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{IpAddr, Ipv4Addr},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, RingBuf},
    programs::{SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use net_common::{
    Addr, Chunk, Config, Counter, DropReason, Endpoint, Event, Explanation, Flow, FlowKey,
    Instance, InstanceState, MissBudget, Node, NodeKind, NodeState, PeerKey, Policy, Published,
    PublishedKey, Service, Table, limits,
};
use zerocopy::FromBytes as _;

use crate::{
    counts::{Count, Counters},
    pool::{self, Leased},
    world::Host,
};

/// Kernel's `TC_ACT_*`.
pub const PASS: i32 = -1;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

/// Kernel's `XDP_*`.
pub const XDP_DROP: u32 = 1;
pub const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;

/// The uplink: the namespace's loopback interface, to which `BPF_PROG_TEST_RUN` gives packets.
pub const UPLINK: u32 = 1;

/// Instances with an interface of their own.
pub const VETHS: u32 = 4;

/// The host end of the veth pair of the instance `id`.
pub const fn veth(id: u32) -> u32 {
    10 + id
}

pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const PEER_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const TUNNEL_PORT: u16 = 50103;

/// What the kernel shall believe of a packet besides its bytes, for [`Datapath::run_as`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Context {
    /// Interface on which it arrives.
    pub ifindex: u32,
    pub mark: u32,
    pub gso_size: u32,
}

impl Context {
    /// As `struct __sk_buff` of linux/bpf.h begins.
    fn bytes(self) -> [u8; 192] {
        let mut bytes = [0; 192];
        for (offset, value) in [(8, self.mark), (40, self.ifindex), (176, self.gso_size)] {
            bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        bytes
    }
}

/// Of the flow table.
pub type Entries = Vec<(FlowKey, Flow)>;

pub struct Datapath {
    bpf: Ebpf,
    events: RingBuf<MapData>,
    observations: RingBuf<MapData>,
    /// The namespace whose interfaces packets arrive on.
    pub netns: File,
    before: Counters,
}

/// The node of every test.
pub fn node_config() -> Config {
    Config {
        node_addr: NODE_IP.into(),
        uplink_ifindex: UPLINK,
        tunnel_port: TUNNEL_PORT.to_be(),
        service_net_v4: u32::from_ne_bytes([10, 30, 0, 0]),
        service_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
        service_net_v6: u32::from_ne_bytes([0xfd, 0xff, 0, 0]),
        service_mask_v6: u32::from_ne_bytes([0xff, 0xff, 0, 0]),
        namespace_net_v4: u32::from_ne_bytes([10, 18, 0, 0]),
        namespace_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
        instance_mtu: 1472,
        features: net_common::config::features::L4_CHECKSUM_IPV6,
        ..Config::default()
    }
}

impl Datapath {
    /// The object that the net manager embeds, with a node configured and the peer [`PEER_IP`] as
    /// node 1.
    pub fn load() -> Leased {
        Leased::take()
    }

    /// Programs and empty maps, in a namespace of their own, which the thread then is in.
    pub fn loaded(
        set: impl for<'a, 'b> FnOnce(&'a mut EbpfLoader<'b>) -> &'a mut EbpfLoader<'b>,
    ) -> Self {
        // Another object than the one that the daemons embed: one with a fault, that tests must find.
        let object = std::env::var("XYLEM_BPF_OBJECT")
            .unwrap_or(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/xylem.o").to_owned());
        let object = std::fs::read(object).expect("built by `cargo xtask build-ebpf`");
        let mut loader = EbpfLoader::new();
        let mut bpf =
            set(&mut loader).load(&object).expect("the object loads (the suite needs root)");
        for name in ["from_instance", "from_parked", "from_uplink"] {
            let program: &mut SchedClassifier =
                bpf.program_mut(name).expect("in the object").try_into().expect("a classifier");
            program.load().expect("the verifier accepts it");
        }
        let mut ring = |name| {
            RingBuf::try_from(bpf.take_map(name).expect("in the object")).expect("a ring buffer")
        };
        let (events, observations) = (ring("events"), ring("observations"));
        let netns = pool::own_namespace();
        Self { bpf, events, observations, netns, before: Counters::default() }
    }

    /// As if loaded just now.
    pub fn renew(&mut self) {
        pool::clear(self);
        self.set_up();
    }

    pub fn set_up(&mut self) {
        self.configure(node_config());
        self.node(1, PEER_IP, NodeKind::Xylem);
        self.peer(PEER_IP, TUNNEL_PORT, 1);
        self.before = self.counters();
    }

    pub fn map(&self, name: &str) -> &Map {
        self.bpf.map(name).unwrap_or_else(|| panic!("no map is named {name}"))
    }

    pub fn configure(&mut self, config: Config) {
        self.array::<Config>("config").set(0, config, 0).expect("one entry");
    }

    /// Changes the node's configuration.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Config)) {
        let mut config = self.array::<Config>("config").get(&0, 0).expect("one entry");
        change(&mut config);
        self.configure(config);
    }

    pub fn node(&mut self, id: u32, addr: Ipv4Addr, kind: NodeKind) {
        let node = Node {
            addr: addr.into(),
            port: TUNNEL_PORT.to_be(),
            state: NodeState::Up as u32,
            kind: kind as u32,
            ..Node::default()
        };
        self.set_node(id, node);
    }

    pub fn set_node(&mut self, id: u32, node: Node) {
        self.array::<Node>("nodes").set(id, node, 0).expect("in range");
    }

    pub fn get_node(&mut self, id: u32) -> Node {
        self.array::<Node>("nodes").get(&id, 0).expect("in range")
    }

    pub fn peer(&mut self, addr: impl Into<Addr>, port: u16, node: u32) {
        let key = PeerKey { addr: addr.into(), port: port.to_be(), _pad: 0 };
        self.hash::<PeerKey, u32>("peers").insert(key, node, 0).expect("room");
    }

    /// An instance of this node (`node` 0) or of another, of generation 1.
    pub fn instance(&mut self, host: Host, node: u32) {
        self.set_instance(host.id, instance(host, node));
        if node == 0 {
            self.endpoint(host, veth(host.id));
        }
    }

    pub fn set_instance(&mut self, id: u32, instance: Instance) {
        self.array::<Instance>("instances").set(id, instance, 0).expect("in range");
    }

    /// All addresses of an instance of this node behind the veth `ifindex`.
    pub fn endpoint(&mut self, host: Host, ifindex: u32) {
        for (namespace_ip, instance_ip) in [
            (Addr::from(host.namespace_ip), Addr::from(host.instance_ip)),
            (host.namespace_ip6.into(), host.instance_ip6.into()),
        ] {
            let endpoint = Endpoint {
                namespace_ip,
                instance_ip,
                ifindex,
                instance: host.id,
                generation: 1,
                _pad: 0,
            };
            self.set_endpoint(namespace_ip, endpoint);
            self.set_endpoint(instance_ip, endpoint);
        }
    }

    pub fn set_endpoint(&mut self, address: impl Into<Addr>, endpoint: Endpoint) {
        self.hash::<Addr, Endpoint>("endpoints").insert(address.into(), endpoint, 0).expect("room");
    }

    pub fn get_instance(&mut self, id: u32) -> Instance {
        self.array::<Instance>("instances").get(&id, 0).expect("in range")
    }

    pub fn get_endpoint(&mut self, address: impl Into<Addr>) -> Option<Endpoint> {
        self.hash::<Addr, Endpoint>("endpoints").get(&address.into(), 0).ok()
    }

    pub fn remove_endpoint(&mut self, address: impl Into<Addr>) {
        self.hash::<Addr, Endpoint>("endpoints").remove(&address.into()).expect("was there");
    }

    /// A round-robin address over `instances`, in this order.
    pub fn round_robin(&mut self, address: impl Into<Addr>, slot: u32, instances: &[u32]) {
        self.policy(address, Policy::RoundRobin, slot, instances);
    }

    /// An address of a policy with a lookup table.
    pub fn policy(&mut self, address: impl Into<Addr>, policy: Policy, slot: u32, ids: &[u32]) {
        const CHUNKS_A_TABLE: u32 = limits::TABLE_SLOTS.div_ceil(limits::CHUNK_IDS);
        let first = slot * CHUNKS_A_TABLE;
        for (index, part) in (first..).zip(ids.chunks(limits::CHUNK_IDS as usize)) {
            let mut chunk = Chunk::default();
            chunk.ids[..part.len()].copy_from_slice(part);
            self.array::<Chunk>("chunks").set(index, chunk, 0).expect("in range");
        }
        let table = Table { first, len: ids.len() as u32 };
        self.hash::<u32, Table>("tables").insert(slot, table, 0).expect("room");
        self.service(address, Service { policy: policy as u32, slot, instance: 0, _pad: 0 });
    }

    /// An address that leads to one instance.
    pub fn instance_address(&mut self, address: impl Into<Addr>, slot: u32, instance: u32) {
        self.service(address, Service { policy: Policy::Instance as u32, slot, instance, _pad: 0 });
    }

    pub fn service(&mut self, address: impl Into<Addr>, service: Service) {
        self.hash::<Addr, Service>("services").insert(address.into(), service, 0).expect("room");
    }

    pub fn publish(&mut self, proto: u8, port: u16, published: Published) {
        let key = PublishedKey { port: port.to_be(), proto: proto.into() };
        self.hash::<PublishedKey, Published>("published").insert(key, published, 0).expect("room");
    }

    /// Runs a packet that arrives by the uplink or, of an instance of this node, by its veth. The
    /// program's return value and the packet as it left it; counters that this run changed are
    /// then in [`Self::changed`].
    pub fn run(&mut self, program: &str, packet: &[u8]) -> (i32, Vec<u8>) {
        let ifindex = match program {
            "from_instance" => self.veth_of(packet),
            _ => UPLINK,
        };
        self.run_as(program, packet, Context { ifindex, ..Context::default() })
    }

    pub fn run_as(&mut self, program: &str, packet: &[u8], context: Context) -> (i32, Vec<u8>) {
        self.before = self.counters();
        self.run_uncounted(program, packet, context)
    }

    /// As [`Self::run_as`], for many packets: the counters before are those before the first.
    pub fn run_uncounted(
        &mut self,
        program: &str,
        packet: &[u8],
        context: Context,
    ) -> (i32, Vec<u8>) {
        let mut out = vec![0; packet.len() + 256];
        let program: &SchedClassifier =
            self.bpf.program(program).expect("in the object").try_into().expect("a classifier");
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ctx_in: Some(&context.bytes()),
                ..TestRunOptions::default()
            })
            .expect("the kernel runs it");
        out.truncate(result.data_size_out as usize);
        (result.return_value as i32, out)
    }

    /// As [`Self::run`], of the uplink's XDP program. A packet that leaves with metadata in front
    /// has it in front here too.
    pub fn run_xdp(&mut self, packet: &[u8]) -> (u32, Vec<u8>) {
        let program: &mut Xdp =
            self.bpf.program_mut("uplink_xdp").expect("in the object").try_into().expect("XDP");
        if program.fd().is_err() {
            program.load().expect("the verifier accepts it");
        }
        self.before = self.counters();
        let mut out = vec![0; packet.len() + 256];
        let program: &Xdp =
            self.bpf.program("uplink_xdp").expect("in the object").try_into().expect("XDP");
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            })
            .expect("the kernel runs it");
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    /// The interface of the instance that the packet's source says, or else the first.
    pub fn veth_of(&mut self, packet: &[u8]) -> u32 {
        let source = match packet.get(12..14) {
            Some([0x08, 0x00]) => packet
                .get(26..30)
                .map(|bytes| Addr::from(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).expect("four")))),
            Some([0x86, 0xdd]) => packet.get(22..38).map(|bytes| {
                Addr::from(IpAddr::from(<[u8; 16]>::try_from(bytes).expect("sixteen")))
            }),
            _ => None,
        };
        let endpoint = source.and_then(|source| self.get_endpoint(source));
        endpoint.map_or(veth(1), |endpoint| endpoint.ifindex)
    }

    /// Counters that the last run changed.
    pub fn changes(&mut self) -> Vec<(Count, Counter)> {
        self.counters().since(&self.before)
    }

    /// The same by name, by how many packets or flows.
    pub fn changed(&mut self) -> Vec<(String, u64)> {
        let named = |(count, change): (Count, Counter)| (format!("{count:?}"), change.packets);
        let mut changed: Vec<_> = self.changes().into_iter().map(named).collect();
        changed.sort();
        changed
    }

    /// Runs a packet that must be dropped with `reason`, counted once, and nothing else counted.
    #[track_caller]
    pub fn assert_dropped(&mut self, program: &str, packet: &[u8], reason: DropReason) {
        let (verdict, _) = self.run(program, packet);
        assert_eq!((verdict, self.changed()), (DROP, vec![(format!("drop {}", reason.name()), 1)]));
    }

    /// Runs a packet that must be dropped with `reason`, counted once, and its sender told;
    /// the packet that tells it.
    #[track_caller]
    pub fn assert_refused(&mut self, program: &str, packet: &[u8], reason: DropReason) -> Vec<u8> {
        let (verdict, out) = self.run(program, packet);
        let counted = vec![(format!("drop {}", reason.name()), 1), ("refused".to_owned(), 1)];
        assert_eq!((verdict, self.changed()), (REDIRECT, counted));
        out
    }

    pub fn counters(&self) -> Counters {
        Counters::read(self)
    }

    /// Entries of established and of opening flows.
    pub fn flow_entries(&mut self) -> (Entries, Entries) {
        (self.entries("flows"), self.entries("opening"))
    }

    pub fn flows(&mut self) -> BTreeMap<String, Flow> {
        let (established, opening) = self.flow_entries();
        let named = |(key, flow): (FlowKey, Flow)| {
            (format!("{}>{} {:#x}", key.local, key.remote, key.origin), flow)
        };
        established.into_iter().chain(opening).map(named).collect()
    }

    pub fn flow_keys(&mut self) -> Vec<FlowKey> {
        let (established, opening) = self.flow_entries();
        established.into_iter().chain(opening).map(|(key, _)| key).collect()
    }

    pub fn flow(&mut self, key: &FlowKey) -> Option<Flow> {
        let flows = self.hash::<FlowKey, Flow>("flows").get(key, 0).ok();
        flows.or_else(|| self.hash::<FlowKey, Flow>("opening").get(key, 0).ok())
    }

    pub fn set_flow(&mut self, key: FlowKey, flow: Flow) {
        self.hash::<FlowKey, Flow>("flows").insert(key, flow, 0).expect("room");
    }

    pub fn cursor(&mut self, slot: u32) -> u64 {
        self.array::<u64>("cursors").get(&slot, 0).expect("in range")
    }

    pub fn explanation(&mut self) -> Explanation {
        self.array::<Explanation>("explain").get(&0, 0).expect("one entry")
    }

    pub fn forget_explanation(&mut self) {
        self.array::<Explanation>("explain").set(0, Explanation::default(), 0).expect("one entry");
    }

    /// Every sender may miss as often as at first.
    pub fn refill_misses(&mut self) {
        crate::batch::drain::<u32, MissBudget>(self.map("miss_budgets"));
    }

    /// Records in the ring buffer, oldest first, with their packets.
    pub fn events(&mut self) -> Vec<(Event, Vec<u8>)> {
        records(&mut self.events)
    }

    pub fn observations(&mut self) -> Vec<Event> {
        records(&mut self.observations).into_iter().map(|(event, _)| event).collect()
    }

    pub fn array<T: aya::Pod>(&mut self, map: &str) -> Array<&mut MapData, T> {
        self.bpf.map_mut(map).expect("in the object").try_into().expect("an array")
    }

    pub fn hash<K: aya::Pod, V: aya::Pod>(&mut self, map: &str) -> HashMap<&mut MapData, K, V> {
        self.bpf.map_mut(map).expect("in the object").try_into().expect("a hash")
    }

    fn entries<K: aya::Pod, V: aya::Pod>(&mut self, map: &str) -> Vec<(K, V)> {
        self.hash::<K, V>(map).iter().map(|entry| entry.expect("readable")).collect()
    }
}

fn records(ring: &mut RingBuf<MapData>) -> Vec<(Event, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some(record) = ring.next() {
        let (event, packet) = Event::read_from_prefix(&record).expect("as long as an event");
        let len = (event.packet_len as usize).min(packet.len());
        records.push((event, packet[..len].to_vec()));
    }
    records
}

/// The map entry of an instance of generation 1 that is up.
pub fn instance(host: Host, node: u32) -> Instance {
    Instance {
        namespace_ip_v4: host.namespace_ip.into(),
        instance_ip_v4: host.instance_ip.into(),
        namespace_ip_v6: host.namespace_ip6.into(),
        instance_ip_v6: host.instance_ip6.into(),
        node,
        generation: 1,
        number: host.id,
        state: InstanceState::Up as u32,
        ..Instance::default()
    }
}

//! The real programs over real maps, run packet by packet with `BPF_PROG_TEST_RUN`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{SchedClassifier, TestRun, TestRunOptions},
};
use net_common::{
    Addr, Chunk, Config, Counter, DropReason, Endpoint, Event, Flow, FlowKey, Instance,
    InstanceState, MissBudget, Node, NodeKind, NodeState, PeerKey, Policy, ProgramCounter, Service,
    Table, Traffic, limits,
};

/// Kernel's `TC_ACT_*`.
pub const PASS: i32 = -1;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

/// `BPF_PROG_TEST_RUN` gives packets to the loopback interface.
pub const IFINDEX: u32 = 1;

pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const PEER_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const TUNNEL_PORT: u16 = 50103;

pub struct Datapath {
    bpf: Ebpf,
    before: BTreeMap<String, u64>,
}

/// An instance in the maps of the test.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub id: u32,
    pub namespace_ip: Ipv4Addr,
    pub instance_ip: Ipv4Addr,
}

/// The IPv6 addresses of a [`Host`].
#[derive(Clone, Copy, Debug)]
pub struct HostV6 {
    pub id: u32,
    pub namespace_ip: Ipv6Addr,
    pub instance_ip: Ipv6Addr,
}

impl Datapath {
    /// Loads the object that the net manager embeds, with a node configured and the peer
    /// [`PEER_IP`] as node 1.
    pub fn load() -> Self {
        Self::load_with(|loader| loader)
    }

    /// As [`Self::load`], with maps of other sizes.
    pub fn load_with(
        set: impl for<'a, 'b> FnOnce(&'a mut EbpfLoader<'b>) -> &'a mut EbpfLoader<'b>,
    ) -> Self {
        let object = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bpf/xylem.o"))
            .expect("built by `cargo xtask build-ebpf`");
        let mut loader = EbpfLoader::new();
        let mut bpf =
            set(&mut loader).load(&object).expect("the object loads (the suite needs root)");
        for name in ["from_instance", "from_parked", "from_uplink"] {
            let program: &mut SchedClassifier =
                bpf.program_mut(name).expect("in the object").try_into().expect("a classifier");
            program.load().expect("the verifier accepts it");
        }
        let mut datapath = Self { bpf, before: BTreeMap::new() };
        datapath.configure(Config {
            node_addr: NODE_IP.into(),
            uplink_ifindex: IFINDEX,
            tunnel_port: TUNNEL_PORT.to_be(),
            _pad: 0,
            service_net_v4: u32::from_ne_bytes([10, 30, 0, 0]),
            service_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
            service_net_v6: u32::from_ne_bytes([0xfd, 0xff, 0, 0]),
            service_mask_v6: u32::from_ne_bytes([0xff, 0xff, 0, 0]),
            namespace_net_v4: u32::from_ne_bytes([10, 18, 0, 0]),
            namespace_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
            instance_mtu: 1472,
            features: 1,
            ..Config::default()
        });
        datapath.node(1, PEER_IP, NodeKind::Xylem);
        datapath.peer(PEER_IP, TUNNEL_PORT, 1);
        datapath
    }

    pub fn configure(&mut self, config: Config) {
        self.array::<Config>("config").set(0, config, 0).expect("one entry");
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

    pub fn peer(&mut self, addr: Ipv4Addr, port: u16, node: u32) {
        let key = PeerKey { addr: addr.into(), port: port.to_be(), _pad: 0 };
        self.hash::<PeerKey, u32>("peers").insert(key, node, 0).expect("room");
    }

    /// An instance of this node (`node` 0) or of another, of generation 1.
    pub fn instance(&mut self, host: Host, node: u32) {
        self.set_instance(host.id, instance(host, node));
        if node == 0 {
            self.endpoint(host, IFINDEX);
        }
    }

    pub fn set_instance(&mut self, id: u32, instance: Instance) {
        self.array::<Instance>("instances").set(id, instance, 0).expect("in range");
    }

    /// The IPv6 addresses of an instance that is there already.
    pub fn instance_v6(&mut self, host: &HostV6) {
        let mut instances = self.array::<Instance>("instances");
        let mut instance = instances.get(&host.id, 0).expect("in range");
        instance.namespace_ip_v6 = host.namespace_ip.into();
        instance.instance_ip_v6 = host.instance_ip.into();
        instances.set(host.id, instance, 0).expect("in range");
        if instance.node == 0 {
            let endpoint = Endpoint {
                namespace_ip: host.namespace_ip.into(),
                instance_ip: host.instance_ip.into(),
                ifindex: IFINDEX,
                instance: host.id,
                generation: 1,
                _pad: 0,
            };
            for address in [host.namespace_ip, host.instance_ip] {
                self.set_endpoint(address, endpoint);
            }
        }
    }

    /// Both addresses of an instance of this node behind the veth `ifindex`.
    pub fn endpoint(&mut self, host: Host, ifindex: u32) {
        let endpoint = Endpoint {
            namespace_ip: host.namespace_ip.into(),
            instance_ip: host.instance_ip.into(),
            ifindex,
            instance: host.id,
            generation: 1,
            _pad: 0,
        };
        for address in [host.namespace_ip, host.instance_ip] {
            if !address.is_unspecified() {
                self.set_endpoint(address, endpoint);
            }
        }
    }

    pub fn set_endpoint(&mut self, address: impl Into<Addr>, endpoint: Endpoint) {
        self.hash::<Addr, Endpoint>("endpoints").insert(address.into(), endpoint, 0).expect("room");
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

    /// The program's return value and the packet as it left it. Counters that this run changes
    /// are then in [`Self::changed`].
    pub fn run(&mut self, program: &str, packet: &[u8]) -> (i32, Vec<u8>) {
        self.before = self.counters();
        let mut out = vec![0; packet.len() + 256];
        let program: &SchedClassifier =
            self.bpf.program(program).expect("in the object").try_into().expect("a classifier");
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ..TestRunOptions::default()
            })
            .expect("the kernel runs it");
        out.truncate(result.data_size_out as usize);
        (result.return_value as i32, out)
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

    /// Counters (packets, and new flows) that the last run changed, and by how much.
    pub fn changed(&mut self) -> Vec<(String, u64)> {
        let after = self.counters();
        after
            .into_iter()
            .filter_map(|(name, value)| {
                let before = self.before.get(&name).copied().unwrap_or(0);
                (value != before).then(|| (name, value - before))
            })
            .collect()
    }

    pub fn flows(&mut self) -> BTreeMap<String, Flow> {
        self.flow_entries()
            .into_iter()
            .map(|(key, flow)| (format!("{}>{} {:#x}", key.local, key.remote, key.origin), flow))
            .collect()
    }

    pub fn flow_keys(&mut self) -> Vec<FlowKey> {
        self.flow_entries().into_iter().map(|(key, _)| key).collect()
    }

    fn flow_entries(&mut self) -> Vec<(FlowKey, Flow)> {
        let mut entries = self.hash_iter::<FlowKey, Flow>("flows");
        entries.extend(self.hash_iter::<FlowKey, Flow>("opening"));
        entries
    }

    pub fn set_flow(&mut self, key: FlowKey, flow: Flow) {
        let mut flows: HashMap<_, FlowKey, Flow> =
            self.bpf.map_mut("flows").expect("in the object").try_into().expect("a hash");
        flows.insert(key, flow, 0).expect("room");
    }

    /// Every sender may miss as often as at first.
    pub fn refill_misses(&mut self) {
        let mut budgets = self.hash::<u32, MissBudget>("miss_budgets");
        let senders: Vec<u32> = budgets.keys().map(|key| key.expect("readable")).collect();
        for sender in senders {
            budgets.remove(&sender).expect("was there");
        }
    }

    /// Records in the ring buffer, oldest first, with their packets.
    pub fn events(&mut self) -> Vec<(Event, Vec<u8>)> {
        let mut ring = RingBuf::try_from(self.bpf.map_mut("events").expect("in the object"))
            .expect("a ring buffer");
        let mut events = Vec::new();
        while let Some(record) = ring.next() {
            let (head, packet) = record.split_at(size_of::<Event>());
            // SAFETY: the record begins with an `Event`, which is plain bytes.
            let event: Event = unsafe { std::ptr::read_unaligned(head.as_ptr().cast()) };
            events.push((event, packet[..event.packet_len as usize].to_vec()));
        }
        events
    }

    fn counters(&mut self) -> BTreeMap<String, u64> {
        let mut counters = BTreeMap::new();
        for reason in DropReason::ALL {
            let counter = self.per_cpu::<Counter>("drops", *reason as u32);
            counters.insert(
                format!("drop {}", reason.name()),
                counter.iter().map(|counter| counter.packets).sum(),
            );
        }
        for program in ProgramCounter::ALL {
            let counter = self.per_cpu::<Counter>("program_counters", program as u32);
            counters.insert(
                program.name().to_owned(),
                counter.iter().map(|counter| counter.packets).sum(),
            );
        }
        for (kind, map) in [("service", "service_traffic"), ("instance", "instance_traffic")] {
            for index in 0..8 {
                let cpus = self.per_cpu::<Traffic>(map, index);
                let mut put = |what: &str, value: fn(&Traffic) -> u64| {
                    counters.insert(format!("{kind} {index} {what}"), cpus.iter().map(value).sum());
                };
                put("egress", |traffic| traffic.egress.packets);
                put("ingress", |traffic| traffic.ingress.packets);
                put("new flows", |traffic| traffic.new_flows);
            }
        }
        counters
    }

    fn per_cpu<T: aya::Pod>(&self, map: &str, index: u32) -> Vec<T> {
        let map: PerCpuArray<&MapData, T> =
            self.bpf.map(map).expect("in the object").try_into().expect("a per-CPU array");
        map.get(&index, 0).expect("in range").to_vec()
    }

    fn array<T: aya::Pod>(&mut self, map: &str) -> Array<&mut MapData, T> {
        self.bpf.map_mut(map).expect("in the object").try_into().expect("an array")
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&mut self, map: &str) -> HashMap<&mut MapData, K, V> {
        self.bpf.map_mut(map).expect("in the object").try_into().expect("a hash")
    }

    fn hash_iter<K: aya::Pod, V: aya::Pod>(&mut self, map: &str) -> Vec<(K, V)> {
        self.hash::<K, V>(map).iter().map(|entry| entry.expect("readable")).collect()
    }
}

/// The map entry of an instance of generation 1 that is up.
pub fn instance(host: Host, node: u32) -> Instance {
    Instance {
        namespace_ip_v4: host.namespace_ip.into(),
        instance_ip_v4: host.instance_ip.into(),
        node,
        generation: 1,
        number: host.id,
        state: InstanceState::Up as u32,
        ..Instance::default()
    }
}

pub fn v4(addr: Addr) -> Ipv4Addr {
    match addr.to_ip() {
        IpAddr::V4(v4) => v4,
        IpAddr::V6(v6) => panic!("{v6} is not IPv4"),
    }
}

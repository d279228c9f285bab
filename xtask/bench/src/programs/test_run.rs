//! Programs run by `BPF_PROG_TEST_RUN` over maps of their own: nothing is attached or pinned.

use std::{net::Ipv4Addr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData},
    programs::{Program, TestRun as _, TestRunOptions},
};
use net_common::{
    Addr, Config, Endpoint, Flow, FlowKey, Instance, InstanceState, Node, NodeState, PeerKey,
    Policy, Service,
};
use xylem_tests::load::{SERVER_CPU, pin_to_cpu};

use super::{
    Case, How, Sample, Work,
    packets::{ETH_LEN, NODE, Segment, TUNNEL_PORT, patched, tcp, tunnelled, udp},
};
use crate::interrupt::Interrupt;

const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf/xylem.o");

/// Beside those that are dialled.
const SERVICES: [u32; 2] = [10, 10_000];

const REPEATS: u32 = 1_000_000;
const SINGLE_RUNS: u16 = 20_000;

/// What a classifier returns (`TC_ACT_*`), and what an XDP program does.
const TC_DROP: u32 = 2;
const TC_REDIRECT: u32 = 7;
const TC_PASS: u32 = u32::MAX;
const XDP_DROP: u32 = 1;

/// Packets come in by the loopback interface.
const IFINDEX: u32 = 1;

const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const PEER_ID: u32 = 1;
const TUNNEL_BYTES: u32 = 28;

/// An instance, by its number: both its addresses end in it, and so does the service that leads
/// to it.
#[derive(Clone, Copy)]
struct Host(u8);

const CLIENT: Host = Host(1);
const NEAR: Host = Host(2);
/// On the peer.
const FAR: Host = Host(3);

impl Host {
    fn namespace_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 18, 0, self.0)
    }

    fn instance_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 30, 0, self.0)
    }

    fn service_ip(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 30, 1, self.0)
    }
}

const CLIENT_PORT: u16 = 40_000;
const SERVER_PORT: u16 = 80;
/// Datagrams that open flows go to this port, each from another.
const OPENING_PORT: u16 = 1000;

/// Where flows are while they are opened, and then.
const FLOW_MAPS: [&str; 2] = ["opening", "flows"];

/// Behind the Ethernet header and an IPv4 header without options.
const SPORT: usize = ETH_LEN + 20;
/// Of an Ethernet frame.
const ETHERTYPE: usize = 12;
const ARP: [u8; 2] = [0x08, 0x06];

const UDP: u32 = 17;
const TCP: u32 = 6;

/// # Errors
/// If the programs cannot be loaded, or do not what is to be measured.
pub(super) fn measure(rounds: u32, interrupt: &Interrupt) -> Result<Vec<Sample>> {
    let work = || {
        pin_to_cpu(SERVER_CPU)?;
        let mut bench = Bench::load()?;
        let mut samples = Vec::new();
        for round in 0..rounds {
            eprintln!("test runs: round {} of {rounds}", round + 1);
            let mut counts = SERVICES;
            // In turn the first, so that none is always the one that finds a cold machine.
            counts.rotate_left(round as usize % SERVICES.len());
            for services in counts {
                interrupt.check()?;
                bench.set_services(services)?;
                bench.round(services, &mut samples)?;
            }
        }
        Ok(samples)
    };
    thread::scope(|scope| scope.spawn(work).join().expect("it reports errors and does not panic"))
}

struct Bench {
    bpf: Ebpf,
    services: u32,
    translate_udp: Vec<u8>,
    translate_tcp: Vec<u8>,
    encapsulate: Vec<u8>,
    decapsulate: Vec<u8>,
}

impl Bench {
    fn load() -> Result<Self> {
        let mut bpf = EbpfLoader::new()
            .load_file(OBJECT)
            .with_context(|| format!("cannot load {OBJECT}; `cargo xtask build-ebpf` makes it"))?;
        for (name, program) in bpf.programs_mut() {
            match program {
                Program::SchedClassifier(program) => program.load(),
                Program::Xdp(program) => program.load(),
                // Those of sockets are not run on packets.
                _ => Ok(()),
            }
            .with_context(|| format!("the kernel refuses {name}"))?;
        }
        let mut bench = Self {
            bpf,
            services: 0,
            translate_udp: udp(
                (CLIENT.namespace_ip(), CLIENT_PORT),
                (NEAR.service_ip(), SERVER_PORT),
            ),
            translate_tcp: tcp(
                (CLIENT.namespace_ip(), CLIENT_PORT),
                (NEAR.service_ip(), SERVER_PORT),
                Segment::Ack,
            ),
            encapsulate: udp((CLIENT.namespace_ip(), CLIENT_PORT), (FAR.service_ip(), SERVER_PORT)),
            decapsulate: tunnelled(
                PEER,
                &udp((FAR.instance_ip(), CLIENT_PORT), (NEAR.namespace_ip(), SERVER_PORT)),
            ),
        };
        bench.configure()?;
        bench.open_flows()?;
        bench.add_way_back(UDP)?;
        bench.add_way_back(TCP)?;
        bench.check()?;
        Ok(bench)
    }

    /// The maps as a net manager fills them.
    fn configure(&mut self) -> Result<()> {
        let config = Config {
            node_addr: NODE.into(),
            uplink_ifindex: IFINDEX,
            tunnel_port: TUNNEL_PORT.to_be(),
            service_net_v4: u32::from_ne_bytes([10, 30, 0, 0]),
            service_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
            namespace_net_v4: u32::from_ne_bytes([10, 18, 0, 0]),
            namespace_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
            instance_mtu: 1472,
            features: 1,
            ..Config::default()
        };
        let node = Node {
            addr: PEER.into(),
            port: TUNNEL_PORT.to_be(),
            state: NodeState::Up as u32,
            ..Node::default()
        };
        self.array::<Config>("config")?.set(0, config, 0)?;
        self.array::<Node>("nodes")?.set(PEER_ID, node, 0)?;
        let peer = PeerKey { addr: PEER.into(), port: TUNNEL_PORT.to_be(), _pad: 0 };
        self.hash::<PeerKey, u32>("peers")?.insert(peer, PEER_ID, 0)?;

        for (host, node) in [(CLIENT, 0), (NEAR, 0), (FAR, PEER_ID)] {
            let id = u32::from(host.0);
            let instance = Instance {
                namespace_ip_v4: host.namespace_ip().into(),
                instance_ip_v4: host.instance_ip().into(),
                node,
                generation: 1,
                number: id,
                state: InstanceState::Up as u32,
                ..Instance::default()
            };
            self.array::<Instance>("instances")?.set(id, instance, 0)?;
            for address in [host.service_ip(), host.instance_ip()] {
                let slot = id + u32::from(address.octets()[2]) * 16;
                self.add_service(address, slot, id)?;
            }
            if node != 0 {
                continue;
            }
            let endpoint = Endpoint {
                namespace_ip: host.namespace_ip().into(),
                instance_ip: host.instance_ip().into(),
                ifindex: IFINDEX,
                instance: id,
                generation: 1,
                ..Endpoint::default()
            };
            for address in [host.namespace_ip(), host.instance_ip()] {
                self.hash::<Addr, Endpoint>("endpoints")?.insert(
                    Addr::from(address),
                    endpoint,
                    0,
                )?;
            }
        }
        Ok(())
    }

    fn add_service(&mut self, address: Ipv4Addr, slot: u32, instance: u32) -> Result<()> {
        let policy = Policy::Instance as u32;
        let service = Service { policy, slot, instance, ..Service::default() };
        Ok(self.hash::<Addr, Service>("services")?.insert(Addr::from(address), service, 0)?)
    }

    /// Makes them so many, beside those that are dialled.
    fn set_services(&mut self, count: u32) -> Result<()> {
        let first = Ipv4Addr::new(10, 30, 16, 0).to_bits();
        for index in self.services..count {
            self.add_service(Ipv4Addr::from_bits(first + index), 64 + index, u32::from(NEAR.0))?;
        }
        let surplus = count..self.services;
        let mut services = self.hash::<Addr, Service>("services")?;
        for index in surplus {
            services.remove(&Ipv4Addr::from_bits(first + index).into())?;
        }
        self.services = count;
        Ok(())
    }

    /// Opens the flows as their packets do: a question, an answer, and a question again, after
    /// which they are established for everybody.
    fn open_flows(&mut self) -> Result<()> {
        let (client, near, far) = (
            (CLIENT.namespace_ip(), CLIENT_PORT),
            (NEAR.namespace_ip(), SERVER_PORT),
            (FAR.instance_ip(), CLIENT_PORT),
        );
        let asked = (CLIENT.instance_ip(), CLIENT_PORT);

        let syn = tcp(client, (NEAR.service_ip(), SERVER_PORT), Segment::Syn);
        self.expect("from_instance", &syn, TC_REDIRECT)?;
        self.expect("from_instance", &tcp(near, asked, Segment::SynAck), TC_REDIRECT)?;
        self.expect("from_instance", &self.translate_tcp.clone(), TC_REDIRECT)?;
        self.expect("from_instance", &tcp(near, asked, Segment::Ack), TC_REDIRECT)?;

        self.expect("from_instance", &self.translate_udp.clone(), TC_REDIRECT)?;
        self.expect("from_instance", &udp(near, asked), TC_REDIRECT)?;
        self.expect("from_instance", &self.translate_udp.clone(), TC_REDIRECT)?;

        self.expect("from_instance", &self.encapsulate.clone(), TC_REDIRECT)?;
        let answer = tunnelled(PEER, &udp((FAR.instance_ip(), SERVER_PORT), asked));
        self.expect("from_uplink", &answer, TC_REDIRECT)?;
        self.expect("from_instance", &self.encapsulate.clone(), TC_REDIRECT)?;

        self.expect("from_uplink", &self.decapsulate.clone(), TC_REDIRECT)?;
        self.expect("from_instance", &udp(near, far), TC_REDIRECT)?;
        self.expect("from_uplink", &self.decapsulate.clone(), TC_REDIRECT)
    }

    /// A repeated run meets the packet as the run before left it: translated, which is no packet
    /// of the flow any more. So there is a second flow, from the addresses that it was given to
    /// those that it had, and every run has all the work to do. Its checksum is no longer right
    /// then; no program looks at it.
    fn add_way_back(&mut self, proto: u32) -> Result<()> {
        let key = FlowKey {
            local: CLIENT.namespace_ip().into(),
            remote: NEAR.service_ip().into(),
            local_port: CLIENT_PORT.to_be(),
            remote_port: SERVER_PORT.to_be(),
            origin: IFINDEX,
            proto,
        };
        let mut flows = self.hash::<FlowKey, Flow>("flows")?;
        let there = flows.get(&key, 0).context("an established flow is not in the map `flows`")?;
        let back = Flow { src: key.local, dst: key.remote, ..there };
        Ok(flows.insert(FlowKey { local: there.src, remote: there.dst, ..key }, back, 0)?)
    }

    /// Who measures what fails fast measures nothing.
    fn check(&mut self) -> Result<()> {
        for packet in [self.translate_udp.clone(), self.translate_tcp.clone()] {
            let addresses = ETH_LEN + 12..ETH_LEN + 20;
            let once = self.output("from_instance", &packet, 1)?;
            ensure!(once[addresses.clone()] != packet[addresses.clone()], "it is not translated");
            let twice = self.output("from_instance", &packet, 2)?;
            ensure!(twice[addresses.clone()] == packet[addresses], "it is not translated back");
        }
        let longer = self.run("from_instance", &self.encapsulate.clone(), 1)?;
        let wanted = self.encapsulate.len() as u32 + TUNNEL_BYTES;
        ensure!(longer.len == wanted, "encapsulated it has {} bytes, not {wanted}", longer.len);
        let shorter = self.run("from_uplink", &self.decapsulate.clone(), 1)?;
        let wanted = self.decapsulate.len() as u32 - TUNNEL_BYTES;
        ensure!(shorter.len == wanted, "decapsulated it has {} bytes, not {wanted}", shorter.len);
        Ok(())
    }

    fn round(&mut self, services: u32, samples: &mut Vec<Sample>) -> Result<()> {
        let mut note = |how, work, program, nanos| {
            let case = Case { how, work, program, services };
            samples.push(Sample { case, nanos });
        };
        let arp = patched(&self.translate_udp, ETHERTYPE, ARP);
        let pass = self.repeated("from_instance", &arp, TC_PASS)?;
        note(How::Repeated, Work::Pass, "from_instance", pass);

        let (known_udp, known_tcp) = (self.translate_udp.clone(), self.translate_tcp.clone());
        let nanos = self.repeated("from_instance", &known_udp, TC_REDIRECT)?;
        note(How::Repeated, Work::TranslateUdp, "from_instance", nanos);
        let nanos = self.repeated("from_instance", &known_tcp, TC_REDIRECT)?;
        note(How::Repeated, Work::TranslateTcp, "from_instance", nanos);

        let strange = tunnelled(STRANGER, &known_udp);
        let (program, verdict) = match self.bpf.program("uplink_xdp") {
            Some(_) => ("uplink_xdp", XDP_DROP),
            None => ("from_uplink", TC_DROP),
        };
        let nanos = self.repeated(program, &strange, verdict)?;
        note(How::Repeated, Work::DropUnknownPeer, program, nanos);

        // What a single run costs besides the program: the clock, looked at twice.
        let clock = self.single("from_instance", TC_PASS, |_| arp.clone())? - pass;
        let known = |packet: &[u8]| {
            let packet = packet.to_vec();
            move |_| packet.clone()
        };
        let to_near = self.single("from_instance", TC_REDIRECT, known(&known_udp))? - clock;
        note(How::Single, Work::TranslateUdp, "from_instance", to_near);
        let packet = known(&self.encapsulate);
        let encapsulate = self.single("from_instance", TC_REDIRECT, packet)? - clock;
        note(How::Single, Work::Encapsulate, "from_instance", encapsulate);
        let packet = known(&self.decapsulate);
        let deliver = self.single("from_uplink", TC_REDIRECT, packet)? - clock;
        note(How::Single, Work::DecapsulateAndDeliver, "from_uplink", deliver);

        let opening = udp((CLIENT.namespace_ip(), 0), (NEAR.service_ip(), OPENING_PORT));
        let opening = |index: u16| patched(&opening, SPORT, opening_port(index).to_be_bytes());
        let place = self.single("from_instance", TC_REDIRECT, opening)? - clock;
        note(How::Single, Work::Place, "from_instance", place);
        self.forget_opened()
    }

    /// What was opened to be measured shall be unknown the next time, and not fill the table.
    fn forget_opened(&mut self) -> Result<()> {
        for map in FLOW_MAPS {
            if self.bpf.map(map).is_none() {
                continue;
            }
            let mut flows = self.hash::<FlowKey, Flow>(map)?;
            let opened =
                |key: &FlowKey| [key.local_port, key.remote_port].contains(&OPENING_PORT.to_be());
            let keys: Vec<_> = flows.keys().flatten().filter(opened).collect();
            for key in keys {
                flows.remove(&key)?;
            }
        }
        Ok(())
    }

    /// Nanoseconds of a run, of many on one packet.
    fn repeated(&self, program: &str, packet: &[u8], verdict: u32) -> Result<f64> {
        let run = self.run(program, packet, REPEATS)?;
        ensure!(run.verdict == verdict, "{program} returned {}, not {verdict}", run.verdict);
        Ok(run.time.as_nanos() as f64)
    }

    /// Nanoseconds of a run with the looks at the clock, at the median of many single ones.
    fn single(&self, program: &str, verdict: u32, packet: impl Fn(u16) -> Vec<u8>) -> Result<f64> {
        let mut nanos = Vec::with_capacity(usize::from(SINGLE_RUNS));
        for index in 0..SINGLE_RUNS {
            let run = self.run(program, &packet(index), 1)?;
            ensure!(run.verdict == verdict, "{program} returned {}, not {verdict}", run.verdict);
            nanos.push(run.time.as_nanos() as f64);
        }
        crate::report::median(nanos).context("no runs")
    }

    /// Runs it once, and nothing but this verdict will do.
    fn expect(&self, program: &str, packet: &[u8], verdict: u32) -> Result<()> {
        let run = self.run(program, packet, 1)?;
        ensure!(
            run.verdict == verdict,
            "a flow could not be opened: {program} returned {}, not {verdict}",
            run.verdict
        );
        Ok(())
    }

    fn output(&self, program: &str, packet: &[u8], repeat: u32) -> Result<Vec<u8>> {
        let mut out = vec![0; packet.len() + 256];
        let run = self.run_into(program, packet, repeat, &mut out)?;
        out.truncate(run.len as usize);
        Ok(out)
    }

    fn run(&self, program: &str, packet: &[u8], repeat: u32) -> Result<Run> {
        // The length is told as well as it is for a longer buffer.
        self.run_into(program, packet, repeat, &mut [0; 512])
    }

    fn run_into(&self, name: &str, packet: &[u8], repeat: u32, out: &mut [u8]) -> Result<Run> {
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(out),
            repeat,
            ..TestRunOptions::default()
        };
        let result = match self.bpf.program(name) {
            Some(Program::SchedClassifier(program)) => program.test_run(options),
            Some(Program::Xdp(program)) => program.test_run(options),
            _ => anyhow::bail!("no program {name} for packets is in the object"),
        };
        let result = result.with_context(|| format!("the kernel does not run {name}"))?;
        Ok(Run { verdict: result.return_value, time: result.duration, len: result.data_size_out })
    }

    fn array<T: Pod>(&mut self, map: &str) -> Result<Array<&mut MapData, T>> {
        let found = self.bpf.map_mut(map).with_context(|| format!("no map {map}"))?;
        Ok(found.try_into()?)
    }

    fn hash<K: Pod, V: Pod>(&mut self, map: &str) -> Result<HashMap<&mut MapData, K, V>> {
        let found = self.bpf.map_mut(map).with_context(|| format!("no map {map}"))?;
        Ok(found.try_into()?)
    }
}

struct Run {
    verdict: u32,
    /// Of one run.
    time: Duration,
    /// Bytes of the packet afterwards.
    len: u32,
}

/// Where the datagram comes from that opens a flow.
fn opening_port(index: u16) -> u16 {
    OPENING_PORT + 1 + index
}

//! Programs run by `BPF_PROG_TEST_RUN`.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
};

use anyhow::{Context, Result, ensure};
use aya::sys::{Stats, enable_stats};
use net_common::{
    Addr, Flow, FlowKey,
    flow::{OUTSIDE, from_node},
};
use nix::sched::{CloneFlags, unshare};
use xylem_tests::load::{SERVER_CPU, pin_to_cpu};

use super::{
    case::{Case, Family, How, Sample, Work},
    packets::{ETH_LEN, End, NODE, Segment, patched, tcp, tunnelled, udp},
    world::{CLIENT, FAR, IFINDEX, NEAR, PEER, PUBLISHED_PORT, SERVER_PORT, TCP, UDP, World},
};
use crate::interrupt::Interrupt;

/// Beside those that are dialled.
const SERVICES: [u32; 2] = [10, 10_000];

/// The program that is run to do nothing.
const IDLER: &str = "from_instance";

const REPEATS: u32 = 1_000_000;
const SINGLE_RUNS: u16 = 20_000;

/// Each run of `uplink_xdp` that translates puts a note in front of the packet, for which there is
/// room a few times only. So it runs on so many packets, each of which goes on into the stack.
const FRAMES: u32 = 200_000;
const NOTE_LEN: usize = 8;

/// What a classifier returns (`TC_ACT_*`), and what an XDP program does.
const TC_REDIRECT: u32 = 7;
const TC_PASS: u32 = u32::MAX;
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

const TUNNEL_BYTES: u32 = 28;
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// Outside of the overlay.
const OUTSIDE_HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

const CLIENT_PORT: u16 = 40_000;
/// Whose packets run to and fro between two ports of the node.
const RESTLESS_PORT: u16 = 40_001;
const OTHER_PORT: u16 = 8081;
/// Datagrams that open flows go to this port, each from another.
const OPENING_PORT: u16 = 1000;

/// Where flows are while they are opened, and then.
const FLOW_MAPS: [&str; 2] = ["opening", "flows"];

/// Behind the Ethernet header and an IPv4 header without options.
const SPORT: usize = ETH_LEN + 20;
/// Of an Ethernet frame.
const ETHERTYPE: usize = 12;
const ARP: [u8; 2] = [0x08, 0x06];

/// # Errors
/// If the programs cannot be loaded, or do not what is to be measured.
pub(super) fn measure(rounds: u32, interrupt: &Interrupt) -> Result<Vec<Sample>> {
    pinned(|| {
        let mut bench = Bench::load()?;
        let mut samples = Vec::new();
        for round in 0..rounds {
            eprintln!("test runs: round {} of {rounds}", round + 1);
            let mut counts = SERVICES;
            // In turn the first, so that none is always the one that finds a cold machine.
            counts.rotate_left(round as usize % SERVICES.len());
            for services in counts {
                interrupt.check()?;
                bench.world.set_services(services)?;
                bench.round(|how, work, family, program, nanos| {
                    let case = Case { how, work, family, program, services };
                    samples.push(Sample { case, round, nanos });
                })?;
            }
        }
        Ok(samples)
    })
}

/// Nanoseconds that the kernel's account of a program has for each run more than the run takes by
/// itself.
///
/// # Errors
/// As [`measure`], and if the kernel keeps no account.
pub(super) fn clock_of_account() -> Result<f64> {
    pinned(|| {
        let world = World::load()?;
        let arp = of_no_interest();
        let pass = world.repeated(IDLER, &arp, TC_PASS)?;
        world.clock_of_account(&arp, pass)
    })
}

/// On one CPU, by a thread of its own, in a network namespace of its own: packets that go on into
/// the stack end there.
fn pinned<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let work = || {
        pin_to_cpu(SERVER_CPU)?;
        unshare(CloneFlags::CLONE_NEWNET).context("no network namespace")?;
        work()
    };
    thread::scope(|scope| scope.spawn(work).join().expect("it reports errors and does not panic"))
}

/// What a program leaves to the kernel at once.
fn of_no_interest() -> Vec<u8> {
    patched(&to_service(UDP, Family::Ipv4, NEAR.service_ip(Family::Ipv4)), ETHERTYPE, ARP)
}

/// From the client, in its established flow.
fn to_service(proto: u32, family: Family, service: IpAddr) -> Vec<u8> {
    let (client, server) = ((CLIENT.namespace_ip(family), CLIENT_PORT), (service, SERVER_PORT));
    if proto == TCP { tcp(client, server, Segment::Ack) } else { udp(client, server) }
}

/// From a host outside to a port of the node.
fn from_outside(proto: u32, client_port: u16, port: u16) -> Vec<u8> {
    let (client, node) = ((OUTSIDE_HOST.into(), client_port), (NODE.into(), port));
    if proto == TCP { tcp(client, node, Segment::Ack) } else { udp(client, node) }
}

/// Packets of established flows, of one family.
struct Known {
    family: Family,
    translate_udp: Vec<u8>,
    translate_tcp: Vec<u8>,
    encapsulate: Vec<u8>,
    decapsulate: Vec<u8>,
}

impl Known {
    fn new(family: Family) -> Self {
        let (far, near) = (FAR.instance_ip(family), NEAR.namespace_ip(family));
        Self {
            family,
            translate_udp: to_service(UDP, family, NEAR.service_ip(family)),
            translate_tcp: to_service(TCP, family, NEAR.service_ip(family)),
            encapsulate: to_service(UDP, family, FAR.service_ip(family)),
            decapsulate: tunnelled(PEER, &udp((far, CLIENT_PORT), (near, SERVER_PORT))),
        }
    }
}

struct Bench {
    world: World,
    known: [Known; 2],
}

impl Bench {
    fn load() -> Result<Self> {
        let mut bench = Self { world: World::load()?, known: Family::ALL.map(Known::new) };
        for known in &bench.known {
            known.open_flows(&bench.world)?;
            for proto in [UDP, TCP] {
                add_way_back(&mut bench.world, known.family, proto)?;
            }
            known.check(&bench.world)?;
        }
        for proto in [UDP, TCP] {
            for client_port in [CLIENT_PORT, RESTLESS_PORT] {
                open_from_outside(&bench.world, proto, client_port)?;
            }
            make_restless(&mut bench.world, proto)?;
            check_published(&mut bench.world, proto)?;
        }
        Ok(bench)
    }

    fn round(&mut self, mut note: impl FnMut(How, Work, Family, &'static str, f64)) -> Result<()> {
        let world = &self.world;
        let arp = of_no_interest();
        let pass = world.repeated(IDLER, &arp, TC_PASS)?;
        note(How::Repeated, Work::Pass, Family::Ipv4, IDLER, pass);
        // What a single run costs besides the program: the clock, looked at twice.
        let clock = world.single(IDLER, &arp, TC_PASS)? - pass;

        for known in &self.known {
            let mut note =
                |how, work, program, nanos| note(how, work, known.family, program, nanos);
            let program = "from_instance";
            let nanos = world.repeated(program, &known.translate_udp, TC_REDIRECT)?;
            note(How::Repeated, Work::TranslateUdp, program, nanos);
            let nanos = world.repeated(program, &known.translate_tcp, TC_REDIRECT)?;
            note(How::Repeated, Work::TranslateTcp, program, nanos);
            let nanos = world.single(program, &known.translate_udp, TC_REDIRECT)? - clock;
            note(How::Single, Work::TranslateUdp, program, nanos);
            let nanos = world.single(program, &known.encapsulate, TC_REDIRECT)? - clock;
            note(How::Single, Work::Encapsulate, program, nanos);
            let program = "from_uplink";
            let nanos = world.single(program, &known.decapsulate, TC_REDIRECT)? - clock;
            note(How::Single, Work::DecapsulateAndDeliver, program, nanos);
        }

        let mut note = |how, work, program, nanos| note(how, work, Family::Ipv4, program, nanos);
        let clock_of_account = world.clock_of_account(&arp, pass)?;
        for (proto, work) in [(UDP, Work::PublishedUdp), (TCP, Work::PublishedTcp)] {
            let restless = from_outside(proto, RESTLESS_PORT, PUBLISHED_PORT);
            let nanos = world.on_frames("uplink_xdp", &restless)? - clock_of_account;
            note(How::Repeated, work, "uplink_xdp", nanos);
            let nanos = world.single("uplink_xdp", &restless, XDP_PASS)? - clock;
            note(How::Single, work, "uplink_xdp", nanos);
            let nanos = world.repeated("from_uplink", &restless, TC_REDIRECT)?;
            note(How::Repeated, work, "from_uplink", nanos);
        }
        let strange = tunnelled(STRANGER, &self.known[0].translate_udp);
        let nanos = world.repeated("uplink_xdp", &strange, XDP_DROP)?;
        note(How::Repeated, Work::DropUnknownPeer, "uplink_xdp", nanos);

        let client = (CLIENT.namespace_ip(Family::Ipv4), 0);
        let opening = udp(client, (NEAR.service_ip(Family::Ipv4), OPENING_PORT));
        let opening = |index: u16| patched(&opening, SPORT, opening_port(index).to_be_bytes());
        let place = world.median_of(SINGLE_RUNS, 1, "from_instance", TC_REDIRECT, opening)? - clock;
        note(How::Single, Work::Place, "from_instance", place);
        forget_opened(&mut self.world)
    }
}

impl Known {
    /// Opens the flows as their packets do: a question, an answer, and a question again, after
    /// which they are established for everybody.
    fn open_flows(&self, world: &World) -> Result<()> {
        let family = self.family;
        let client: End = (CLIENT.namespace_ip(family), CLIENT_PORT);
        let near: End = (NEAR.namespace_ip(family), SERVER_PORT);
        let far: End = (FAR.instance_ip(family), CLIENT_PORT);
        let asked: End = (CLIENT.instance_ip(family), CLIENT_PORT);

        let syn = tcp(client, (NEAR.service_ip(family), SERVER_PORT), Segment::Syn);
        world.expect("from_instance", &syn, TC_REDIRECT)?;
        world.expect("from_instance", &tcp(near, asked, Segment::SynAck), TC_REDIRECT)?;
        world.expect("from_instance", &self.translate_tcp, TC_REDIRECT)?;
        world.expect("from_instance", &tcp(near, asked, Segment::Ack), TC_REDIRECT)?;

        world.expect("from_instance", &self.translate_udp, TC_REDIRECT)?;
        world.expect("from_instance", &udp(near, asked), TC_REDIRECT)?;
        world.expect("from_instance", &self.translate_udp, TC_REDIRECT)?;

        world.expect("from_instance", &self.encapsulate, TC_REDIRECT)?;
        let answer = tunnelled(PEER, &udp((FAR.instance_ip(family), SERVER_PORT), asked));
        world.expect("from_uplink", &answer, TC_REDIRECT)?;
        world.expect("from_instance", &self.encapsulate, TC_REDIRECT)?;

        world.expect("from_uplink", &self.decapsulate, TC_REDIRECT)?;
        world.expect("from_instance", &udp(near, far), TC_REDIRECT)?;
        world.expect("from_uplink", &self.decapsulate, TC_REDIRECT)
    }

    /// Who measures what fails fast measures nothing.
    fn check(&self, world: &World) -> Result<()> {
        let addresses = match self.family {
            Family::Ipv4 => ETH_LEN + 12..ETH_LEN + 20,
            Family::Ipv6 => ETH_LEN + 8..ETH_LEN + 40,
        };
        for packet in [&self.translate_udp, &self.translate_tcp] {
            let once = world.output("from_instance", packet, 1)?;
            ensure!(once[addresses.clone()] != packet[addresses.clone()], "it is not translated");
            let twice = world.output("from_instance", packet, 2)?;
            ensure!(
                twice[addresses.clone()] == packet[addresses.clone()],
                "it is not translated back"
            );
        }
        let longer = world.run("from_instance", &self.encapsulate, 1)?;
        let wanted = self.encapsulate.len() as u32 + TUNNEL_BYTES;
        ensure!(longer.len == wanted, "encapsulated it has {} bytes, not {wanted}", longer.len);
        let shorter = world.run("from_uplink", &self.decapsulate, 1)?;
        let wanted = self.decapsulate.len() as u32 - TUNNEL_BYTES;
        ensure!(shorter.len == wanted, "decapsulated it has {} bytes, not {wanted}", shorter.len);
        Ok(())
    }
}

/// A repeated run meets the packet as the run before left it: translated, which is no packet of
/// the flow any more. So there is a second flow, from the addresses that it was given to those
/// that it had, and every run has all the work to do. Its checksum is no longer right then; no
/// program looks at it.
fn add_way_back(world: &mut World, family: Family, proto: u32) -> Result<()> {
    let key = FlowKey {
        local: CLIENT.namespace_ip(family).into(),
        remote: NEAR.service_ip(family).into(),
        local_port: CLIENT_PORT.to_be(),
        remote_port: SERVER_PORT.to_be(),
        origin: IFINDEX,
        proto,
    };
    let mut flows = world.hash::<FlowKey, Flow>("flows")?;
    let there = flows.get(&key, 0).context("an established flow is not in the map `flows`")?;
    let back = Flow { src: key.local, dst: key.remote, ..there };
    Ok(flows.insert(FlowKey { local: there.src, remote: there.dst, ..key }, back, 0)?)
}

/// Opens a flow to the published port as its packets do.
fn open_from_outside(world: &World, proto: u32, client_port: u16) -> Result<()> {
    let client: End = (OUTSIDE_HOST.into(), client_port);
    let node: End = (NODE.into(), PUBLISHED_PORT);
    let near: End = (NEAR.namespace_ip(Family::Ipv4), SERVER_PORT);
    let (first, answer) = if proto == TCP {
        (tcp(client, node, Segment::Syn), tcp(near, client, Segment::SynAck))
    } else {
        (udp(client, node), udp(near, client))
    };
    world.expect("from_uplink", &first, TC_REDIRECT)?;
    world.expect("from_instance", &answer, TC_REDIRECT)?;
    world.expect("from_uplink", &from_outside(proto, client_port, PUBLISHED_PORT), TC_REDIRECT)
}

/// As [`add_way_back`], for a flow from outside: what is translated to an instance's address is
/// no packet to the node any more. So of one client, the flow is changed: it leads to another port
/// of the node, and from there a second flow leads back.
fn make_restless(world: &mut World, proto: u32) -> Result<()> {
    let [key, back_key] = restless_keys(proto);
    let mut flows = world.hash::<FlowKey, Flow>("flows")?;
    let flow = flows.get(&key, 0).context("a flow from outside is not in the map `flows`")?;
    let there = Flow { dst: key.local, dport: back_key.local_port, ..flow };
    let back = Flow { dst: key.local, dport: key.local_port, ..flow };
    flows.insert(key, there, 0)?;
    Ok(flows.insert(back_key, back, 0)?)
}

/// There and back.
fn restless_keys(proto: u32) -> [FlowKey; 2] {
    [PUBLISHED_PORT, OTHER_PORT].map(|port| FlowKey {
        local: Addr::from(NODE),
        remote: Addr::from(OUTSIDE_HOST),
        local_port: port.to_be(),
        remote_port: RESTLESS_PORT.to_be(),
        origin: from_node(OUTSIDE),
        proto,
    })
}

fn check_published(world: &mut World, proto: u32) -> Result<()> {
    let packet = from_outside(proto, CLIENT_PORT, PUBLISHED_PORT);
    let out = world.output("uplink_xdp", &packet, 1)?;
    let dst = NOTE_LEN + ETH_LEN + 16;
    let IpAddr::V4(near) = NEAR.namespace_ip(Family::Ipv4) else { unreachable!("it is IPv4") };
    ensure!(out.get(dst..dst + 4) == Some(&near.octets()[..]), "it is not translated");

    let restless = from_outside(proto, RESTLESS_PORT, PUBLISHED_PORT);
    let ports = SPORT..SPORT + 4;
    let once = world.output("from_uplink", &restless, 1)?;
    ensure!(once[ports.clone()] != restless[ports.clone()], "it is not translated");
    let twice = world.output("from_uplink", &restless, 2)?;
    ensure!(twice[ports.clone()] == restless[ports], "it is not translated back");

    let counted = |world: &mut World| -> Result<u64> {
        let flows = world.hash::<FlowKey, Flow>("flows")?;
        let [there, back] = restless_keys(proto).map(|key| flows.get(&key, 0));
        Ok(there?.packets + back?.packets)
    };
    const FEW: u32 = 1_000;
    let before = counted(world)?;
    world.run_on_frames("uplink_xdp", &restless, FEW)?;
    let translated = counted(world)? - before;
    ensure!(translated == u64::from(FEW), "of {FEW} packets {translated} were translated");
    Ok(())
}

/// What was opened to be measured shall be unknown the next time, and not fill the table.
fn forget_opened(world: &mut World) -> Result<()> {
    for map in FLOW_MAPS {
        let mut flows = world.hash::<FlowKey, Flow>(map)?;
        let opened =
            |key: &FlowKey| [key.local_port, key.remote_port].contains(&OPENING_PORT.to_be());
        let keys: Vec<_> = flows.keys().flatten().filter(opened).collect();
        for key in keys {
            flows.remove(&key)?;
        }
    }
    Ok(())
}

/// Where the datagram comes from that opens a flow.
fn opening_port(index: u16) -> u16 {
    OPENING_PORT + 1 + index
}

/// Nanoseconds of a run.
impl World {
    /// Of many on one packet.
    fn repeated(&self, program: &str, packet: &[u8], verdict: u32) -> Result<f64> {
        self.median_of(1, REPEATS, program, verdict, |_| packet.to_vec())
    }

    /// Of many on packets that go on into the stack, with what the kernel's account adds.
    fn on_frames(&self, program: &str, packet: &[u8]) -> Result<f64> {
        self.accounted(program, || self.run_on_frames(program, packet, FRAMES))
    }

    /// What the kernel's account adds to a run that takes `alone` by itself.
    fn clock_of_account(&self, packet: &[u8], alone: f64) -> Result<f64> {
        let accounted =
            self.accounted(IDLER, || self.repeated(IDLER, packet, TC_PASS).map(drop))?;
        Ok(accounted - alone)
    }

    /// By the kernel's account, of all runs while `work` runs. It is kept no longer than that: it
    /// costs every program on the machine.
    fn accounted(&self, program: &str, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let _enabled = enable_stats(Stats::RunTime).context("the kernel keeps no account")?;
        let (runs_before, time_before) = self.account(program)?;
        work()?;
        let (runs, time) = self.account(program)?;
        let runs = runs - runs_before;
        ensure!(runs > 0, "the kernel keeps no account of {program}");
        Ok((time - time_before).as_nanos() as f64 / runs as f64)
    }

    /// With the looks at the clock, at the median of many single ones.
    fn single(&self, program: &str, packet: &[u8], verdict: u32) -> Result<f64> {
        self.median_of(SINGLE_RUNS, 1, program, verdict, |_| packet.to_vec())
    }

    fn median_of(
        &self,
        packets: u16,
        repeat: u32,
        program: &str,
        verdict: u32,
        packet: impl Fn(u16) -> Vec<u8>,
    ) -> Result<f64> {
        let mut nanos = Vec::with_capacity(usize::from(packets));
        for index in 0..packets {
            let run = self.run(program, &packet(index), repeat)?;
            ensure!(run.verdict == verdict, "{program} returned {}, not {verdict}", run.verdict);
            nanos.push(run.time.as_nanos() as f64);
        }
        crate::stats::median(nanos).context("no runs")
    }
}

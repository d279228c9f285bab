//! The programs over maps of their own, filled as a net manager fills them: nothing is attached
//! or pinned.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData},
    programs::{Program, TestRun as _, TestRunAttrs, TestRunOptions, TestRunResult},
};
use net_common::{
    Addr, Config, Endpoint, Instance, InstanceState, Node, NodeState, PeerKey, Policy, Published,
    PublishedKey, Service, config::features,
};

use super::{
    case::Family,
    packets::{NODE, TUNNEL_PORT},
};

const OBJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf/xylem.o");

/// Packets that a driver hands over at once.
const BATCH: u32 = 64;

/// Packets come in by the loopback interface.
pub(super) const IFINDEX: u32 = 1;

pub(super) const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const PEER_ID: u32 = 1;

pub(super) const SERVER_PORT: u16 = 80;
/// Port of the node that leads to [`NEAR`]'s [`SERVER_PORT`].
pub(super) const PUBLISHED_PORT: u16 = 8080;

pub(super) const UDP: u32 = 17;
pub(super) const TCP: u32 = 6;

/// An instance, by its number: all its addresses end in it, and so do the services that lead to
/// it.
#[derive(Clone, Copy)]
pub(super) struct Host(u8);

pub(super) const CLIENT: Host = Host(1);
pub(super) const NEAR: Host = Host(2);
/// On the peer.
pub(super) const FAR: Host = Host(3);

impl Host {
    pub(super) fn namespace_ip(self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => Ipv4Addr::new(10, 18, 0, self.0).into(),
            Family::Ipv6 => Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, self.0.into()).into(),
        }
    }

    pub(super) fn instance_ip(self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => Ipv4Addr::new(10, 30, 0, self.0).into(),
            Family::Ipv6 => Ipv6Addr::new(0xfdff, 0, 0, 0, 0, 0, 0, self.0.into()).into(),
        }
    }

    pub(super) fn service_ip(self, family: Family) -> IpAddr {
        match family {
            Family::Ipv4 => Ipv4Addr::new(10, 30, 1, self.0).into(),
            Family::Ipv6 => Ipv6Addr::new(0xfdff, 0x2000, 0, 0, 0, 0, 0, self.0.into()).into(),
        }
    }
}

pub(super) struct World {
    bpf: Ebpf,
    /// Beside those that are dialled.
    services: u32,
}

/// What came of a run.
pub(super) struct Run {
    pub(super) verdict: u32,
    /// Of one run.
    pub(super) time: Duration,
    /// Bytes of the packet afterwards.
    pub(super) len: u32,
}

impl World {
    /// # Errors
    /// If the programs cannot be loaded.
    pub(super) fn load() -> Result<Self> {
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
        let mut world = Self { bpf, services: 0 };
        world.configure()?;
        for (host, node) in [(CLIENT, 0), (NEAR, 0), (FAR, PEER_ID)] {
            world.add_instance(host, node)?;
        }
        world.publish()?;
        Ok(world)
    }

    fn configure(&mut self) -> Result<()> {
        let config = Config {
            node_addr: NODE.into(),
            uplink_ifindex: IFINDEX,
            tunnel_port: TUNNEL_PORT.to_be(),
            service_net_v4: u32::from_ne_bytes([10, 30, 0, 0]),
            service_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
            service_net_v6: u32::from_ne_bytes([0xfd, 0xff, 0, 0]),
            service_mask_v6: u32::from_ne_bytes([0xff, 0xff, 0, 0]),
            namespace_net_v4: u32::from_ne_bytes([10, 18, 0, 0]),
            namespace_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
            instance_mtu: 1472,
            published_count: 2,
            features: features::L4_CHECKSUM_IPV6,
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
        Ok(self.hash::<PeerKey, u32>("peers")?.insert(peer, PEER_ID, 0)?)
    }

    fn add_instance(&mut self, host: Host, node: u32) -> Result<()> {
        let id = u32::from(host.0);
        let instance = Instance {
            namespace_ip_v4: host.namespace_ip(Family::Ipv4).into(),
            namespace_ip_v6: host.namespace_ip(Family::Ipv6).into(),
            instance_ip_v4: host.instance_ip(Family::Ipv4).into(),
            instance_ip_v6: host.instance_ip(Family::Ipv6).into(),
            node,
            generation: 1,
            number: id,
            state: InstanceState::Up as u32,
            ..Instance::default()
        };
        self.array::<Instance>("instances")?.set(id, instance, 0)?;
        for family in Family::ALL {
            let (namespace_ip, instance_ip) = (host.namespace_ip(family), host.instance_ip(family));
            // Slots below 64; a service has the same for both families.
            self.add_service(instance_ip, id, id)?;
            self.add_service(host.service_ip(family), 16 + id, id)?;
            if node != 0 {
                continue;
            }
            let endpoint = Endpoint {
                namespace_ip: namespace_ip.into(),
                instance_ip: instance_ip.into(),
                ifindex: IFINDEX,
                instance: id,
                generation: 1,
                ..Endpoint::default()
            };
            for address in [namespace_ip, instance_ip] {
                let mut endpoints = self.hash::<Addr, Endpoint>("endpoints")?;
                endpoints.insert(Addr::from(address), endpoint, 0)?;
            }
        }
        Ok(())
    }

    fn publish(&mut self) -> Result<()> {
        let published = Published {
            namespace_ip_v4: NEAR.namespace_ip(Family::Ipv4).into(),
            namespace_ip_v6: NEAR.namespace_ip(Family::Ipv6).into(),
            ifindex: IFINDEX,
            instance: NEAR.0.into(),
            generation: 1,
            port: SERVER_PORT.to_be(),
            ..Published::default()
        };
        for proto in [TCP, UDP] {
            let key = PublishedKey { port: PUBLISHED_PORT.to_be(), proto: proto as u16 };
            self.hash::<PublishedKey, Published>("published")?.insert(key, published, 0)?;
        }
        Ok(())
    }

    fn add_service(&mut self, address: IpAddr, slot: u32, instance: u32) -> Result<()> {
        let policy = Policy::Instance as u32;
        let service = Service { policy, slot, instance, ..Service::default() };
        Ok(self.hash::<Addr, Service>("services")?.insert(Addr::from(address), service, 0)?)
    }

    /// Makes them so many, beside those that are dialled.
    pub(super) fn set_services(&mut self, count: u32) -> Result<()> {
        let first = Ipv4Addr::new(10, 30, 16, 0).to_bits();
        for index in self.services..count {
            let address = Ipv4Addr::from_bits(first + index).into();
            self.add_service(address, 64 + index, NEAR.0.into())?;
        }
        let surplus = count..self.services;
        let mut services = self.hash::<Addr, Service>("services")?;
        for index in surplus {
            services.remove(&Ipv4Addr::from_bits(first + index).into())?;
        }
        self.services = count;
        Ok(())
    }

    /// Runs a program `repeat` times on one packet.
    pub(super) fn run(&self, program: &str, packet: &[u8], repeat: u32) -> Result<Run> {
        // The length is told as well as it is for a longer buffer.
        self.run_into(program, packet, repeat, &mut [0; 512])
    }

    /// The packet as so many runs leave it, with the metadata in front.
    pub(super) fn output(&self, program: &str, packet: &[u8], repeat: u32) -> Result<Vec<u8>> {
        let mut out = vec![0; packet.len() + 256];
        let run = self.run_into(program, packet, repeat, &mut out)?;
        out.truncate(run.len as usize);
        Ok(out)
    }

    /// Runs it once, and nothing but this verdict will do.
    pub(super) fn expect(&self, program: &str, packet: &[u8], verdict: u32) -> Result<()> {
        let run = self.run(program, packet, 1)?;
        ensure!(
            run.verdict == verdict,
            "a flow could not be opened: {program} returned {}, not {verdict}",
            run.verdict
        );
        Ok(())
    }

    /// Runs an XDP program on `frames` packets that then go on into the stack, as a driver does:
    /// each run finds its packet without what the run before has put in front.
    pub(super) fn run_on_frames(&self, name: &str, packet: &[u8], frames: u32) -> Result<()> {
        let options = TestRunOptions {
            data_in: Some(packet),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::default()
        };
        self.test_run(name, options).map(drop)
    }

    fn run_into(&self, name: &str, packet: &[u8], repeat: u32, out: &mut [u8]) -> Result<Run> {
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(out),
            repeat,
            ..TestRunOptions::default()
        };
        let result = self.test_run(name, options)?;
        Ok(Run { verdict: result.return_value, time: result.duration, len: result.data_size_out })
    }

    fn test_run(&self, name: &str, options: TestRunOptions<'_>) -> Result<TestRunResult> {
        let result = match self.bpf.program(name) {
            Some(Program::SchedClassifier(program)) => program.test_run(options),
            Some(Program::Xdp(program)) => program.test_run(options),
            _ => return Err(no_program(name)),
        };
        result.with_context(|| format!("the kernel does not run {name}"))
    }

    /// Of a program, by the kernel's own account: how often it ran, and how long all together.
    pub(super) fn account(&self, name: &str) -> Result<(u64, Duration)> {
        let info = match self.bpf.program(name) {
            Some(Program::SchedClassifier(program)) => program.info(),
            Some(Program::Xdp(program)) => program.info(),
            _ => return Err(no_program(name)),
        };
        let info = info.with_context(|| format!("no account of {name}"))?;
        Ok((info.run_count(), info.run_time()))
    }

    fn array<T: Pod>(&mut self, map: &str) -> Result<Array<&mut MapData, T>> {
        let found = self.bpf.map_mut(map).with_context(|| format!("no map {map}"))?;
        Ok(found.try_into()?)
    }

    pub(super) fn hash<K: Pod, V: Pod>(
        &mut self,
        map: &str,
    ) -> Result<HashMap<&mut MapData, K, V>> {
        let found = self.bpf.map_mut(map).with_context(|| format!("no map {map}"))?;
        Ok(found.try_into()?)
    }
}

fn no_program(name: &str) -> Error {
    anyhow!("no program {name} for packets is in the object")
}

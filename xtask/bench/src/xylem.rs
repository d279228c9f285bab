//! Xylem: the platform with a client and two services, dialled by service IP.

use std::{
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use net_maps::PinnedMaps;
use xylem_tests::{
    daemon,
    deployment::{Service, Wanted, create, scale_up},
    image::Image,
    inside::Inside,
    load::Server,
    platform::{Name, Platform},
    topology::Topology,
};

use crate::{contender::Contender, fillers::Fillers, measure, measure::Client, metric::Place};

/// Services that nobody dials but to see how long it takes to learn of one. A node forgets them
/// within seconds, so that they can be learnt again.
const UNKNOWN: [&str; 8] = ["u1", "u2", "u3", "u4", "u5", "u6", "u7", "u8"];

const LEARN_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks whether a service is known.
const LOOK: Duration = Duration::from_micros(50);

/// Fields are dropped in order: servers end before what their namespaces belong to.
pub(crate) struct Xylem {
    _servers: Vec<Server>,
    client: Inside,
    near: Ipv4Addr,
    far: Ipv4Addr,
    unknown: Vec<Ipv4Addr>,
    /// Of the client's node.
    fillers: Fillers,
    platform: Platform,
}

impl Xylem {
    pub(crate) fn start(name: Name) -> Result<Self> {
        Self::start_with(name, &[])
    }

    /// With more flags for the net manager of the client's node.
    pub(crate) fn start_with(name: Name, flags: &[&str]) -> Result<Self> {
        let topology = Topology::isolated(&name.prefix(), 2)?;
        let mut platform = Platform::start(name, topology)?;
        platform.start_workers()?;
        if !flags.is_empty() {
            platform.workers[0].net_manager.stop()?;
            platform.restart_net_manager_with(0, flags)?;
        }

        let hub = &platform.topology.hub.netns;
        let image = Image::of_binary("demo-app", &daemon::demo_app())?;
        let image = platform.registry.add(hub, "demo-app", "1", &image)?;
        let rest = platform.rest()?;
        let wanted = |name, node| Wanted {
            name,
            rr_ip: None,
            node: Some(node),
            image: &image,
            cmd: &["/demo-app", "serve", "--port", "8080"],
        };
        let running =
            [wanted("client", "worker1"), wanted("near", "worker1"), wanted("far", "worker2")];
        let unknown = UNKNOWN.map(|name| wanted(name, "worker2"));
        let (_, services) = create(&rest, "bench", &[&running[..], &unknown].concat())?;
        let (services, unknown) = services.split_at(running.len());
        let enter = |service: &Service| -> Result<Inside> {
            platform.inside(&scale_up(&rest, service, 1)?.pop().context("no instance")?)
        };
        let mut insides = services.iter().map(enter).collect::<Result<Vec<_>>>()?;
        let servers = insides[1..]
            .iter()
            .map(|inside| inside.run(Server::start).context("no load servers"))
            .collect::<Result<_>>()?;
        let (near, far) = (services[1].rr_ip, services[2].rr_ip);
        let fillers = Fillers::new(&platform.workers[0].paths.bpffs_root);
        Ok(Self {
            _servers: servers,
            client: insides.remove(0),
            near,
            far,
            unknown: unknown.iter().map(|service| service.rr_ip).collect(),
            fillers,
            platform,
        })
    }

    fn maps(&self) -> Result<PinnedMaps> {
        PinnedMaps::open(&self.platform.workers[0].paths.bpffs_root)
            .context("no maps of the client's node")
    }
}

impl Contender for Xylem {
    fn path(&self, place: Place) -> measure::Path<'_> {
        let server = match place {
            Place::Same => self.near,
            Place::Cross => self.far,
        };
        measure::Path { client: Client::Instance(&self.client), server }
    }

    fn bpffs_roots(&self) -> Vec<&Path> {
        self.platform.workers.iter().map(|worker| &*worker.paths.bpffs_root).collect()
    }

    fn fill(&mut self, count: u32) -> Result<()> {
        self.fillers.set_count(count)
    }

    fn time_adding(&mut self) -> Result<Option<Duration>> {
        self.fillers.time_adding().map(Some)
    }

    /// Also nothing while the node still knows all those that could be learnt.
    fn time_learning(&mut self) -> Result<Option<Duration>> {
        let maps = self.maps()?;
        let mut address = None;
        for candidate in &self.unknown {
            if maps.service((*candidate).into())?.is_none() {
                address = Some(*candidate);
                break;
            }
        }
        let Some(address) = address else { return Ok(None) };
        self.client.run(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            let start = Instant::now();
            socket.send_to(&[0], (address, 9))?;
            while maps.service(address.into())?.is_none() {
                if start.elapsed() > LEARN_LIMIT {
                    bail!("the client's node does not learn who {address} is");
                }
                pause(LOOK);
            }
            Ok(Some(start.elapsed()))
        })
    }
}

#[expect(clippy::disallowed_methods, reason = "between two looks at a map")]
fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

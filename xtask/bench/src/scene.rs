//! The platform with a client and two services, and the hosts that only route.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use net_maps::PinnedMaps;
use xylem_tests::{
    daemon,
    deployment::{Service, Wanted, create, inside, scale_up},
    image::Image,
    inside::Inside,
    load::Server,
    platform::{Name, Platform},
    topology::Topology,
};

use crate::{
    measure::{Client, Path, Place, Side},
    plain::{self, Plain},
};

/// Hosts of the topology that run Xylem; as many more only route.
const XYLEM_HOSTS: u8 = 2;

/// Fields are dropped in order: servers end before what their namespaces belong to.
pub(crate) struct Scene {
    _servers: Vec<Server>,
    client: Inside,
    near: Ipv4Addr,
    far: Ipv4Addr,
    plain: Plain,
    platform: Platform,
}

impl Scene {
    pub(crate) fn start() -> Result<Self> {
        let name = Name::new(format!("b{}", std::process::id()));
        let topology = Topology::isolated(&name.prefix(), 2 * XYLEM_HOSTS)?;
        let plain = Plain::start(&name.prefix(), &topology, [2, 3])?;
        let mut platform = Platform::start(name, topology)?;
        platform.start_first_workers(XYLEM_HOSTS.into())?;

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
        let list =
            [wanted("client", "worker1"), wanted("near", "worker1"), wanted("far", "worker2")];
        let (_, services) = create(&rest, "bench", &list)?;
        let enter = |service: &Service| -> Result<Inside> {
            inside(&scale_up(&rest, service, 1)?.pop().context("no instance")?)
        };
        let mut insides = services.iter().map(enter).collect::<Result<Vec<_>>>()?;
        let servers = insides[1..]
            .iter()
            .map(|inside| inside.run(Server::start).context("no load servers"))
            .collect::<Result<_>>()?;
        let (near, far) = (services[1].rr_ip, services[2].rr_ip);
        Ok(Self { _servers: servers, client: insides.remove(0), near, far, plain, platform })
    }

    pub(crate) fn path(&self, place: Place, side: Side) -> Path<'_> {
        let (client, server) = match (side, place) {
            (Side::Plain, Place::Same) => (Client::Plain(&self.plain.client), plain::NEAR),
            (Side::Plain, Place::Cross) => (Client::Plain(&self.plain.client), plain::FAR),
            (Side::Xylem, Place::Same) => (Client::Instance(&self.client), self.near),
            (Side::Xylem, Place::Cross) => (Client::Instance(&self.client), self.far),
        };
        Path { client, server }
    }

    /// Addresses in the client's translation table.
    pub(crate) fn services(&self) -> Result<usize> {
        Ok(PinnedMaps::open(&self.platform.workers[0].paths.bpffs_root)?.services()?.len())
    }
}

//! Xylem: the platform with a client and two services, dialled by service IP.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};
use xylem_tests::{
    daemon,
    deployment::{Service, Wanted, create, scale_up},
    image::Image,
    inside::Inside,
    load::Server,
    platform::{Name, Platform},
    topology::Topology,
};

use crate::{
    contender::Contender,
    fillers::Fillers,
    measure::{Client, Path},
    metric::Place,
};

/// Fields are dropped in order: servers end before what their namespaces belong to.
pub(crate) struct Xylem {
    _servers: Vec<Server>,
    client: Inside,
    near: Ipv4Addr,
    far: Ipv4Addr,
    /// Of the client's node.
    fillers: Fillers,
    _platform: Platform,
}

impl Xylem {
    pub(crate) fn start(name: Name) -> Result<Self> {
        let topology = Topology::isolated(&name.prefix(), 2)?;
        let mut platform = Platform::start(name, topology)?;
        platform.start_workers()?;

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
            fillers,
            _platform: platform,
        })
    }
}

impl Contender for Xylem {
    fn path(&self, place: Place) -> Path<'_> {
        let server = match place {
            Place::Same => self.near,
            Place::Cross => self.far,
        };
        Path { client: Client::Instance(&self.client), server }
    }

    fn fill(&mut self, count: u32) -> Result<()> {
        self.fillers.set_count(count)
    }

    fn time_adding(&mut self) -> Result<Option<Duration>> {
        self.fillers.time_adding().map(Some)
    }
}

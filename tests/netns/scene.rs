//! The platform of all trials: a client and a server on the first worker, servers on the second.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    process::Command,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use anyhow::{Context, Result};
use net_common::DropReason;
use net_maps::PinnedMaps;
use xylem_tests::{
    daemon,
    deployment::{Service, Wanted, create, scale_up},
    inside::Inside,
    load::Server,
    platform::Platform,
    suite::{self, Shared},
};

/// For what happens within the platform's own intervals.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A service with one instance, on which the load servers listen.
pub struct Served {
    pub rr_ip: Ipv4Addr,
    pub rr_ip_v6: Ipv6Addr,
    pub instance_ip: Ipv4Addr,
    pub namespace_ip: Ipv4Addr,
    pub inside: Inside,
    _server: Server,
}

/// Fields are dropped in order: servers end before the platform that their namespaces are of.
pub struct Scene {
    pub client: Inside,
    pub client_ip: Ipv4Addr,
    /// On the client's worker.
    pub near: Served,
    /// On the other worker.
    pub far: Served,
    /// Never dialled by anyone but the trial of the first packet.
    pub unseen: Served,
    /// One instance on each worker.
    pub both: Service,
    platform: Mutex<Platform>,
}

impl Shared for Scene {
    fn start() -> Result<Self> {
        let (platform, image) = suite::platform('n', 2)?;
        let rest = platform.rest()?;
        let wanted = |name, node| Wanted {
            name,
            rr_ip: None,
            node,
            image: &image,
            cmd: &["/demo-app", "serve", "--port", "8080"],
        };
        let (_, services) = create(
            &rest,
            "net",
            &[
                wanted("client", Some("worker1")),
                wanted("near", Some("worker1")),
                wanted("far", Some("worker2")),
                wanted("unseen", Some("worker2")),
                wanted("both", None),
            ],
        )?;
        let [client, near, far, unseen, both] =
            <[Service; 5]>::try_from(services).expect("five were wanted");
        let serve = |service: Service| {
            let instance = scale_up(&rest, &service, 1)?.pop().context("no instance")?;
            let inside = platform.inside(&instance)?;
            let server = inside.run(Server::start).context("no load servers")?;
            Ok::<_, anyhow::Error>(Served {
                rr_ip: service.rr_ip,
                rr_ip_v6: service.rr_ip_v6.context("no IPv6 service IP")?,
                instance_ip: instance.instance_ip.context("no instance IP")?,
                namespace_ip: instance.namespace_ip.context("no namespace IP")?,
                inside,
                _server: server,
            })
        };
        let client = scale_up(&rest, &client, 1)?.pop().context("no client")?;
        let client_ip = client.instance_ip.context("the client has no instance IP")?;
        let client = platform.inside(&client)?;
        let (near, far, unseen) = (serve(near)?, serve(far)?, serve(unseen)?);
        scale_up(&rest, &both, 2)?;
        Ok(Self { client, client_ip, near, far, unseen, both, platform: Mutex::new(platform) })
    }

    fn judge(&self, outcome: Result<()>) -> Result<(), String> {
        outcome.map_err(|error| {
            let drops = self.drops().unwrap_or_else(|error| format!("{error:#}"));
            format!("{error:#}\n{drops}")
        })
    }
}

impl Scene {
    pub fn platform(&self) -> MutexGuard<'_, Platform> {
        self.platform.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The pinned maps of a worker, by its index.
    pub fn maps(&self, worker: usize) -> Result<PinnedMaps> {
        let platform = self.platform();
        PinnedMaps::open(&platform.workers[worker].paths.bpffs_root).context("no pinned maps")
    }

    /// Packets dropped for `reason` on a worker so far.
    pub fn dropped(&self, worker: usize, reason: DropReason) -> Result<u64> {
        let drops = self.maps(worker)?.drops()?;
        Ok(drops.iter().filter(|(known, _)| *known == reason).map(|(_, c)| c.packets).sum())
    }

    /// What `xylem net …` prints as JSON on a worker.
    pub fn xylem_net(&self, worker: usize, arguments: &[&str]) -> Result<String> {
        let platform = self.platform();
        let output = Command::new(daemon::program("xylem"))
            .args(["net", "--output", "json", "--bpffs"])
            .arg(&platform.workers[worker].paths.bpffs_root)
            .args(arguments)
            .output()
            .context("cannot run xylem")?;
        anyhow::ensure!(
            output.status.success(),
            "xylem net {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).context("not UTF-8")
    }

    /// All drops of both workers, for the message of a trial that failed.
    fn drops(&self) -> Result<String> {
        let mut text = String::new();
        for worker in [0, 1] {
            let drops = self.maps(worker)?.drops()?;
            let drops: Vec<_> = drops
                .iter()
                .filter(|(_, counter)| counter.packets > 0)
                .map(|(reason, counter)| format!("{} {}", reason.name(), counter.packets))
                .collect();
            text += &format!("drops of worker {}: {}\n", worker + 1, drops.join(", "));
        }
        Ok(text)
    }
}

//! The platform of all trials.

use std::{
    collections::BTreeSet,
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Result, ensure};
use net_maps::PinnedMaps;
use xylem_tests::{
    deployment::{self, Service, Wanted},
    inside::Inside,
    link,
    platform::Platform,
    rest::Rest,
    suite::{self, Shared},
    wait::wait_for,
};
use xylem_types::job::JobInstance;

/// For what happens within the platform's own intervals.
pub const LIMIT: Duration = Duration::from_secs(60);

pub const WORKERS: u8 = 3;

const SERVE: &[&str] = &["/demo-app", "serve", "--port", "8080"];

pub struct Scene {
    /// Reference of the demo's application in the platform's registry.
    pub image: String,
    /// Interfaces of each worker before anything was deployed.
    interfaces: Vec<BTreeSet<String>>,
    platform: Mutex<Platform>,
}

impl Shared for Scene {
    fn start() -> Result<Self> {
        let (platform, image) = suite::platform('c', WORKERS)?;
        let interfaces = interfaces(&platform)?;
        Ok(Self { image, interfaces, platform: Mutex::new(platform) })
    }

    fn judge(&self, outcome: Result<()>) -> Result<(), String> {
        let outcome = outcome.and_then(|()| self.platform().check_alive());
        outcome.map_err(|error| format!("{error:#}\n{}", self.logs()))
    }
}

impl Scene {
    pub fn platform(&self) -> MutexGuard<'_, Platform> {
        self.platform.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network namespace of a running instance.
    pub fn inside(&self, instance: &JobInstance) -> Result<Inside> {
        self.platform().inside(instance)
    }

    /// Runs `work` with a client of the root.
    pub fn with_rest<T>(&self, work: impl FnOnce(&Rest<'_>) -> Result<T>) -> Result<T> {
        let platform = self.platform();
        work(&platform.rest()?)
    }

    /// A service that answers on port 8080.
    pub fn serving<'a>(&'a self, name: &'a str) -> Wanted<'a> {
        Wanted { name, rr_ip: None, node: None, image: &self.image, cmd: SERVE }
    }

    /// Deploys one service with `instances`, runs `work` with it, deletes the application and
    /// checks that nothing of it is left.
    pub fn with_service(
        &self,
        wanted: Wanted<'_>,
        instances: u32,
        work: impl FnOnce(&Service) -> Result<()>,
    ) -> Result<()> {
        let (application, service) = self.with_rest(|rest| {
            let (application, mut services) =
                deployment::create(rest, wanted.name, std::slice::from_ref(&wanted))?;
            let service = services.remove(0);
            if instances > 0 {
                deployment::scale_up(rest, &service, instances)?;
            }
            Ok((application, service))
        })?;
        let outcome = work(&service);
        self.with_rest(|rest| rest.delete_application(&application))?;
        outcome?;
        self.wait_empty()
    }

    /// Waits until no instance, interface, address or map entry is on any worker.
    pub fn wait_empty(&self) -> Result<()> {
        wait_for("everything to be removed", LIMIT, || -> Result<()> {
            let platform = self.platform();
            let now = interfaces(&platform)?;
            ensure!(now == self.interfaces, "interfaces: {now:?}, before: {:?}", self.interfaces);
            for worker in &platform.workers {
                let processes = worker.instances();
                ensure!(processes == 0, "{processes} processes of instances on {}", worker.name);
                let maps = PinnedMaps::open(&worker.paths.bpffs_root)?;
                let endpoints = maps.endpoints()?;
                ensure!(endpoints.is_empty(), "endpoints on {}: {endpoints:?}", worker.name);
                let mounts = std::fs::read_to_string("/proc/self/mounts")?;
                let state = worker.paths.state.to_string_lossy();
                let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(&*state)).collect();
                ensure!(mounts.is_empty(), "mounts: {mounts:?}");
            }
            Ok(())
        })
    }

    /// What the daemons said last, for the message of a trial that failed.
    fn logs(&self) -> String {
        let platform = self.platform();
        let tail = |process: &xylem_tests::process::Process| {
            format!("--- {}\n{}\n", process.name(), process.log_tail(12))
        };
        platform.processes().map(tail).collect()
    }
}

fn interfaces(platform: &Platform) -> Result<Vec<BTreeSet<String>>> {
    let of = |host: &xylem_tests::topology::Host| {
        let links = host.netns.netlink(async |netlink| link::up(&netlink).await)?;
        Ok(links.into_iter().map(|(name, _)| name).collect())
    };
    platform.topology.workers.iter().map(of).collect()
}

/// Asks the instance that listens at `address` for its name, from the inside of another.
pub fn ask(client: &Inside, address: Ipv4Addr) -> Result<String> {
    client.run(|| suite::ask(address, Duration::from_secs(3)))
}

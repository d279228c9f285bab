//! What the demo shows and checks, gathered from where each is known best: the root, the
//! client's own output, the kernel.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use net_common::{Counter, DropReason, ProgramCounter};
use net_maps::PinnedMaps;
use xylem_tests::{inside::Inside, link, netns::netlink_here, platform::Platform};
use xylem_types::{instance::InstanceStatus, job::JobInstance};

use crate::application::Tally;

#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) web: Vec<Instance>,
    pub(crate) client: Instance,
    pub(crate) tally: Tally,
    pub(crate) links: Vec<Link>,
    /// Of the programs on the client's worker.
    pub(crate) programs: Vec<(ProgramCounter, Counter)>,
    /// Of all workers: worker, reason, packets.
    pub(crate) drops: Vec<(String, DropReason, u64)>,
}

#[derive(Debug)]
pub(crate) struct Instance {
    /// `service.number`
    pub(crate) name: String,
    pub(crate) number: u32,
    pub(crate) status: InstanceStatus,
    /// Position in the platform's list.
    pub(crate) worker: usize,
    pub(crate) namespace_ip: Option<Ipv4Addr>,
    pub(crate) instance_ip: Option<Ipv4Addr>,
    pub(crate) underlay: String,
}

/// An interface.
#[derive(Debug)]
pub(crate) struct Link {
    /// The worker or instance that has it.
    pub(crate) place: String,
    pub(crate) ifname: String,
    /// `veth`, `bridge`, `tun`, …; empty for loopback.
    pub(crate) kind: String,
}

pub(crate) fn gather(
    platform: &Platform,
    web: &[JobInstance],
    client: &JobInstance,
    tally: Tally,
) -> Result<Facts> {
    let client = instance(platform, "client", client)?;
    let web = web.iter().map(|one| instance(platform, "web", one)).collect::<Result<Vec<_>>>()?;

    let mut links = Vec::new();
    let mut note = |place: &str, found: Vec<(String, String)>| {
        let link = |(ifname, kind)| Link { place: place.to_owned(), ifname, kind };
        links.extend(found.into_iter().map(link));
    };
    for (host, worker) in platform.topology.workers.iter().zip(&platform.workers) {
        note(&worker.name, host.netns.netlink(async |netlink| link::up(&netlink).await)?);
    }
    for instance in web.iter().chain([&client]) {
        let address = instance.namespace_ip.context("a running instance has an address")?;
        let list = || netlink_here(async |netlink| link::up(&netlink).await);
        let parent = &platform.workers[instance.worker].paths.cgroup_parent;
        note(&instance.name, Inside::of_worker(parent, address)?.run(list)?);
    }

    let bpffs = &platform.workers[client.worker].paths.bpffs_root;
    let programs = PinnedMaps::open(bpffs)?.program_counters()?;
    let mut drops = Vec::new();
    for worker in &platform.workers {
        let counted = PinnedMaps::open(&worker.paths.bpffs_root)?.drops()?;
        let any = counted.into_iter().filter(|(_, counter)| counter.packets > 0);
        drops.extend(any.map(|(reason, counter)| (worker.name.clone(), reason, counter.packets)));
    }
    Ok(Facts { web, client, tally, links, programs, drops })
}

/// Workers share one host name and are told apart by their underlay address.
fn instance(platform: &Platform, service: &str, instance: &JobInstance) -> Result<Instance> {
    let name = format!("{service}.{}", instance.instance_number);
    let hosts = &platform.topology.workers;
    let is_it = |address: Ipv4Addr| address.to_string() == instance.host_ip;
    let worker = hosts.iter().position(|host| is_it(host.address)).with_context(|| {
        format!("{name} is said to run on {:?}, which is no worker's address", instance.host_ip)
    })?;
    Ok(Instance {
        name,
        number: instance.instance_number,
        status: instance.status.clone(),
        worker,
        namespace_ip: instance.namespace_ip,
        instance_ip: instance.instance_ip,
        underlay: format!("{}:{}", instance.host_ip, instance.host_port),
    })
}

impl Facts {
    /// How often an instance answered. Containers are called by their number: `instance-0`.
    pub(crate) fn answers(&self, instance: &Instance) -> u32 {
        let number = instance.number.to_string();
        let of = |name: &str| name.rsplit(['-', '.']).next() == Some(number.as_str());
        self.tally.answers.iter().filter(|(name, _)| of(name)).map(|(_, count)| count).sum()
    }
}

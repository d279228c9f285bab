//! Processes die; what people deployed goes on.

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use xylem_tests::{
    deployment::{Service, Wanted, wait_running},
    inside::Inside,
    wait::wait_for,
};
use xylem_types::{instance::InstanceStatus, job::JobInstance};

use crate::{
    lifecycle::round_trip,
    scene::{LIMIT, Scene, ask},
};

pub fn instance_dies(scene: &Scene) -> Result<()> {
    scene.with_service(scene.serving("mortal"), 1, |service| {
        let before = only_instance(scene, service)?;
        let process = scene.inside(&before)?.pid();
        kill(Pid::from_raw(process.try_into()?), Signal::SIGKILL)?;
        wait_for("another process", LIMIT, || {
            let now = only_instance(scene, service)?;
            ensure!(now.status == InstanceStatus::Running, "{now:?}");
            ensure!(scene.inside(&now)?.pid() != process, "the old one is still there");
            Ok(())
        })
    })
}

/// The instance goes on without its engine, and the engine finds it when it is back.
pub fn node_engine_dies(scene: &Scene) -> Result<()> {
    let wanted = Wanted { node: Some("worker1"), ..scene.serving("orphan") };
    scene.with_service(wanted, 1, |service| {
        let before = only_instance(scene, service)?;
        let process = scene.inside(&before)?.pid();
        {
            let mut platform = scene.platform();
            platform.workers[0].node_engine.kill()?;
            platform.restart_node_engine(0)?;
        }
        wait_joined(scene)?;
        let now = scene.with_rest(|rest| wait_running(rest, service, 1))?.remove(0);
        ensure!(scene.inside(&now)?.pid() == process, "the instance was started anew");
        ensure!(now.generation == before.generation, "the instance was placed anew");
        Ok(())
    })
}

pub fn root_dies(scene: &Scene) -> Result<()> {
    scene.with_service(scene.serving("rootless"), 2, |service| {
        let before = scene.with_rest(|rest| rest.service(&service.id))?;
        let client = scene.inside(&before.instance_list[0])?;
        {
            let mut platform = scene.platform();
            platform.root.kill()?;
            ask(&client, service.rr_ip).context("traffic without a root")?;
            platform.restart_root()?;
        }
        wait_joined(scene)?;
        let after = scene.with_rest(|rest| wait_running(rest, service, 2))?;
        unchanged(&before.instance_list, &after)
    })?;
    round_trip(scene, "afterroot")
}

pub fn cluster_dies(scene: &Scene) -> Result<()> {
    scene.with_service(scene.serving("clusterless"), 2, |service| {
        let before = scene.with_rest(|rest| rest.service(&service.id))?;
        let client = scene.inside(&before.instance_list[0])?;
        {
            let mut platform = scene.platform();
            platform.cluster.kill()?;
            ask(&client, service.rr_ip).context("traffic without a cluster")?;
            platform.restart_cluster()?;
        }
        wait_joined(scene)?;
        let after = scene.with_rest(|rest| wait_running(rest, service, 2))?;
        unchanged(&before.instance_list, &after)
    })?;
    round_trip(scene, "aftercluster")
}

/// Both daemons of a worker fall silent while its instance goes on: the instance is placed
/// elsewhere; when the worker is back, the old one ends.
pub fn worker_lost(scene: &Scene) -> Result<()> {
    scene.with_service(scene.serving("wandering"), 1, |service| {
        let before = only_instance(scene, service)?;
        let old: Inside = scene.inside(&before)?;
        let lost = {
            let mut platform = scene.platform();
            let lost = platform
                .workers
                .iter()
                .position(|worker| worker.name == before.worker_name)
                .context("no such worker")?;
            platform.workers[lost].node_engine.kill()?;
            platform.workers[lost].net_manager.kill()?;
            lost
        };
        let moved = wait_for("the instance to be placed elsewhere", LIMIT, || {
            let now = only_instance(scene, service)?;
            let is_moved = now.status == InstanceStatus::Running
                && now.worker_name != before.worker_name
                && now.namespace_ip.is_some();
            if is_moved { Ok(now) } else { bail!("{now:?}") }
        })?;
        ensure!(moved.generation > before.generation, "generation {}", moved.generation);
        ensure!(moved.instance_ip == before.instance_ip, "its instance IP is for life");
        {
            let mut platform = scene.platform();
            platform.restart_net_manager(lost)?;
            platform.restart_node_engine(lost)?;
        }
        wait_joined(scene)?;
        wait_for("the duplicate to end", LIMIT, || {
            let alive = std::path::Path::new("/proc").join(old.pid().to_string()).exists();
            if alive { bail!("process {} is alive", old.pid()) } else { Ok(()) }
        })?;
        let now = only_instance(scene, service)?;
        ensure!(now.worker_name == moved.worker_name, "moved again: {now:?}");
        ensure!(now.status == InstanceStatus::Running, "{now:?}");
        Ok(())
    })
}

fn only_instance(scene: &Scene, service: &Service) -> Result<JobInstance> {
    let mut list = scene.with_rest(|rest| rest.service(&service.id))?.instance_list;
    ensure!(list.len() == 1, "{} instances", list.len());
    Ok(list.remove(0))
}

/// The same instances, by identity, place and addresses.
fn unchanged(before: &[JobInstance], after: &[JobInstance]) -> Result<()> {
    let identity = |list: &[JobInstance]| {
        let of = |i: &JobInstance| {
            (i.instance_number, i.generation, i.worker_name.clone(), i.namespace_ip, i.instance_ip)
        };
        list.iter().map(of).collect::<Vec<_>>()
    };
    ensure!(identity(before) == identity(after), "{before:?}\nbecame\n{after:?}");
    Ok(())
}

fn wait_joined(scene: &Scene) -> Result<()> {
    scene.platform().wait_joined()
}

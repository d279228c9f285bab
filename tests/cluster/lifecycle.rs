//! From an SLA to running instances, and back to nothing.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use xylem_tests::{
    deployment::{DEPLOY_LIMIT, scale_up, wait_running},
    wait::wait_for,
};
use xylem_types::instance::InstanceStatus;

use crate::scene::{Scene, WORKERS, ask};

pub fn deployed_scaled_and_removed(scene: &Scene) -> Result<()> {
    scene.with_service(scene.serving("lifecycle"), 1, |service| {
        let instances = scene.with_rest(|rest| scale_up(rest, service, 2))?;
        let distinct = |what: &str, values: Vec<String>| {
            let set: BTreeSet<_> = values.iter().collect();
            ensure!(set.len() == usize::from(WORKERS), "{what}: {values:?}");
            Ok(())
        };
        distinct("workers", instances.iter().map(|i| i.worker_name.clone()).collect())?;
        distinct(
            "namespace IPs",
            instances.iter().map(|i| format!("{:?}", i.namespace_ip)).collect(),
        )?;
        distinct(
            "instance IPs",
            instances.iter().map(|i| format!("{:?}", i.instance_ip)).collect(),
        )?;
        ensure!(
            instances.iter().all(|i| !i.host_ip.is_empty() && i.generation > 0),
            "incomplete: {instances:?}"
        );
        let job = scene.with_rest(|rest| rest.service(&service.id))?;
        ensure!(job.status == InstanceStatus::Running, "the service is {}", job.status);

        // Everyone reaches everyone by the service IP.
        for instance in &instances {
            let client = scene.inside(instance)?;
            let names =
                (0..6).map(|_| ask(&client, service.rr_ip)).collect::<Result<BTreeSet<_>>>()?;
            ensure!(names.len() == usize::from(WORKERS), "only {names:?} answered");
        }

        // One less: the others go on, and nobody is sent to the one that is gone.
        let gone = instances[0].instance_number;
        scene.with_rest(|rest| rest.remove_instance(&service.id, gone))?;
        let left = scene.with_rest(|rest| wait_running(rest, service, 2))?;
        let client = scene.inside(&left[0])?;
        wait_for("the removed instance to be withdrawn", DEPLOY_LIMIT, || {
            let names =
                (0..8).map(|_| ask(&client, service.rr_ip)).collect::<Result<BTreeSet<_>>>()?;
            ensure!(names.len() == 2, "{names:?} answer");
            Ok(())
        })
    })
}

/// `dial … --count 1` without a server ends with an exit code of its own choice; `--help` with 0.
pub fn one_shot(scene: &Scene) -> Result<()> {
    let sla = serde_json::json!({
        "sla_version": "v2.0", "customerID": "Admin",
        "applications": [{
            "applicationID": "", "application_name": "oneshot", "application_namespace": "test",
            "microservices": [{
                "microserviceID": "", "microservice_name": "job", "microservice_namespace": "test",
                "virtualization": "container", "code": scene.image,
                "cmd": ["/demo-app", "--help"], "one_shot": true, "memory": 32,
            }],
        }],
    });
    let application = scene.with_rest(|rest| {
        let application = rest.create_application(&sla.to_string())?;
        rest.add_instance(&application.microservices[0])?;
        Ok(application)
    })?;
    wait_for("the instance to complete", DEPLOY_LIMIT, || {
        let job = scene.with_rest(|rest| rest.service(&application.microservices[0]))?;
        match job.instance_list.first() {
            Some(instance) if instance.status == InstanceStatus::Completed => Ok(()),
            other => bail!("{other:?}"),
        }
    })?;
    scene.with_rest(|rest| rest.delete_application(&application.application_id))?;
    scene.wait_empty()
}

/// Deploys a service and removes it again, as a check that the platform still works.
pub fn round_trip(scene: &Scene, name: &str) -> Result<()> {
    scene.with_service(scene.serving(name), 1, |_| Ok(()))
}

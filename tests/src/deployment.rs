//! Applications as a suite deploys them: over REST, from an SLA.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::json;
use xylem_types::{
    instance::InstanceStatus,
    job::{Job, JobInstance},
};

use crate::{rest::Rest, wait::wait_for};

/// How long an instance may take from request to RUNNING on a busy machine.
pub const DEPLOY_LIMIT: Duration = Duration::from_secs(60);

/// One service of an application.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Letters and digits.
    pub name: &'a str,
    pub rr_ip: Option<Ipv4Addr>,
    /// Only on the worker of this name.
    pub node: Option<&'a str>,
    pub image: &'a str,
    pub cmd: &'a [&'a str],
}

/// A service that was deployed.
#[derive(Clone, Debug)]
pub struct Service {
    pub id: String,
    pub name: String,
    pub rr_ip: Ipv4Addr,
    pub rr_ip_v6: Option<Ipv6Addr>,
}

/// An SLA with one application called `name`.
pub fn sla(name: &str, services: &[Wanted<'_>]) -> String {
    let services: Vec<_> = services
        .iter()
        .map(|service| {
            let constraints: Vec<_> = service
                .node
                .map(|node| json!({ "type": "direct", "node": node }))
                .into_iter()
                .collect();
            json!({
                "microserviceID": "",
                "microservice_name": service.name,
                "microservice_namespace": "test",
                "virtualization": "container",
                "code": service.image,
                "cmd": service.cmd,
                "memory": 32,
                "addresses": { "rr_ip": service.rr_ip },
                "constraints": constraints,
            })
        })
        .collect();
    json!({
        "sla_version": "v2.0",
        "customerID": "Admin",
        "applications": [{
            "applicationID": "",
            "application_name": name,
            "application_namespace": "test",
            "microservices": services,
        }],
    })
    .to_string()
}

/// Registers an application; its id and its services, still without instances.
///
/// # Errors
/// As the root says.
pub fn create(
    rest: &Rest<'_>,
    name: &str,
    wanted: &[Wanted<'_>],
) -> Result<(String, Vec<Service>)> {
    let application = rest.create_application(&sla(name, wanted))?;
    let jobs = rest.services(&application.application_id)?;
    let service = |wanted: &Wanted<'_>| {
        let is_it = |job: &&Job| job.service_name == wanted.name;
        let job = jobs.iter().find(is_it).with_context(|| format!("no service {}", wanted.name))?;
        Ok(Service {
            id: job.id.clone(),
            name: job.job_name.clone(),
            rr_ip: job.rr_ip,
            rr_ip_v6: job.rr_ip_v6,
        })
    };
    let services = wanted.iter().map(service).collect::<Result<_>>()?;
    Ok((application.application_id, services))
}

/// Adds instances and waits until they and all before them run.
///
/// # Errors
/// If one fails, or is not running in time; with the cause.
pub fn scale_up(rest: &Rest<'_>, service: &Service, by: u32) -> Result<Vec<JobInstance>> {
    let before = rest.service(&service.id)?.instance_list.len();
    for _ in 0..by {
        rest.add_instance(&service.id)?;
    }
    wait_running(rest, service, before + by as usize)
}

/// Waits until the service has exactly `count` instances and all are RUNNING.
///
/// # Errors
/// If one fails, or it takes too long.
pub fn wait_running(rest: &Rest<'_>, service: &Service, count: usize) -> Result<Vec<JobInstance>> {
    let mut failed = None;
    let instances = wait_for(&format!("{count} × {}", service.name), DEPLOY_LIMIT, || {
        let instances = rest.service(&service.id)?.instance_list;
        failed = instances.iter().find(|i| i.status == InstanceStatus::Failed).cloned();
        if failed.is_some() {
            return Ok(instances);
        }
        let running =
            |i: &&JobInstance| i.status == InstanceStatus::Running && i.namespace_ip.is_some();
        let count_running = instances.iter().filter(running).count();
        if (count_running, instances.len()) != (count, count) {
            let states: Vec<_> = instances
                .iter()
                .map(|i| format!("{} {} {}", i.instance_number, i.status, i.status_detail))
                .collect();
            bail!("{count_running} of {count} run: {}", states.join("; "));
        }
        Ok(instances)
    })?;
    match failed {
        Some(instance) => {
            bail!("instance {} failed: {}", instance.instance_number, instance.status_detail)
        }
        None => Ok(instances),
    }
}

//! The application of the demo: a service with an instance for each worker, and a client.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context, Error, Result, bail};
use serde::Deserialize;
use xylem_tests::{
    daemon,
    deployment::{Service, wait_running},
    image::Image,
    platform::Platform,
    rest::Rest,
    wait::wait_for,
};
use xylem_types::job::JobInstance;

const TALLY_LIMIT: Duration = Duration::from_secs(30);
const REMOVAL_LIMIT: Duration = Duration::from_secs(30);

/// What stands in the SLA for the registry's address, which is chosen at each run.
const REGISTRY: &str = "REGISTRY/";

/// The services of `scripts/demo/sla.json`.
#[derive(Debug)]
pub(crate) struct Application {
    id: String,
    web: Service,
    client: Service,
    /// Of the service.
    instances: u8,
}

/// One round of the client, as it prints it (`tests/demo-app/src/dial.rs`).
#[derive(Debug, Deserialize)]
pub(crate) struct Tally {
    pub(crate) target: String,
    /// By name of the instance.
    pub(crate) answers: BTreeMap<String, u32>,
    pub(crate) failed: u32,
    pub(crate) failure: Option<String>,
    /// From dialling to the answer.
    pub(crate) slowest_ms: f64,
}

impl Application {
    /// Pushes the image, registers the SLA, and asks for the instances of the service.
    pub(crate) fn deploy(platform: &Platform, instances: u8) -> Result<Self> {
        let hub = &platform.topology.hub.netns;
        let image = Image::of_binary("demo-app", &daemon::demo_app())?;
        let reference = platform.registry.add(hub, "demo-app", "1", &image)?;
        let (registry, _) = reference.split_once('/').context("a reference names a registry")?;

        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/demo/sla.json");
        let sla = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .replace(REGISTRY, &format!("{registry}/"));

        let rest = from_this_host(platform)?;
        let application = rest.create_application(&sla)?;
        let services = rest.services(&application.id)?;
        let service = |name: &str| {
            let job = services.iter().find(|job| job.service_name == name);
            let job = job.with_context(|| format!("no service {name}"))?;
            Ok::<_, Error>(Service {
                id: job.id.clone(),
                name: name.to_owned(),
                rr_ip: job.rr_ip,
                rr_ip_v6: job.rr_ip_v6,
            })
        };
        let this = Self {
            id: application.id,
            web: service("web")?,
            client: service("client")?,
            instances,
        };
        for _ in 0..instances {
            rest.add_instance(&this.web.id)?;
        }
        Ok(this)
    }

    /// The instances of the service, once all run.
    pub(crate) fn wait_running(&self, platform: &Platform) -> Result<Vec<JobInstance>> {
        wait_running(&from_this_host(platform)?, &self.web, self.instances.into())
    }

    /// Adds the client. It comes last, so that every instance is there to answer from its first
    /// connection on.
    pub(crate) fn start_client(&self, platform: &Platform) -> Result<JobInstance> {
        let rest = from_this_host(platform)?;
        rest.add_instance(&self.client.id)?;
        wait_running(&rest, &self.client, 1)?.pop().context("no client")
    }

    /// The client's last whole round, once there is one in which every instance answered.
    pub(crate) fn wait_tally(&self, platform: &Platform) -> Result<Tally> {
        let (rest, wanted) = (from_this_host(platform)?, usize::from(self.instances));
        wait_for("the client to be answered by every instance", TALLY_LIMIT, || {
            platform.check_alive()?;
            let client = rest.service(&self.client.id)?;
            let instance = client.instance_list.first().context("the client has no instance")?;
            let tally = last_tally(&instance.logs).with_context(|| {
                format!("no round in the client's output yet: {:?}", instance.logs)
            })?;
            if tally.answers.len() < wanted {
                bail!("{} of {wanted} instances answered: {tally:?}", tally.answers.len());
            }
            Ok(tally)
        })
    }

    /// Undeploys everything and waits until the workers have no instance left.
    pub(crate) fn remove(&self, platform: &Platform) -> Result<()> {
        let rest = from_this_host(platform)?;
        rest.delete_application(&self.id)?;
        wait_for("the workers to remove all instances", REMOVAL_LIMIT, || {
            let left: usize = platform.workers.iter().map(|worker| worker.instances()).sum();
            if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
        })
    }
}

fn from_this_host(platform: &Platform) -> Result<Rest<'static>> {
    Rest::log_in(platform.root_url(), None)
}

/// The output is the end of a longer text: its first line may be a part of one.
fn last_tally(output: &str) -> Option<Tally> {
    output.lines().rev().find_map(|line| serde_json::from_str(line).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_round_is_found_in_the_end_of_a_log() {
        let round = |n: u32| {
            format!(
                r#"{{"round":{n},"target":"10.30.0.1:80","answers":{{"web":{n}}},"failed":0,"failure":null,"first_ms":0.1,"slowest_ms":0.2}}"#
            )
        };
        let log = format!("t\":2}}\n{}\nINSTANCE  ANSWERS\n{}\n{{\"rou", round(1), round(2));
        assert_eq!(last_tally(&log).unwrap().answers["web"], 2);
        assert!(last_tally("INSTANCE").is_none());
    }
}

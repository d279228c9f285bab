//! `xylem service deploy`

use std::{collections::BTreeSet, io};

use clap::Args;
use xylem_types::{job::Job, rest::InstanceCreated};

use super::{
    instances, resolve,
    wait::{Goal, WaitArgs, wait},
};
use crate::{
    client::{Client, ClientError},
    output::Format,
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem service deploy web
  xylem service deploy shop.prod.web.front --instances 3 --wait")]
pub(crate) struct DeployOneArgs {
    /// Id, full name app.appns.service.servicens, or service name if unique
    service: String,
    #[command(flatten)]
    how: DeployArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DeployArgs {
    /// How many more to start
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=super::scale::INSTANCES_MAX))]
    instances: u32,
    #[command(flatten)]
    waiting: WaitArgs,
}

impl DeployArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.instances != 1 || self.waiting.wait
    }
}

/// # Errors
/// When the root cannot be reached or refuses, the service is not there, or, when waited for,
/// an instance does not run.
pub(super) async fn run(
    client: &mut Client,
    args: DeployOneArgs,
    format: Format,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    let service = resolve::find(client, &args.service).await?;
    deploy_all(client, &[service], &args.how, format, out).await
}

/// Starts instances of each service, then waits for all of them if that was asked for, and shows
/// the new ones.
///
/// # Errors
/// As for [`run`].
pub(crate) async fn deploy_all(
    client: &mut Client,
    services: &[Job],
    how: &DeployArgs,
    format: Format,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    let mut started = Vec::new();
    for service in services {
        let numbers = start(client, service, how.instances).await?;
        started.push((service, numbers));
    }
    let mut shown = Vec::new();
    let mut outcome = Ok(());
    for (service, numbers) in started {
        if how.waiting.wait && outcome.is_ok() {
            outcome = wait(client, service, &Goal::Running(numbers.clone()), &how.waiting).await;
        }
        let job = resolve::get(client, &service.id).await?;
        shown
            .extend(job.instance_list.into_iter().filter(|i| numbers.contains(&i.instance_number)));
    }
    instances::render(out, format, &shown)?;
    outcome
}

/// Starts `count` more instances and returns their numbers.
///
/// # Errors
/// When the root cannot be reached or refuses; those started before stay.
pub(super) async fn start(
    client: &mut Client,
    service: &Job,
    count: u32,
) -> Result<BTreeSet<u32>, ClientError> {
    let mut numbers = BTreeSet::new();
    for _ in 0..count {
        let created: InstanceCreated =
            client.post(&["api", "service", &service.id, "instance"], None).await?;
        numbers.insert(created.instance_number);
    }
    Ok(numbers)
}

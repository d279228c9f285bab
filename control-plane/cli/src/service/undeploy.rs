//! `xylem service undeploy`

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use anyhow::bail;
use clap::Args;
use xylem_types::job::Job;

use super::{
    resolve,
    wait::{Goal, WaitArgs, wait},
};
use crate::{
    client::{Client, ClientError},
    confirm::Confirmation,
};

/// Instead of a number, in the API: every instance.
const ALL: &str = "-1";

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem service undeploy web --instance 2
  xylem service undeploy shop.prod.web.front --yes --wait")]
pub(crate) struct UndeployArgs {
    /// Id, full name app.appns.service.servicens, or service name if unique
    service: String,
    /// Stop only this instance; without it all are stopped
    #[arg(long, value_name = "NUMBER")]
    instance: Option<u32>,
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    waiting: WaitArgs,
}

/// # Errors
/// When the root cannot be reached or refuses, the service or instance is not there, nobody
/// confirms, or, when waited for, an instance stays.
pub(super) async fn run(client: &mut Client, args: UndeployArgs) -> anyhow::Result<()> {
    let service = resolve::find(client, &args.service).await?;
    let numbers = service.instance_list.iter().map(|i| i.instance_number);
    let present: BTreeSet<u32> = numbers.collect();
    let (what, numbers, path) = match args.instance {
        Some(number) => {
            if !present.contains(&number) {
                let name = &service.job_name;
                bail!("{name} has no instance {number}; `xylem service inspect {name}` lists them");
            }
            (format!("instance {number}"), [number].into(), number.to_string())
        }
        None => (format!("all {} instance(s)", present.len()), present, ALL.to_owned()),
    };
    if !args.confirmation.ask(&format!("stop {what} of {}?", service.job_name))? {
        bail!("not stopped");
    }
    stop(client, &service, &path).await?;
    if args.waiting.wait {
        wait(client, &service, &Goal::Gone(numbers), &args.waiting).await?;
    }
    writeln!(io::stderr(), "{what} of {} is undeployed", service.job_name)?;
    Ok(())
}

/// Stops the instance of this number. That it is gone already is no error.
///
/// # Errors
/// When the root cannot be reached or refuses.
pub(super) async fn stop(
    client: &mut Client,
    service: &Job,
    number: &str,
) -> Result<(), ClientError> {
    match client.delete(&["api", "service", &service.id, "instance", number]).await {
        Err(error) if error.is_not_found() => Ok(()),
        done => done,
    }
}

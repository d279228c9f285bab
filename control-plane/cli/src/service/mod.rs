//! `xylem service …`: services and their instances.

pub(crate) mod deploy;
mod inspect;
mod instances;
pub(crate) mod list;
mod logs;
mod resolve;
mod scale;
mod undeploy;
mod wait;

use std::io::Write;

use clap::Subcommand;

use crate::{client::Client, output::Format};

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Your services
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// A service: its service IPs, and where each instance runs
    Inspect(inspect::InspectArgs),
    /// Starts more instances
    Deploy(deploy::DeployOneArgs),
    /// Stops one instance or all
    Undeploy(undeploy::UndeployArgs),
    /// Starts or stops instances until there are so many
    Scale(scale::ScaleArgs),
    /// The last output of the instances
    Logs(logs::LogsArgs),
}

/// # Errors
/// When the root cannot be reached or refuses, the service is not there, or the writer fails.
pub(crate) async fn run(
    mut client: Client,
    command: ServiceCommand,
    format: Format,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let client = &mut client;
    match command {
        ServiceCommand::List(args) => list::run(client, args, format, out).await,
        ServiceCommand::Inspect(args) => inspect::run(client, args, format, out).await,
        ServiceCommand::Deploy(args) => deploy::run(client, args, format, out).await,
        ServiceCommand::Undeploy(args) => undeploy::run(client, args).await,
        ServiceCommand::Scale(args) => scale::run(client, args, format, out).await,
        ServiceCommand::Logs(args) => logs::run(client, args, format, out).await,
    }
}

//! `xylem-net-manager`: the worker's network daemon.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use net_manager::{
    config::{Config, Settings},
    daemon::{purge, start},
};
use xylem_daemon::{at_signal, exit_code, log, settings};

/// The worker's network daemon. It makes the instances' interfaces and fills the maps of the
/// kernel programs; packets never wait for it, except for the first to an unknown service.
#[derive(Debug, Parser)]
#[command(name = "xylem-net-manager", version)]
struct Args {
    /// TOML file with these settings, named like the flags with underscores
    #[arg(long, env = "XYLEM_NET_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove programs, maps and interfaces; every instance of this node loses its network
    Purge,
}

fn main() -> ExitCode {
    exit_code(run(Args::parse()))
}

fn run(args: Args) -> Result<()> {
    log::init("info")?;
    let file = settings::read(args.config.as_deref())?;
    let config = args.settings.resolve(file)?;
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    runtime.block_on(async {
        match args.command {
            None => serve(config).await,
            Some(Command::Purge) => Ok(purge::purge(&config.bpffs_root).await?),
        }
    })
}

/// Serves until SIGTERM or SIGINT, and leaves the data path in place.
async fn serve(config: Config) -> Result<()> {
    let stop = at_signal().context("cannot wait for signals")?;
    start::run(config, stop).await?;
    tracing::info!("stopped; the data path stays in place");
    Ok(())
}

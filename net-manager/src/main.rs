//! `xylem-net-manager`: the worker's network daemon.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use net_manager::{
    config::{Config, Settings},
    daemon::{purge, start},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

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
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_env("XYLEM_LOG").unwrap_or_else(|_| EnvFilter::new("info")),
        )
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    let file = args.config.as_deref().map(Settings::from_file).transpose()?.unwrap_or_default();
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
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping; the data path stays in place");
        signalled.cancel();
    });
    Ok(start::run(config, stop).await?)
}

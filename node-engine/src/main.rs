//! The worker's workload daemon.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use node_engine::{
    config::{Config, Settings},
    engine, purge,
    runtime::shim,
};
use tracing_subscriber::EnvFilter;
use xylem_daemon::{at_signal, exit_code, log, settings};

/// Runs the instances that a Xylem cluster places on this worker, as containers.
#[derive(Parser)]
#[command(name = "xylem-node-engine", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// TOML file with the settings below, named like the flags with underscores
    #[arg(long, env = "XYLEM_CONFIG", global = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the engine (the default). It stops at SIGTERM; instances go on
    Run,
    /// Stops and removes all instances and images of this worker; its engine must not be running
    Purge,
    /// Runs one instance; the engine starts this
    #[command(hide = true)]
    Shim { folder: PathBuf },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(Command::Shim { folder }) = &cli.command {
        log::init_with(EnvFilter::new("warn,libcontainer=off,libcgroups=off"));
        return shim::run(folder);
    }
    exit_code(run(cli))
}

fn run(cli: Cli) -> anyhow::Result<()> {
    log::init("info")?;
    let file = settings::read(cli.config.as_deref())?;
    let hostname = nix::unistd::gethostname().context("no host name")?;
    let config = Config::resolve(cli.settings, file, &hostname.to_string_lossy())?;
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("another TLS provider is installed"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("no runtime")?;
    let result = runtime.block_on(async {
        if let Some(Command::Purge) = cli.command {
            let removed = purge::purge(&config).await?;
            tracing::info!(instances = removed, "purged");
            return Ok(());
        }
        let stop = at_signal().context("cannot wait for signals")?;
        Ok(engine::run(config, stop).await?)
    });
    // An image half unpacked is not waited for; the next engine begins it anew.
    runtime.shutdown_background();
    result
}

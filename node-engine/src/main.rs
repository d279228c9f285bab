//! The worker's workload daemon.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use node_engine::{
    chain::Chain,
    config::{Config, Settings},
    engine, purge,
    runtime::shim,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Runs the instances that a Xylem cluster places on this worker, as containers.
#[derive(Parser)]
#[command(name = "xylem-node-engine", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// TOML file with the settings below, by the names of the flags
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
        log(EnvFilter::new("warn,libcontainer=off,libcgroups=off"));
        return shim::run(folder);
    }
    let filter = EnvFilter::try_from_env("XYLEM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    log(filter);
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %Chain(error.as_ref()), "cannot go on");
            ExitCode::FAILURE
        }
    }
}

fn log(filter: EnvFilter) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let file = match &cli.config {
        Some(path) => Settings::read(path)?,
        None => Settings::default(),
    };
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
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("no SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no SIGINT")?;
        let asked = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            asked.cancel();
        });
        Ok(engine::run(config, stop).await?)
    });
    // An image half unpacked is not waited for; the next engine begins it anew.
    runtime.shutdown_background();
    result
}

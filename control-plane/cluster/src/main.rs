use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use xylem_cluster::{Config, Flags};
use xylem_daemon::{at_signal, exit_code, log};

/// The embedded broker logs every connection.
const LOG: &str = "info,rumqttd=off";

#[tokio::main]
async fn main() -> ExitCode {
    exit_code(run(Flags::parse()).await)
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    log::init(LOG)?;
    let config = Config::load(flags)?;
    let stop = at_signal().context("cannot wait for signals")?;
    Ok(xylem_cluster::run(config, stop).await?)
}

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use xylem_daemon::{at_signal, exit_code, log};
use xylem_root::{Config, Flags};

#[tokio::main]
async fn main() -> ExitCode {
    exit_code(run(Flags::parse()).await)
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    log::init("info")?;
    let config = Config::load(flags)?;
    let stop = at_signal().context("cannot wait for signals")?;
    Ok(xylem_root::run(config, stop).await?)
}

//! `cargo xtask demo`: a root, a cluster and workers on one machine, a real application on them,
//! and a look at how its packets go.
//!
//! Everything it makes has `demo` in its name, so that the next run can remove what a killed one
//! left behind.

mod application;
mod check;
mod commands;
mod facts;
mod interrupt;
mod progress;
mod show;

use std::{fs::File, io, path::Path, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::fcntl::{Flock, FlockArg};
use xylem_tests::{
    leftovers,
    platform::{Name, Platform},
    topology::Topology,
};

use crate::{application::Application, interrupt::Interrupt, progress::Progress};

/// Of this host's end of the link to the hub.
const IFNAME: &str = "xydemo";

/// The whole platform on one machine, shown and checked
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo")]
struct Cli {
    /// Assert that everything is as it should be, tear down, and end
    #[arg(long)]
    check: bool,
    /// Workers, and instances of the service
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=9))]
    workers: u8,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let interrupt = Interrupt::catch();
    match demo(&cli, &interrupt) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupt.happened() => {
            eprintln!("interrupted; everything is removed");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo(cli: &Cli, interrupt: &Interrupt) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the demo makes network namespaces and loads kernel programs: run it as root");
    }
    let _lock = lock()?;
    let name = Name::new("demo");
    for error in leftovers::remove(&name, None) {
        eprintln!("of an earlier demo: {error:#}");
    }

    let mut progress = Progress::start();
    progress.step("making hosts: a hub, a router, and one for each worker");
    let topology = Topology::reachable(&name.prefix(), cli.workers, IFNAME)?;
    progress.step("starting a registry, a root and a cluster");
    let mut platform = Platform::start(name, topology)?;
    let outcome = run(cli, interrupt, &mut platform, &mut progress);
    progress.finish();
    if outcome.is_err() && !interrupt.happened() {
        show::last_words(&platform);
    }
    outcome
}

fn run(
    cli: &Cli,
    interrupt: &Interrupt,
    platform: &mut Platform,
    progress: &mut Progress,
) -> Result<()> {
    progress.step("starting the workers");
    platform.start_workers()?;
    progress.step("deploying the application");
    let application = Application::deploy(platform, cli.workers)?;
    progress.step("waiting until all instances run");
    let web = application.wait_running(platform)?;
    progress.step("starting a client and waiting for what it prints");
    let client = application.start_client(platform)?;
    let tally = application.wait_tally(platform)?;
    progress.finish();

    let facts = facts::gather(platform, &web, &client, tally)?;
    show::facts(&facts);
    let commands = commands::all(platform, &facts);
    if cli.check {
        check::check(&facts, usize::from(cli.workers))?;
        commands.iter().try_for_each(|command| command.run(platform))?;
        println!("\nall of it is as it should be");
    } else {
        show::commands(platform, &commands);
        interrupt.wait();
    }
    eprintln!("removing everything");
    application.remove(platform)
}

/// Only one demo at a time: they would have the same names.
fn lock() -> Result<Flock<File>> {
    let path = Path::new("/run/xylem-demo.lock");
    let file = File::options().create(true).append(true).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        nix::Error::EWOULDBLOCK => anyhow::anyhow!("another demo is running; end it first"),
        other => io::Error::from(other).into(),
    })
}

//! `cargo xtask test`: every test, and the proof that none left anything behind.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    build::{self, HOST_PACKAGES, Profile},
    command::{cargo, run_for_result},
    ebpf,
    residue::{GRACE, Snapshot},
};

/// A part of the tests. The suites make network namespaces and load programs into the kernel:
/// they need root, and fail without it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Suite {
    /// Beside the code of every crate
    Unit,
    /// The kernel programs, packet by packet
    Datapath,
    /// Net managers on hosts of their own, with real sockets
    Netns,
    /// The whole platform
    Cluster,
}

/// Runs one suite, or without one all there is.
pub(crate) fn test(suite: Option<Suite>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the tests make network namespaces and load kernel programs: run them as root");
    }
    let start = Instant::now();
    build::everything(Profile::Dev)?;
    let built = start.elapsed();
    let within_budget = ebpf::judge_budget();

    let before = Snapshot::take()?;
    let start = Instant::now();
    let outcome = run_for_result(&mut selected(suite)).context("tests failed");
    let tested = start.elapsed();
    let left = before.left_since(GRACE)?;

    // Stdout, so that it stands below the tests' own closing lines.
    println!("\nbuilt in {}, tested in {}", minutes(built), minutes(tested));
    for thing in &left {
        println!("left behind: {thing}");
    }
    if let Err(error) = &within_budget {
        println!("{error:#}");
    }
    outcome?;
    if !left.is_empty() {
        bail!("all tests passed, but {} things are left behind (above)", left.len());
    }
    if within_budget.is_err() {
        bail!("all tests passed, but the kernel programs are not within their budget (above)");
    }
    println!("all tests passed and nothing is left behind");
    Ok(())
}

fn selected(suite: Option<Suite>) -> Command {
    let mut command = cargo();
    command.arg("test").args(HOST_PACKAGES).arg("--no-fail-fast");
    match suite {
        None => &mut command,
        Some(Suite::Unit) => command.args(["--exclude", "xylem-tests"]),
        Some(Suite::Datapath) => command.args(["--test", "datapath"]),
        Some(Suite::Netns) => command.args(["--test", "netns"]),
        Some(Suite::Cluster) => command.args(["--test", "cluster"]),
    };
    command
}

fn minutes(time: Duration) -> String {
    format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
}

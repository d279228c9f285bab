//! `cargo xtask bench net`: the data path measured beside what a user would pick instead.
//!
//! The sides are measured one after the other in each round, because a machine's speed drifts;
//! what counts is the ratio to plain routing within a round, and of those the median.

mod measure;
mod plain;
mod report;
mod scene;

use std::{io::IsTerminal, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    measure::{Metric, Place, Sample, Side},
    scene::Scene,
};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "Measures; nothing here passes or fails")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// The data path: plain routing against service IPs, on one node and across nodes
    #[command(after_help = "Examples:
  cargo xtask bench net
  cargo xtask bench net --rounds 3 --seconds 0.5 --output json")]
    Net {
        /// How often every side is measured
        #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
        rounds: u32,
        /// Length of one measurement
        #[arg(long, default_value_t = 1.0)]
        seconds: f64,
        #[arg(long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

fn main() -> ExitCode {
    let Bench::Net { rounds, seconds, output } = Cli::parse().bench;
    match net(rounds, seconds, output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn net(rounds: u32, seconds: f64, output: Output) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the benchmark makes network namespaces and loads kernel programs: run it as root");
    }
    if !(0.05..=60.0).contains(&seconds) {
        bail!("--seconds {seconds}: must be from 0.05 to 60");
    }
    let duration = Duration::from_secs_f64(seconds);
    eprintln!("starting the platform and, beside it, hosts that only route");
    let scene = Scene::start()?;

    let steps = u64::from(rounds) * (Place::ALL.len() * Side::ALL.len() * Metric::LOADS) as u64;
    let progress = progress(steps);
    let mut samples = Vec::new();
    for round in 0..rounds {
        for place in Place::ALL {
            for load in 0..Metric::LOADS {
                // The order changes by round, so that no side is always the first.
                let mut sides = Side::ALL;
                sides.rotate_left(round as usize % Side::ALL.len());
                for side in sides {
                    let path = scene.path(place, side);
                    for (metric, value) in measure::run(load, &path, duration)? {
                        samples.push(Sample { round, place, side, metric, value });
                    }
                    progress.inc(1);
                }
            }
        }
    }
    progress.finish_and_clear();
    let rows = report::rows(&samples, rounds, scene.services()?);
    match output {
        Output::Table => println!("{}", report::table(&rows)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
    }
    Ok(())
}

fn progress(steps: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} measurements, {eta} left")
        .expect("a fixed template");
    ProgressBar::with_draw_target(Some(steps), target).with_style(style)
}

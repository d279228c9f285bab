//! `cargo xtask bench net`: the data path measured beside what a user would pick instead.
//!
//! The sides are measured one after the other in each round, because a machine's speed drifts;
//! what counts is the ratio to plain routing within a round, and of those the median.

mod chart;
mod contender;
mod cpu;
mod fillers;
mod haproxy;
mod hosts;
mod interrupt;
mod iptables;
mod kube;
mod measure;
mod metric;
mod nftables;
mod options;
mod report;
mod run;
mod scene;
mod tool;
mod vxlan;
mod xylem;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

use crate::{
    interrupt::Interrupt,
    options::{Bench, Cli, Net, Output},
    scene::Scene,
};

fn main() -> ExitCode {
    let Bench::Net(options) = Cli::parse().bench;
    let interrupt = Interrupt::catch();
    match net(&options, &interrupt) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupt.happened() => ExitCode::from(130),
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn net(options: &Net, interrupt: &Interrupt) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the benchmark makes network namespaces and loads kernel programs: run it as root");
    }
    let plan = options.plan()?;
    let mut scene = Scene::start(&plan.sides)?;
    let outcome = plan.run(&mut scene, interrupt);
    interrupt.end();
    drop(scene);
    let outcome = outcome?;

    let rows = report::rows(&outcome.samples, &options.metrics(), plan.rounds);
    let additions = report::additions(&outcome.additions);
    match options.output {
        Output::Table => {
            println!("{}", report::table(&rows));
            if let Some(additions) = additions {
                println!("\n{additions}");
            }
        }
        Output::Json => {
            println!("{}", serde_json::to_string_pretty(&rows)?);
            if let Some(additions) = additions {
                eprintln!("{additions}");
            }
        }
    }
    if let Some(file) = &options.chart {
        chart::draw(&rows, file)?;
        eprintln!("a chart of it is in {}", file.display());
    }
    Ok(())
}

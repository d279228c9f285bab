//! `cargo xtask bench`: the data path measured beside what a user would pick instead (`net`), what
//! its programs cost for a packet (`programs`), and where CPU time goes (`profile`).
//!
//! The sides are measured one after the other in each round, because a machine's speed drifts;
//! what counts is the ratio to plain routing within a round, and of those the median.

mod chart;
mod contender;
mod cpu;
mod figures;
mod fillers;
mod flows;
mod haproxy;
mod hosts;
mod interrupt;
mod iptables;
mod kube;
mod marks;
mod measure;
mod metric;
mod net;
mod nftables;
mod options;
mod profile;
mod programs;
mod report;
mod run;
mod scene;
mod stats;
mod tool;
mod vxlan;
mod xylem;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

use crate::{
    interrupt::Interrupt,
    options::{Bench, Cli},
};

fn main() -> ExitCode {
    let bench = Cli::parse().bench;
    if let Bench::Net(options) = &bench {
        net::prepare(options);
    }
    let interrupt = Interrupt::catch();
    match measure(&bench, &interrupt) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupt.happened() => ExitCode::from(130),
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(bench: &Bench, interrupt: &Interrupt) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the benchmark makes network namespaces and loads kernel programs: run it as root");
    }
    match bench {
        Bench::Net(options) => net::measure(options, interrupt),
        Bench::Programs(options) => programs::measure(options, interrupt),
        Bench::Profile(options) => profile::measure(options, interrupt),
    }
}

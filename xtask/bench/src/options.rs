//! The command line.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    fillers,
    metric::{Load, Metric, Side},
    run::Plan,
};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "Measures; nothing here passes or fails")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) bench: Bench,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// The data path beside what a user would pick instead, on one node and across nodes
    Net(Net),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench net
  cargo xtask bench net --rounds 3 --seconds 0.5 --sides vxlan,xylem --only udp64,rr_p50
  cargo xtask bench net --services 10,1000,10000
  cargo xtask bench net --output json --chart target/bench.svg")]
pub(crate) struct Net {
    /// How often every side is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only these figures; without it all, and with --services connections and latency
    #[arg(long, value_enum, value_delimiter = ',', value_name = "METRIC,…")]
    only: Vec<Metric>,
    /// Only these sides beside plain routing; without it all, and with --services those whose
    /// cost may grow with their number
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SIDE,…")]
    sides: Vec<Side>,
    /// Measure with so many services beside the two that are dialled, and how long it takes to
    /// add one; several numbers are measured one after the other
    #[arg(long, value_delimiter = ',', value_name = "N,…",
          value_parser = clap::value_parser!(u32).range(..=i64::from(fillers::COUNT_MAX)))]
    services: Vec<u32>,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Also draw the ratios to plain routing, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) chart: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

impl Net {
    /// The figures to tell.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        match (&self.only[..], &self.services[..]) {
            ([], []) => Metric::value_variants().to_vec(),
            ([], _) => vec![Metric::RrP50, Metric::RrP99, Metric::Conn1],
            (only, _) => only.to_vec(),
        }
    }

    /// # Errors
    /// If the options contradict each other.
    pub(crate) fn plan(&self) -> Result<Plan> {
        if !(0.05..=60.0).contains(&self.seconds) {
            bail!("--seconds {}: must be from 0.05 to 60", self.seconds);
        }
        let grows = !self.services.is_empty();
        let mut sides = match &self.sides[..] {
            [] => Side::value_variants().to_vec(),
            sides => sides.to_vec(),
        };
        if let Some(side) = self.sides.iter().find(|side| grows && !side.can_grow()) {
            bail!("--sides {side} does not go with --services: leave one of them out");
        }
        if grows && self.sides.is_empty() {
            sides.retain(|side| side.grows_in_its_own_way());
        }
        // Ratios are to this one.
        sides.push(Side::Plain);
        sides.sort_unstable();
        sides.dedup();
        Ok(Plan {
            sides,
            loads: Load::for_metrics(&self.metrics()),
            services: if grows { self.services.clone() } else { vec![0] },
            additions: grows,
            rounds: self.rounds,
            duration: Duration::from_secs_f64(self.seconds),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan> {
        let Bench::Net(net) = Cli::try_parse_from(["bench", "net"].iter().chain(arguments))?.bench;
        net.plan()
    }

    #[test]
    fn everything_is_measured_in_about_ten_minutes() {
        let plan = plan(&[]).unwrap();
        assert_eq!(plan.sides, Side::value_variants());
        let seconds = plan.steps() as f64 * plan.duration.as_secs_f64();
        assert!((500.0..620.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn plain_routing_is_always_measured() {
        let plan = plan(&["--sides", "xylem", "--only", "rr_p99,udp64"]).unwrap();
        assert_eq!(plan.sides, [Side::Plain, Side::Xylem]);
        assert_eq!(plan.loads, [Load::SmallDatagrams, Load::Requests]);
    }

    #[test]
    fn growth_is_measured_where_it_can_be() {
        let grown = plan(&["--services", "10,1000"]).unwrap();
        assert_eq!(grown.services, [10, 1000]);
        assert_eq!(grown.sides, [Side::Plain, Side::Iptables, Side::Nftables, Side::Xylem]);
        assert!(grown.additions);
        assert_eq!(grown.loads, [Load::Requests, Load::Connections]);
        assert!(plan(&["--services", "10", "--sides", "haproxy"]).is_err());
        assert!(plan(&["--services", "1000000"]).is_err());
    }
}

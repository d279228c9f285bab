//! The command line.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};

use crate::{
    fillers,
    flows::Crowd,
    marks,
    metric::{Load, Metric, Place, Side},
    profile, programs,
    run::{Block, Plan},
};

/// Services beside the measured ones, unless somebody says otherwise: all is measured with the
/// first number, and what may depend on it with the others.
const SERVICES: [u32; 3] = [10, 1_000, 10_000];

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
    /// What the kernel programs themselves cost for a packet
    Programs(programs::Options),
    /// Where the CPU time of a load goes, function by function, plain routing and Xylem beside it
    Profile(profile::Options),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo xtask bench net
  cargo xtask bench net --rounds 3 --sides vxlan,xylem --only udp64,rr_p50 --services 10
  cargo xtask bench net --services 10,1000,10000 --only conn1,conn16
  cargo xtask bench net --sides xylem --only tcp1 --services 10 --flows
  cargo xtask bench net --output json --chart /tmp/bench.svg")]
pub(crate) struct Net {
    /// How often every side is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of one measurement
    #[arg(long, default_value_t = 0.6)]
    seconds: f64,
    /// Only these figures [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "METRIC,…")]
    only: Vec<Metric>,
    /// Only these sides beside plain routing [default: all, of xylem_socket what has a mark]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SIDE,…")]
    sides: Vec<Side>,
    /// Measure with so many services beside the two that are dialled, and how long it takes to
    /// add one; several numbers are measured one after the other [default: 10, and with 1000 and
    /// 10000 what may depend on it: connections and latency]
    #[arg(long, value_delimiter = ',', value_name = "N,…",
          value_parser = clap::value_parser!(u32).range(..=i64::from(fillers::COUNT_MAX)))]
    services: Vec<u32>,
    /// Then measure Xylem with so many established flows in the flow tables of both nodes, and
    /// with none; takes some minutes more
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "1000000",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(Crowd::FLOWS_MAX)))]
    pub(crate) flows: Option<u32>,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Where the ratios to plain routing are drawn, as SVG [default: target/bench-net.svg]
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

impl Net {
    pub(crate) fn chart(&self) -> PathBuf {
        const LEVELS_UP: usize = 2;
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(LEVELS_UP);
        let default = || workspace.expect("it is two folders down").join("target/bench-net.svg");
        self.chart.clone().unwrap_or_else(default)
    }

    /// The figures to tell.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        match &self.only[..] {
            [] => Metric::value_variants().to_vec(),
            only => only.to_vec(),
        }
    }

    /// # Errors
    /// If the options contradict each other.
    pub(crate) fn plan(&self) -> Result<Plan> {
        let duration = check_seconds(self.seconds)?;
        let sides = match &self.sides[..] {
            [] => Side::value_variants().to_vec(),
            sides => with_plain(sides),
        };
        if self.flows.is_some() && !sides.contains(&Side::Xylem) {
            bail!("--flows measures xylem: add it to --sides");
        }
        let loads = Load::for_metrics(&self.metrics());
        let all = |services| Block::new(services, &sides, &loads, self.wanted());
        let blocks: Vec<_> = match &self.services[..] {
            [] => {
                let [first, more @ ..] = SERVICES;
                let grown = |services| self.grown(services, &sides);
                std::iter::once(all(first)).chain(more.into_iter().filter_map(grown)).collect()
            }
            services => services.iter().copied().map(all).collect(),
        };
        // What has nothing to run need not be set up.
        let runs = |side: &Side| blocks.iter().any(|block| block.has(*side));
        let sides = sides.iter().copied().filter(runs).collect();
        Ok(Plan { sides, blocks, rounds: self.rounds, duration })
    }

    /// What is measured of a side: everything of those that somebody asked for. Joined sockets
    /// differ from the rest of Xylem for TCP on one node only, and have marks there.
    fn wanted(&self) -> impl Fn(Place, Load, Side) -> bool {
        let asked_for = !self.sides.is_empty();
        move |place, load, side| {
            let has_mark = |metric: &Metric| marks::is_of_sockets(place, *metric);
            asked_for || side != Side::XylemSocket || load.metrics().iter().any(has_mark)
        }
    }

    /// What is measured with more services though nobody asked for it; nothing where nothing may
    /// depend on them.
    fn grown(&self, services: u32, sides: &[Side]) -> Option<Block> {
        let metrics: Vec<_> =
            self.metrics().into_iter().filter(|metric| metric.may_grow()).collect();
        let mut sides = sides.to_vec();
        if self.sides.is_empty() {
            sides.retain(|side| side.grows_in_its_own_way());
        }
        let loads = Load::for_metrics(&metrics);
        (!loads.is_empty()).then(|| Block::new(services, &sides, &loads, self.wanted()))
    }
}

/// Ratios are to plain routing, so it is always there.
fn with_plain(sides: &[Side]) -> Vec<Side> {
    let mut sides = [sides, &[Side::Plain]].concat();
    sides.sort_unstable();
    sides.dedup();
    sides
}

/// # Errors
/// The length of a measurement makes no sense.
pub(crate) fn check_seconds(seconds: f64) -> Result<Duration> {
    if !(0.05..=60.0).contains(&seconds) {
        bail!("--seconds {seconds}: must be from 0.05 to 60");
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan> {
        let cli = Cli::try_parse_from(["bench", "net"].iter().chain(arguments))?;
        match cli.bench {
            Bench::Net(net) => net.plan(),
            _ => unreachable!("it was `net`"),
        }
    }

    /// What a block measures, of any side.
    fn loads(block: &Block) -> Vec<(Place, Load)> {
        block.heats.iter().map(|heat| (heat.place, heat.load)).collect()
    }

    fn at_each_place<const N: usize>(loads: [Load; N]) -> Vec<(Place, Load)> {
        Place::ALL.iter().flat_map(|place| loads.map(|load| (*place, load))).collect()
    }

    /// Setting up, filling and settling take the rest of the ten minutes.
    #[test]
    fn everything_is_measured_in_about_ten_minutes() {
        let plan = plan(&[]).unwrap();
        assert_eq!(plan.sides, Side::value_variants());
        let services: Vec<_> = plan.blocks.iter().map(|block| block.services).collect();
        assert_eq!(services, SERVICES);
        let seconds = plan.steps() as f64 * plan.duration.as_secs_f64();
        assert!((400.0..520.0).contains(&seconds), "{seconds}");
    }

    #[test]
    fn of_joined_sockets_only_what_has_a_mark_is_measured_unasked() {
        let of_sockets = |arguments: &[&str]| -> Vec<_> {
            let plan = plan(arguments).unwrap();
            let heats = plan.blocks.into_iter().flat_map(|block| block.heats);
            heats
                .filter(|heat| heat.sides.contains(&Side::XylemSocket))
                .map(|heat| (heat.place, heat.load))
                .collect()
        };
        let unasked = [(Place::Same, Load::FourStreams), (Place::Same, Load::Requests)];
        assert_eq!(of_sockets(&[]), unasked);
        assert!(!plan(&["--only", "tcp1"]).unwrap().sides.contains(&Side::XylemSocket));
        let asked = of_sockets(&["--sides", "xylem_socket", "--only", "udp64", "--services", "1"]);
        assert_eq!(asked, at_each_place([Load::SmallDatagrams]));
    }

    #[test]
    fn plain_routing_is_always_measured() {
        let plan = plan(&["--sides", "xylem", "--only", "rr_p99,udp64"]).unwrap();
        assert_eq!(plan.sides, [Side::Plain, Side::Xylem]);
        assert_eq!(loads(&plan.blocks[0]), at_each_place([Load::SmallDatagrams, Load::Requests]));
        assert!(plan.blocks[0].heats.iter().all(|heat| heat.sides == plan.sides));
    }

    #[test]
    fn a_proxy_carries_no_datagrams() {
        let plan = plan(&["--sides", "haproxy", "--services", "1"]).unwrap();
        for heat in &plan.blocks[0].heats {
            let is_udp = matches!(heat.load, Load::SmallDatagrams | Load::LargeDatagrams);
            assert_eq!(heat.sides.contains(&Side::Haproxy), !is_udp, "{heat:?}");
        }
    }

    #[test]
    fn with_more_services_only_what_may_depend_on_them_is_measured() {
        let grown = plan(&[]).unwrap();
        for block in &grown.blocks[1..] {
            let sides = [Side::Plain, Side::Iptables, Side::Nftables, Side::Xylem];
            assert!(block.heats.iter().all(|heat| heat.sides == sides), "{block:?}");
            assert_eq!(loads(block), at_each_place([Load::Requests, Load::Connections]));
        }
        assert_eq!(plan(&["--only", "tcp1"]).unwrap().blocks.len(), 1);
    }

    #[test]
    fn what_is_asked_for_is_measured_with_each_number_of_services() {
        let asked =
            plan(&["--services", "10,1000", "--sides", "haproxy", "--only", "tcp4"]).unwrap();
        assert_eq!(asked.blocks.len(), 2);
        for block in &asked.blocks {
            assert_eq!(loads(block), at_each_place([Load::FourStreams]));
            let sides = [Side::Plain, Side::Haproxy];
            assert!(block.heats.iter().all(|heat| heat.sides == sides), "{block:?}");
        }
        assert!(plan(&["--services", "1000000"]).is_err());
    }

    #[test]
    fn flows_are_those_of_xylem() {
        assert!(plan(&["--flows", "--sides", "vxlan"]).is_err());
        plan(&["--flows", "100", "--sides", "xylem"]).unwrap();
    }
}

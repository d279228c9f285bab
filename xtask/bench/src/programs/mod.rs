//! `bench programs`: what the kernel programs themselves cost for a packet, without the stack
//! around them.
//!
//! | How | What |
//! |---|---|
//! | `repeated` | `BPF_PROG_TEST_RUN` runs the program a million times on one packet, and tells the mean |
//! | `single` | it runs once on a fresh packet, and again and again: the median, less what it costs to look at the clock |
//! | `live` | the kernel's own account of the attached programs, while datagrams of 64 bytes flood them |
//!
//! A repeated run goes on with the packet as the run before left it. So only what can go on for
//! ever is repeated: a packet that is refused, and one that is translated there and back
//! ([`test_run`] has the flow back); what makes a packet longer or shorter is run singly.

mod live;
mod packets;
mod test_run;

use std::collections::BTreeMap;

use anyhow::Result;
use clap::ValueEnum as _;
use serde::Serialize;

use crate::{
    interrupt::Interrupt,
    marks::{self, Bound, Mark},
    options::{Output, check_seconds},
    report::{median, new_table},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Times are nanoseconds of one run of a program.
  repeated  a million runs on one packet, the mean. A run meets the packet as the one before left \
it: translated packets have a second flow that translates them back, so that every run has all \
the work to do.
  single    one run on a fresh packet, 20,000 times, the median, less what the clock costs. Caches \
are colder than in a flood: compare such figures with each other.
  live      the kernel's account of the attached programs in a flood of 64-byte datagrams; the \
clock is part of it.")]
pub(crate) struct Options {
    /// How often everything is measured
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Length of one flood
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Only these ways of measuring [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "HOW,…")]
    only: Vec<How>,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// How it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum How {
    /// Many runs on one packet
    Repeated,
    /// One run on a fresh packet, many times
    Single,
    /// Attached programs in a flood
    Live,
}

/// What a packet needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// Nothing: it is left to the kernel.
    Pass,
    /// UDP in a known flow, to an instance of the same node.
    TranslateUdp,
    /// TCP likewise.
    TranslateTcp,
    /// UDP that opens a flow to an instance of the same node.
    Place,
    /// UDP in a known flow, to another node.
    Encapsulate,
    /// The same at the node that it arrives at.
    DecapsulateAndDeliver,
    /// A tunnel packet of nobody known.
    DropUnknownPeer,
}

impl Work {
    fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::TranslateUdp => "translate_udp",
            Self::TranslateTcp => "translate_tcp",
            Self::Place => "place",
            Self::Encapsulate => "encapsulate",
            Self::DecapsulateAndDeliver => "decapsulate_and_deliver",
            Self::DropUnknownPeer => "drop_unknown_peer",
        }
    }

    /// Nanoseconds that it may take.
    fn mark(self, how: How) -> Option<f64> {
        match (self, how) {
            (Self::TranslateUdp | Self::TranslateTcp, How::Repeated) => Some(170.0),
            (Self::DropUnknownPeer, How::Repeated) => Some(100.0),
            (Self::TranslateUdp, How::Live) => Some(300.0),
            (Self::Encapsulate, How::Live) => Some(400.0),
            (Self::DecapsulateAndDeliver, How::Live) => Some(270.0),
            _ => None,
        }
    }
}

/// Of one round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    case: Case,
    nanos: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case {
    how: How,
    work: Work,
    program: &'static str,
    /// Known to the node.
    services: u32,
}

/// One line of the result.
#[derive(Debug, Serialize)]
struct Row {
    program: &'static str,
    work: Work,
    how: How,
    services: u32,
    median: f64,
    unit: &'static str,
    rounds: u32,
}

/// # Errors
/// If the programs cannot be run, do not what they should, or it was interrupted.
pub(crate) fn measure(options: &Options, interrupt: &Interrupt) -> Result<()> {
    let duration = check_seconds(options.seconds)?;
    let hows = match &options.only[..] {
        [] => How::value_variants(),
        only => only,
    };
    let mut samples = Vec::new();
    if hows.contains(&How::Repeated) || hows.contains(&How::Single) {
        samples.extend(test_run::measure(options.rounds, interrupt)?);
        samples.retain(|sample| hows.contains(&sample.case.how));
    }
    if hows.contains(&How::Live) {
        samples.extend(live::measure(options.rounds, duration, interrupt)?);
    }
    interrupt.end();

    let rows = rows(&samples, options.rounds);
    let table = marks::table(&marks(&rows));
    match options.output {
        Output::Table => println!("{}", self::table(&rows)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
    }
    if let Some(table) = table {
        match options.output {
            Output::Table => println!("\n{table}"),
            Output::Json => eprintln!("{table}"),
        }
    }
    Ok(())
}

fn rows(samples: &[Sample], rounds: u32) -> Vec<Row> {
    let mut by_case = BTreeMap::<Case, Vec<f64>>::new();
    for sample in samples {
        by_case.entry(sample.case).or_default().push(sample.nanos);
    }
    let row = |(case, nanos): (Case, Vec<f64>)| {
        let Case { how, work, program, services } = case;
        let median = median(nanos)?;
        Some(Row { program, work, how, services, median, unit: "ns", rounds })
    };
    by_case.into_iter().filter_map(row).collect()
}

fn marks(rows: &[Row]) -> Vec<Mark> {
    let mut marks = Vec::new();
    let fewest = |row: &Row| {
        let same = |other: &&Row| (other.how, other.work) == (row.how, row.work);
        rows.iter().filter(same).min_by_key(|other| other.services)
    };
    for row in rows.iter().filter(|row| row.work != Work::Pass) {
        let how = row.how.to_possible_value().expect("no variant is skipped");
        let figure = format!("{} {}, {}", row.program, row.work.name(), how.get_name());
        let Some(first) = fewest(row) else { continue };
        if first.services != row.services {
            marks.push(Mark {
                figure: format!("{figure}: {} services to {}", row.services, first.services),
                bound: Bound::AtMost(1.03),
                measured: row.median / first.median,
                unit: "",
            });
        } else if let Some(mark) = row.work.mark(row.how) {
            marks.push(Mark {
                figure,
                bound: Bound::AtMost(mark),
                measured: row.median,
                unit: row.unit,
            });
        }
    }
    marks
}

fn table(rows: &[Row]) -> comfy_table::Table {
    let header = ["PROGRAM", "WORK", "HOW", "SERVICES", "MEDIAN", "UNIT"];
    let mut table = new_table(&header, &[3, 4]);
    for row in rows {
        let how = row.how.to_possible_value().expect("no variant is skipped");
        table.add_row([
            row.program.to_owned(),
            row.work.name().to_owned(),
            how.get_name().to_owned(),
            row.services.to_string(),
            format!("{:.0}", row.median),
            row.unit.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(work: Work, services: u32, nanos: f64) -> Sample {
        Sample { case: Case { how: How::Repeated, work, program: "p", services }, nanos }
    }

    #[test]
    fn a_row_is_the_median_of_all_rounds() {
        let samples = [3.0, 1.0, 200.0].map(|nanos| sample(Work::Pass, 10, nanos));
        let rows = rows(&samples, 3);
        assert_eq!(
            serde_json::to_string(&rows).unwrap(),
            r#"[{"program":"p","work":"pass","how":"repeated","services":10,"median":3.0,"unit":"ns","rounds":3}]"#
        );
        assert!(marks(&rows).is_empty());
    }

    #[test]
    fn more_services_are_held_against_fewer() {
        let samples =
            [sample(Work::TranslateUdp, 10, 100.0), sample(Work::TranslateUdp, 10_000, 110.0)];
        let marks = marks(&rows(&samples, 1));
        let met: Vec<_> = marks.iter().map(|mark| mark.bound.is_met(mark.measured)).collect();
        assert_eq!(met, [true, false], "{marks:?}");
    }
}

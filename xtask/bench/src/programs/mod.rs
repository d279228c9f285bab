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
//!
//! None of it has in it what the kernel does with the packet once the program has returned.

mod case;
mod live;
mod packets;
mod test_run;
mod world;

use std::collections::BTreeMap;

use anyhow::Result;
use clap::ValueEnum as _;
use serde::Serialize;

use self::case::{Case, Family, How, Sample, Work};
use crate::{
    figures::{self, Values},
    interrupt::Interrupt,
    marks::{self, Bound, Mark},
    options::{Output, check_seconds},
    report::{ABOUT_BETWEEN, new_table},
    stats::Estimate,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Times are nanoseconds of one run of a program: its instructions and the kernel functions that it \
calls (map look-ups, checksums, making room for headers and taking it away).
What comes before and after is not the program's and in none of the figures: the driver and the \
stack up to the hook, and the redirect, for which a program only leaves word. The kernel then takes \
the packet into the instance's namespace (bpf_redirect_peer) or to the next hop \
(bpf_redirect_neigh) when the program has returned; `bench profile` has what that takes.

  repeated  a million runs on one packet, the mean. A run meets the packet as the one before left \
it: translated packets have a second flow that translates them back, so that every run has all \
the work to do. Of published ports by uplink_xdp the kernel's account of 200,000 packets, each as \
fresh as from a driver, less what the clock costs.
  single    one run on a fresh packet, 20,000 times, the median, less what the clock costs. Caches \
are colder than in a flood: compare such figures with each other.
  live      the kernel's account (bpf_stats) of the attached programs in a flood of 64-byte \
datagrams. The kernel looks at the clock before and after each run, which is part of the figure: \
`clock` says how much.

decapsulate_and_deliver: outer headers checked and taken off (bpf_skb_adjust_room), the flow looked \
up, the inner packet translated, its instance chosen as the redirect's target. The way through the \
instance's interface is not in it.
published_…, uplink_xdp: the flow looked up, addresses, ports and checksums changed, a note put in \
front for from_uplink, which then only redirects. The same by from_uplink is without XDP, \
redirect's target included.
ipv6: the inner packet; the tunnel is IPv4.")]
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

/// One line of the result.
#[derive(Debug, Serialize)]
struct Row {
    program: &'static str,
    work: Work,
    family: Family,
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

    let values = by_case(&samples);
    let rows = rows(&values, options.rounds);
    let marks = marks::table(&marks(&values)).map(|table| format!("{table}\n\n{ABOUT_BETWEEN}"));
    match options.output {
        Output::Table => println!("{}", table(&values)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&rows)?),
    }
    if let Some(marks) = marks {
        match options.output {
            Output::Table => println!("\n{marks}"),
            Output::Json => eprintln!("{marks}"),
        }
    }
    Ok(())
}

type ByCase = BTreeMap<Case, Values>;

fn by_case(samples: &[Sample]) -> ByCase {
    let mut by_case = ByCase::new();
    for sample in samples {
        by_case.entry(sample.case).or_default().insert(sample.round, sample.nanos);
    }
    by_case
}

fn estimates(by_case: &ByCase) -> impl Iterator<Item = (Case, Estimate)> {
    by_case
        .iter()
        .filter_map(|(case, values)| Some((*case, Estimate::of(values.values().copied())?)))
}

fn rows(by_case: &ByCase, rounds: u32) -> Vec<Row> {
    let row = |(case, nanos): (Case, Estimate)| {
        let Case { how, work, family, program, services } = case;
        Row { program, work, family, how, services, median: nanos.median, unit: "ns", rounds }
    };
    estimates(by_case).map(row).collect()
}

fn marks(by_case: &ByCase) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (case, measured) in estimates(by_case).filter(|(case, _)| case.work.may_grow()) {
        let Case { how, work, family, program, services } = case;
        let figure = format!("{program} {}, {}, {how}", work.name(), family.name());
        // Cases that differ in nothing else are in order of their services.
        let fewest = by_case
            .range(Case { services: 0, ..case }..)
            .next()
            .expect("the case itself is there at the latest");
        if fewest.0.services != services {
            let ratios = figures::ratios(&by_case[&case], fewest.1);
            marks.extend(Estimate::of(ratios).map(|measured| Mark {
                figure: format!("{figure}: {services} services to {}", fewest.0.services),
                bound: Bound::AtMost(1.03),
                measured,
                unit: "",
            }));
        } else if let Some(mark) = case.mark() {
            marks.push(Mark { figure, bound: Bound::AtMost(mark), measured, unit: "ns" });
        }
    }
    marks
}

fn table(by_case: &ByCase) -> comfy_table::Table {
    let header = ["PROGRAM", "WORK", "INNER", "HOW", "SERVICES", "MEDIAN", "BETWEEN", "UNIT"];
    let mut table = new_table(&header, &[4, 5]);
    for (case, nanos) in estimates(by_case) {
        table.add_row([
            case.program.to_owned(),
            case.work.name().to_owned(),
            case.family.name().to_owned(),
            case.how.to_string(),
            case.services.to_string(),
            format!("{:.0}", nanos.median),
            format!("{:.0}", nanos.between),
            "ns".to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::marks::Verdict;

    fn sample(work: Work, services: u32, round: u32, nanos: f64) -> Sample {
        let (how, family) = (How::Repeated, Family::Ipv4);
        Sample { case: Case { how, work, family, program: "uplink_xdp", services }, round, nanos }
    }

    #[test]
    fn a_row_is_the_median_of_all_rounds() {
        let samples = [(0, 3.0), (1, 1.0), (2, 200.0)]
            .map(|(round, nanos)| sample(Work::Pass, 10, round, nanos));
        let values = by_case(&samples);
        assert_eq!(
            serde_json::to_string(&rows(&values, 3)).unwrap(),
            r#"[{"program":"uplink_xdp","work":"pass","family":"ipv4","how":"repeated","services":10,"median":3.0,"unit":"ns","rounds":3}]"#
        );
        assert!(marks(&values).is_empty());
    }

    #[test]
    fn more_services_are_held_against_fewer_in_the_same_round() {
        // The machine is slower in each round than in the one before.
        let samples: Vec<_> = (0..4)
            .flat_map(|round| {
                let nanos = 80.0 + f64::from(round);
                [(10, nanos), (10_000, nanos * 1.1)]
                    .map(|(services, nanos)| sample(Work::PublishedUdp, services, round, nanos))
            })
            .collect();
        let marks = marks(&by_case(&samples));
        let told: Vec<_> = marks
            .iter()
            .map(|mark| (mark.measured.median, mark.bound.verdict(mark.measured)))
            .collect();
        let [(cost, of_cost), (growth, of_growth)] = told[..] else { panic!("{marks:?}") };
        assert!(cost == 81.5 && of_cost == Verdict::Met, "{marks:?}");
        assert!((growth - 1.1).abs() < 1e-9 && of_growth == Verdict::Missed, "{marks:?}");
    }

    #[test]
    fn only_ipv4_and_xdp_have_the_marks() {
        let case = sample(Work::PublishedUdp, 10, 0, 0.0).case;
        assert_eq!(case.mark(), Some(100.0));
        assert_eq!(Case { family: Family::Ipv6, ..case }.mark(), None);
        assert_eq!(Case { program: "from_uplink", ..case }.mark(), None);
    }
}

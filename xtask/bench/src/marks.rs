//! What the figures are held against: marks that the data path is meant to reach.
//!
//! Nothing fails here. A machine that is busy or slow misses marks, and so does an honest figure.

use std::fmt;

use comfy_table::Table;

use crate::{
    figures::{Case, Figures},
    flows,
    metric::{Metric, Place, Side},
    report::{self, new_table},
    run::{Addition, Step},
    stats::{Between, Estimate},
};

/// A figure beside its mark.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) figure: String,
    pub(crate) bound: Bound,
    pub(crate) measured: Estimate,
    /// Nothing for a ratio.
    pub(crate) unit: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}
use Bound::{AtLeast, AtMost};

/// What comes of holding a figure against its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// The mark is where more rounds might put the figure: it may be met or missed.
    WithinNoise,
    /// Met, as it seems: there are too few rounds to tell how far noise goes.
    SeemsMet,
    SeemsMissed,
}

impl Bound {
    pub(crate) fn verdict(self, measured: Estimate) -> Verdict {
        let is_met = |value: f64| match self {
            AtLeast(least) => value >= least,
            AtMost(most) => value <= most,
        };
        match (measured.between, is_met(measured.median)) {
            (Between::Values(low, high), is_met_now) => {
                if is_met(low) != is_met(high) {
                    Verdict::WithinNoise
                } else if is_met_now {
                    Verdict::Met
                } else {
                    Verdict::Missed
                }
            }
            (Between::Allowed, true) => Verdict::Met,
            (Between::Allowed, false) => Verdict::Missed,
            (Between::Unknown, true) => Verdict::SeemsMet,
            (Between::Unknown, false) => Verdict::SeemsMissed,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::Missed => "missed",
            Self::WithinNoise => "within noise",
            Self::SeemsMet => "met?",
            Self::SeemsMissed => "missed?",
        })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AtLeast(least) => write!(f, "≥ {least:.2}"),
            AtMost(most) => write!(f, "≤ {most:.2}"),
        }
    }
}

/// Xylem against another side.
struct Race {
    place: Place,
    metric: Metric,
    bound: Bound,
}

const fn race(place: Place, metric: Metric, bound: Bound) -> Race {
    Race { place, metric, bound }
}

const AGAINST_PLAIN: [Race; 16] = [
    race(Place::Same, Metric::Tcp1, AtLeast(1.00)),
    race(Place::Same, Metric::Tcp4, AtLeast(1.05)),
    race(Place::Same, Metric::Udp64, AtLeast(1.12)),
    race(Place::Same, Metric::Conn1, AtLeast(1.00)),
    race(Place::Same, Metric::Conn16, AtLeast(1.00)),
    race(Place::Same, Metric::RrP50, AtMost(0.95)),
    race(Place::Cross, Metric::Tcp1, AtLeast(1.00)),
    race(Place::Cross, Metric::Tcp4, AtLeast(1.05)),
    race(Place::Cross, Metric::Udp64, AtLeast(1.05)),
    race(Place::Cross, Metric::Udp1400, AtLeast(1.00)),
    race(Place::Cross, Metric::RrP50, AtMost(1.00)),
    race(Place::Cross, Metric::RrP99, AtMost(1.10)),
    race(Place::Cross, Metric::Conn1, AtLeast(0.95)),
    race(Place::Cross, Metric::Conn16, AtLeast(1.00)),
    race(Place::Cross, Metric::CpuKb, AtMost(1.05)),
    race(Place::Cross, Metric::CpuPkt64, AtMost(0.95)),
];

const SOCKETS_AGAINST_PLAIN: [Race; 2] = [
    race(Place::Same, Metric::Tcp4, AtLeast(1.50)),
    race(Place::Same, Metric::RrP50, AtMost(0.55)),
];

const AGAINST_VXLAN: [Race; 5] = [
    race(Place::Cross, Metric::Udp64, AtLeast(1.70)),
    race(Place::Cross, Metric::Udp1400, AtLeast(1.70)),
    race(Place::Cross, Metric::RrP50, AtMost(0.70)),
    race(Place::Cross, Metric::Conn1, AtLeast(1.50)),
    race(Place::Cross, Metric::Conn16, AtLeast(1.50)),
];

/// What must not depend on the number of services.
const GROWTH: [Metric; 2] = [Metric::Conn1, Metric::RrP50];

/// Those whose figures were measured.
pub(crate) fn of_sides(figures: &Figures) -> Vec<Mark> {
    let Some((services, _)) = figures.services() else { return Vec::new() };
    let races = |races: &[Race], side: Side, base: Side| {
        races
            .iter()
            .filter_map(|&Race { place, metric, bound }| {
                let measured = figures.ratio(Case { services, place, metric, side }, base)?;
                let figure = format!("{place} {metric}: {side} to {base}");
                Some(Mark { figure, bound, measured, unit: "" })
            })
            .collect::<Vec<_>>()
    };
    let mut marks = races(&AGAINST_PLAIN, Side::Xylem, Side::Plain);
    marks.extend(races(&SOCKETS_AGAINST_PLAIN, Side::XylemSocket, Side::Plain));
    marks.extend(races(&AGAINST_VXLAN, Side::Xylem, Side::Vxlan));
    marks.extend(of_growth(figures));
    marks
}

/// Whether the socket path has a mark there.
pub(crate) fn is_of_sockets(place: Place, metric: Metric) -> bool {
    SOCKETS_AGAINST_PLAIN.iter().any(|race| (race.place, race.metric) == (place, metric))
}

/// Ratios to plain routing with the most services, divided by those with the fewest. What repeated
/// plain runs differ by is not growth.
fn of_growth(figures: &Figures) -> Vec<Mark> {
    let Some((fewest, most)) = figures.services() else { return Vec::new() };
    if fewest == most {
        return Vec::new();
    }
    let mut marks = Vec::new();
    for place in Place::ALL {
        for metric in GROWTH {
            let case = |services, side| Case { services, place, metric, side };
            let ratio = |services| figures.ratio(case(services, Side::Xylem), Side::Plain);
            let noise = |services| figures.range(case(services, Side::Plain));
            let (Some(before), Some(after)) = (ratio(fewest), ratio(most)) else { continue };
            let (noise, between) = match (noise(fewest), noise(most)) {
                (Some(a), Some(b)) => (a.max(b), Between::Allowed),
                _ => (0.0, Between::Unknown),
            };
            let bound =
                if metric.is_better_lower() { AtMost(1.0 + noise) } else { AtLeast(1.0 - noise) };
            marks.push(Mark {
                figure: format!("{place} {metric}: xylem with {most} services to {fewest}"),
                bound,
                measured: Estimate { median: after.median / before.median, between },
                unit: "",
            });
        }
    }
    marks
}

/// Of one more service, to the most that there were.
pub(crate) fn of_additions(additions: &[Addition]) -> Vec<Mark> {
    let ours = || additions.iter().filter(|addition| addition.side == Side::Xylem);
    let Some(services) = ours().map(|addition| addition.services).max() else { return Vec::new() };
    let steps = [
        (Step::Written, "map writes", AtMost(5.0), 1e6, "us"),
        (Step::Learnt, "first packet, cluster, kernel", AtMost(50.0), 1e3, "ms"),
    ];
    let mark = |(step, what, bound, units_a_second, unit): (Step, &str, Bound, f64, _)| {
        let times = ours().filter(|a| (a.step, a.services) == (step, services));
        let times = times.map(|addition| addition.time.as_secs_f64() * units_a_second);
        let figure = format!("one service more than {services}: {what}");
        Some(Mark { figure, bound, measured: Estimate::of(times)?, unit })
    };
    steps.into_iter().filter_map(mark).collect()
}

/// Of a crowded flow table.
pub(crate) fn of_flows(outcome: &flows::Outcome) -> Vec<Mark> {
    let rows = report::crowded(outcome);
    let throughput = rows.iter().filter(|row| matches!(row.metric, Metric::Tcp4 | Metric::Udp64));
    let mark = |row: &report::Crowded| Mark {
        figure: format!("{} {}: {} flows to none", row.place, row.metric, outcome.flows),
        bound: AtLeast(0.95),
        measured: row.ratio,
        unit: "",
    };
    throughput.map(mark).collect()
}

/// For people; nothing where nothing has a mark.
pub(crate) fn table(marks: &[Mark]) -> Option<Table> {
    let mut table = new_table(&["FIGURE", "MARK", "MEASURED", "BETWEEN", "UNIT", ""], &[1, 2]);
    for mark in marks {
        // Fine enough to see on which side of its mark a ratio is.
        let precision = if mark.unit.is_empty() { 3 } else { 1 };
        table.add_row([
            mark.figure.clone(),
            mark.bound.to_string(),
            format!("{:.precision$}", mark.measured.median),
            format!("{:.precision$}", mark.measured.between),
            mark.unit.to_owned(),
            mark.bound.verdict(mark.measured).to_string(),
        ]);
    }
    (!marks.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metric::Sample;

    /// Connections per second of plain routing and of Xylem, by number of services; in each round
    /// the machine is faster by 1 %.
    fn connections(values: &[(u32, f64, f64)], rounds: u32) -> Figures {
        let sample = |services, side, value| {
            let (place, metric) = (Place::Cross, Metric::Conn1);
            let in_round = move |round| {
                let value = value * (1.0 + f64::from(round) * 0.01);
                Sample { services, round, place, side, metric, value }
            };
            (0..rounds).map(in_round)
        };
        let samples: Vec<_> = values
            .iter()
            .flat_map(|&(services, plain, xylem)| {
                sample(services, Side::Plain, plain).chain(sample(services, Side::Xylem, xylem))
            })
            .collect();
        Figures::new(&samples)
    }

    #[test]
    fn only_what_was_measured_has_a_mark() {
        let marks = of_sides(&connections(&[(10, 10.0, 9.6)], 1));
        let [mark] = &marks[..] else { panic!("{marks:?}") };
        assert_eq!(mark.figure, "cross conn1: xylem to plain");
        assert!((mark.measured.median - 0.96).abs() < 1e-9, "{mark:?}");
        assert_eq!(mark.bound.verdict(mark.measured), Verdict::SeemsMet, "of one round");
    }

    #[test]
    fn a_mark_is_met_or_missed_only_beyond_noise() {
        let verdict = |bound: Bound, median, low, high| {
            bound.verdict(Estimate { median, between: Between::Values(low, high) })
        };
        assert_eq!(verdict(AtLeast(1.0), 1.1, 1.0, 1.2), Verdict::Met);
        assert_eq!(verdict(AtLeast(1.0), 1.1, 0.99, 1.2), Verdict::WithinNoise);
        assert_eq!(verdict(AtLeast(1.0), 0.9, 0.8, 1.01), Verdict::WithinNoise);
        assert_eq!(verdict(AtLeast(1.0), 0.9, 0.8, 0.99), Verdict::Missed);
        assert_eq!(verdict(AtMost(1.0), 0.9, 0.8, 0.99), Verdict::Met);
        assert_eq!(verdict(AtMost(1.0), 0.9, 0.8, 1.01), Verdict::WithinNoise);
        assert_eq!(verdict(AtMost(1.0), 1.1, 1.01, 1.2), Verdict::Missed);
        let of_few = Estimate { median: 1.1, between: Between::Unknown };
        assert_eq!(AtMost(1.0).verdict(of_few).to_string(), "missed?");
    }

    #[test]
    fn the_machines_own_drift_is_no_growth() {
        let growth = |plain, xylem, rounds| {
            let values = [(10, 10.0, 10.0), (10_000, plain, xylem)];
            let growth = of_sides(&connections(&values, rounds)).pop().unwrap();
            assert!(growth.figure.contains("10000 services to 10"), "{growth:?}");
            growth.bound.verdict(growth.measured)
        };
        assert_eq!(growth(20.0, 20.0, 7), Verdict::Met);
        // Plain runs differ by 6 % from the first to the last.
        assert_eq!(growth(20.0, 19.5, 7), Verdict::Met);
        assert_eq!(growth(20.0, 19.0, 7), Verdict::Missed);
        assert_eq!(growth(20.0, 20.0, 1), Verdict::SeemsMet);
        assert_eq!(growth(20.0, 19.9, 1), Verdict::SeemsMissed);
    }

    #[test]
    fn additions_are_told_in_their_units() {
        let addition = |step, micros| Addition {
            side: Side::Xylem,
            step,
            services: 10_000,
            time: Duration::from_micros(micros),
        };
        let marks = of_additions(&[addition(Step::Written, 4), addition(Step::Learnt, 60_000)]);
        let told: Vec<_> = marks
            .iter()
            .map(|mark| (mark.measured.median, mark.bound.verdict(mark.measured)))
            .collect();
        let [(writes, of_writes), (learnt, of_learnt)] = told[..] else { panic!("{told:?}") };
        assert!((writes - 4.0).abs() < 1e-9 && of_writes == Verdict::SeemsMet, "{told:?}");
        assert!((learnt - 60.0).abs() < 1e-9 && of_learnt == Verdict::SeemsMissed, "{told:?}");
    }

    #[test]
    fn the_table_tells_figure_spread_and_verdict() {
        let between = Between::Values(0.97, 1.06);
        let figure = "same tcp1: xylem to plain".to_owned();
        let measured = Estimate { median: 1.02, between };
        let mark = Mark { figure, bound: AtLeast(1.0), measured, unit: "" };
        let text = table(&[mark]).unwrap().to_string();
        let line = text.lines().last().unwrap();
        assert!(
            line.split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
                .ends_with("xylem to plain ≥ 1.00 1.020 0.970 – 1.060 within noise"),
            "{text}"
        );
    }
}

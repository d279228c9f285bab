//! What the figures are held against: marks that the data path is meant to reach.
//!
//! Nothing fails here. A machine that is busy or slow misses marks, and so does an honest figure.

use std::fmt;

use comfy_table::Table;

use crate::{
    flows,
    metric::{Metric, Place, Sample, Side},
    report::{self, new_table},
    run::{Addition, Step},
};

/// A figure beside its mark.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    pub(crate) figure: String,
    pub(crate) bound: Bound,
    pub(crate) measured: f64,
    /// Nothing for a ratio.
    pub(crate) unit: &'static str,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}
use Bound::{AtLeast, AtMost};

impl Bound {
    pub(crate) fn is_met(self, measured: f64) -> bool {
        match self {
            AtLeast(least) => measured >= least,
            AtMost(most) => measured <= most,
        }
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

const AGAINST_PLAIN: [Race; 15] = [
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
];

const CPU_PACKET: Race = race(Place::Cross, Metric::CpuPkt64, AtMost(0.95));

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
pub(crate) fn of_sides(samples: &[Sample]) -> Vec<Mark> {
    let Some(services) = samples.iter().map(|sample| sample.services).min() else {
        return Vec::new();
    };
    let races = |races: &[Race], side: Side, base: Side| {
        races
            .iter()
            .filter_map(|race| {
                let measured =
                    report::ratio(samples, services, race.place, race.metric, side, base)?;
                let figure = format!("{} {}: {side} to {base}", race.place, race.metric);
                Some(Mark { figure, bound: race.bound, measured, unit: "" })
            })
            .collect::<Vec<_>>()
    };
    let mut marks = races(&AGAINST_PLAIN, Side::Xylem, Side::Plain);
    marks.extend(races(&[CPU_PACKET], Side::Xylem, Side::Plain));
    marks.extend(races(&SOCKETS_AGAINST_PLAIN, Side::XylemSocket, Side::Plain));
    marks.extend(races(&AGAINST_VXLAN, Side::Xylem, Side::Vxlan));
    marks.extend(of_growth(samples));
    marks
}

/// Ratios to plain routing with the most services, divided by those with the fewest. What repeated
/// plain runs differ by is not growth.
fn of_growth(samples: &[Sample]) -> Vec<Mark> {
    let services = samples.iter().map(|sample| sample.services);
    let (Some(fewest), Some(most)) = (services.clone().min(), services.max()) else {
        return Vec::new();
    };
    if fewest == most {
        return Vec::new();
    }
    let mut marks = Vec::new();
    for place in Place::ALL {
        for metric in GROWTH {
            let ratio = |services| {
                report::ratio(samples, services, place, metric, Side::Xylem, Side::Plain)
            };
            let noise = |services| report::range(samples, services, place, metric, Side::Plain);
            let (Some(before), Some(after)) = (ratio(fewest), ratio(most)) else { continue };
            let (Some(a), Some(b)) = (noise(fewest), noise(most)) else { continue };
            let noise = a.max(b);
            let bound =
                if metric.is_better_lower() { AtMost(1.0 + noise) } else { AtLeast(1.0 - noise) };
            marks.push(Mark {
                figure: format!("{place} {metric}: xylem with {most} services to {fewest}"),
                bound,
                measured: after / before,
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
    let median = |step: Step| {
        let times = ours().filter(|a| (a.step, a.services) == (step, services));
        report::median(times.map(|addition| addition.time.as_secs_f64()))
    };
    let mut marks = Vec::new();
    if let Some(written) = median(Step::Written) {
        marks.push(Mark {
            figure: format!("one service more than {services}: map writes"),
            bound: AtMost(5.0),
            measured: written * 1e6,
            unit: "us",
        });
    }
    if let Some(learnt) = median(Step::Learnt) {
        marks.push(Mark {
            figure: format!("one service more than {services}: first packet, cluster, kernel"),
            bound: AtMost(50.0),
            measured: learnt * 1e3,
            unit: "ms",
        });
    }
    marks
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
    let mut table = new_table(&["FIGURE", "MARK", "MEASURED", "UNIT", ""], &[1, 2]);
    for mark in marks {
        table.add_row([
            mark.figure.clone(),
            mark.bound.to_string(),
            // Fine enough to see on which side of its mark a ratio is.
            if mark.unit.is_empty() {
                format!("{:.3}", mark.measured)
            } else {
                format!("{:.1}", mark.measured)
            },
            mark.unit.to_owned(),
            if mark.bound.is_met(mark.measured) { "met" } else { "missed" }.to_owned(),
        ]);
    }
    (!marks.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sample(services: u32, side: Side, value: f64) -> Sample {
        Sample { services, round: 0, place: Place::Cross, side, metric: Metric::Conn1, value }
    }

    #[test]
    fn only_what_was_measured_has_a_mark() {
        let marks = of_sides(&[sample(10, Side::Plain, 10.0), sample(10, Side::Xylem, 9.6)]);
        let [mark] = &marks[..] else { panic!("{marks:?}") };
        assert_eq!(mark.figure, "cross conn1: xylem to plain");
        assert!(mark.bound.is_met(mark.measured), "{mark:?}");
        assert!(!mark.bound.is_met(0.94), "{mark:?}");
    }

    #[test]
    fn the_machines_own_drift_is_no_growth() {
        let drifted = of_sides(&[
            sample(10, Side::Plain, 10.0),
            sample(10, Side::Xylem, 10.0),
            sample(10_000, Side::Plain, 20.0),
            sample(10_000, Side::Xylem, 20.0),
        ]);
        let growth = drifted.last().unwrap();
        assert!(growth.figure.contains("10000 services to 10"), "{growth:?}");
        assert!(growth.bound.is_met(growth.measured), "{growth:?}");
        let slower = of_sides(&[
            sample(10, Side::Plain, 10.0),
            sample(10, Side::Xylem, 10.0),
            sample(10_000, Side::Plain, 20.0),
            sample(10_000, Side::Xylem, 10.0),
        ]);
        let growth = slower.last().unwrap();
        assert!(!growth.bound.is_met(growth.measured), "{growth:?}");
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
        let told: Vec<_> = marks.iter().map(|m| (m.measured, m.bound.is_met(m.measured))).collect();
        assert_eq!(told.len(), 2);
        assert!((told[0].0 - 4.0).abs() < 1e-9 && told[0].1, "{told:?}");
        assert!((told[1].0 - 60.0).abs() < 1e-9 && !told[1].1, "{told:?}");
    }
}

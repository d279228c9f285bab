//! What was measured, for people and for programs.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use comfy_table::{CellAlignment, Table, presets::NOTHING};

use crate::{
    figures::{self, Row, Values},
    flows,
    metric::{Metric, Place, Side},
    run::{Addition, Step},
    stats::{Estimate, median},
};

/// Below tables with a column BETWEEN.
pub(crate) const ABOUT_BETWEEN: &str = "\
BETWEEN: of endlessly many rounds the median would lie there, with a chance of 7 in 8 or more; \
? with fewer than 4 rounds";

/// A list with an element for each row, and nothing else.
///
/// # Errors
/// If `out` cannot be written to.
pub(crate) fn write_json(rows: &[Row], mut out: impl Write) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut out, rows)?;
    writeln!(out)
}

/// For people.
pub(crate) fn table(rows: &[Row]) -> Table {
    let header = [
        "WHERE",
        "METRIC",
        "SIDE",
        "SERVICES",
        "MEDIAN",
        "±%",
        "UNIT",
        "RATIO TO PLAIN",
        "BETWEEN",
        "BETTER",
    ];
    let mut table = new_table(&header, &[3, 4, 5, 7]);
    for row in rows {
        table.add_row([
            row.r#where.to_string(),
            row.metric.to_string(),
            row.side.to_string(),
            row.services.to_string(),
            format!("{:.1}", row.median),
            format!("{:.0}", row.spread * 100.0),
            row.unit.to_owned(),
            format!("{:.2}", row.ratio_to_plain),
            row.ratio_between.to_string(),
            if row.metric.is_better_lower() { "lower" } else { "higher" }.to_owned(),
        ]);
    }
    table
}

/// How long it took to add one service, for people; nothing where it was not measured.
pub(crate) fn additions(additions: &[Addition]) -> Option<Table> {
    let mut by_case = BTreeMap::<(u32, Side, Step), Vec<f64>>::new();
    for addition in additions {
        let case = (addition.services, addition.side, addition.step);
        by_case.entry(case).or_default().push(addition.time.as_secs_f64() * 1e6);
    }
    let header = ["ONE MORE SERVICE", "WHAT", "SERVICES", "MEDIAN", "UNIT"];
    let mut table = new_table(&header, &[2, 3]);
    for ((services, side, step), micros) in &by_case {
        let what = match step {
            Step::Written => "written on the client's node",
            Step::Learnt => "first packet, cluster, kernel",
        };
        table.add_row([
            side.to_string(),
            what.to_owned(),
            services.to_string(),
            format!("{:.1}", median(micros.iter().copied())?),
            "us".to_owned(),
        ]);
    }
    (!by_case.is_empty()).then_some(table)
}

/// A figure with a crowded flow table and with an empty one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowded {
    pub(crate) place: Place,
    pub(crate) metric: Metric,
    empty: f64,
    full: f64,
    /// Of the ratios within each round.
    pub(crate) ratio: Estimate,
}

/// A row for each figure.
pub(crate) fn crowded(outcome: &flows::Outcome) -> Vec<Crowded> {
    let mut by_case = BTreeMap::<(Place, Metric), [Values; 2]>::new();
    for sample in &outcome.samples {
        let case = by_case.entry((sample.place, sample.metric)).or_default();
        case[usize::from(sample.full)].insert(sample.round, sample.value);
    }
    let row = |((place, metric), [empty, full]): ((Place, Metric), [Values; 2])| {
        Some(Crowded {
            place,
            metric,
            empty: median(empty.values().copied())?,
            full: median(full.values().copied())?,
            ratio: Estimate::of(figures::ratios(&full, &empty))?,
        })
    };
    by_case.into_iter().filter_map(row).collect()
}

/// The same for people.
pub(crate) fn flows_table(outcome: &flows::Outcome) -> Table {
    let full = format!("{} FLOWS", outcome.flows);
    let header = ["WHERE", "METRIC", "NO FLOWS", &full, "UNIT", "RATIO", "BETWEEN"];
    let mut table = new_table(&header, &[2, 3, 5]);
    for row in crowded(outcome) {
        table.add_row([
            row.place.to_string(),
            row.metric.to_string(),
            format!("{:.1}", row.empty),
            format!("{:.1}", row.full),
            row.metric.unit().to_owned(),
            format!("{:.2}", row.ratio.median),
            row.ratio.between.to_string(),
        ]);
    }
    table
}

pub(crate) fn new_table(header: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(header);
    for column in numbers {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum as _;
    use serde::Deserialize;

    use super::*;
    use crate::{figures::Figures, metric::Sample};

    /// A line as a reader of the JSON expects it: these keys, all of them and no other.
    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        r#where: String,
        metric: String,
        side: String,
        services: u32,
        median: f64,
        unit: String,
        ratio_to_plain: f64,
        rounds: u32,
    }

    fn written(samples: &[Sample]) -> String {
        let mut out = Vec::new();
        let rows = Figures::new(samples).rows(Metric::value_variants(), 7);
        write_json(&rows, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Every figure of every side in two rounds, and those of growth with more services.
    fn whole_run() -> Vec<Sample> {
        let mut samples = Vec::new();
        for (services, factor) in [(10, 1.0), (1_000, 2.0), (10_000, 4.0)] {
            for metric in Metric::value_variants() {
                if services > 10 && !metric.may_grow() {
                    continue;
                }
                for (index, side) in Side::value_variants().iter().enumerate() {
                    for place in Place::ALL {
                        for round in 0..2 {
                            let value = factor * (index + 1) as f64;
                            let (side, metric) = (*side, *metric);
                            samples.push(Sample { services, round, place, side, metric, value });
                        }
                    }
                }
            }
        }
        samples
    }

    #[test]
    fn the_json_is_a_list_of_lines_and_nothing_else() {
        let text = written(&whole_run());
        // This takes nothing behind the list either.
        let lines: Vec<Line> = serde_json::from_str(&text).unwrap();
        assert_eq!(lines.len(), (10 + 2 * 3) * 7 * 2);
        let all = |of: fn(&Line) -> &str| lines.iter().map(of).collect::<BTreeSet<_>>();
        assert_eq!(all(|line| &line.r#where), BTreeSet::from(["same", "cross"]));
        assert_eq!(
            all(|line| &line.side),
            BTreeSet::from([
                "plain",
                "iptables",
                "nftables",
                "vxlan",
                "haproxy",
                "xylem",
                "xylem_socket"
            ])
        );
        assert_eq!(
            all(|line| &line.metric),
            BTreeSet::from([
                "tcp1",
                "tcp4",
                "udp64",
                "udp1400",
                "rr_p50",
                "rr_p99",
                "conn1",
                "conn16",
                "cpu_kb",
                "cpu_pkt64"
            ])
        );
        assert_eq!(
            all(|line| &line.unit),
            BTreeSet::from(["Gb/s", "packets/s", "us", "1/s", "ns/KB", "ns/packet"])
        );
        assert!(lines.iter().all(|line| line.rounds == 7));
    }

    /// So that figures of growth can be told from the others.
    #[test]
    fn a_line_has_the_services_that_it_was_measured_with() {
        let lines: Vec<Line> = serde_json::from_str(&written(&whole_run())).unwrap();
        for (services, median) in [(10, 6.0), (1_000, 12.0), (10_000, 24.0)] {
            let mut of_growth = lines.iter().filter(|line| {
                (line.services, &*line.side, &*line.metric) == (services, "xylem", "conn1")
            });
            let places: Vec<_> = of_growth
                .by_ref()
                .map(|line| (&*line.r#where, line.median, line.ratio_to_plain))
                .collect();
            assert_eq!(places, [("same", median, 6.0), ("cross", median, 6.0)]);
        }
        assert!(!lines.iter().any(|line| line.services > 10 && line.metric == "tcp1"));
    }

    #[test]
    fn keys_are_in_the_order_that_readers_know() {
        let (place, side, metric) = (Place::Same, Side::Plain, Metric::Tcp1);
        let sample = Sample { services: 10, round: 0, place, side, metric, value: 2.5 };
        let text: String = written(&[sample]).split_whitespace().collect();
        assert_eq!(
            text,
            r#"[{"where":"same","metric":"tcp1","side":"plain","services":10,"median":2.5,"unit":"Gb/s","ratio_to_plain":1.0,"rounds":7}]"#
        );
        assert_eq!(written(&[]), "[]\n");
    }
}

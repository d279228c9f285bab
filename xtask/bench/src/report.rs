//! Medians, and ratios to plain routing.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde::Serialize;

use crate::{
    flows,
    metric::{Metric, Place, Sample, Side},
    run::{Addition, Step},
};

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) r#where: Place,
    pub(crate) metric: Metric,
    pub(crate) side: Side,
    /// Beside the two that are dialled.
    pub(crate) services: u32,
    pub(crate) median: f64,
    unit: &'static str,
    /// Median of the ratios within each round.
    pub(crate) ratio_to_plain: f64,
    rounds: u32,
    /// Half of what the middle half of the values spans, as a part of the median.
    #[serde(skip)]
    spread: f64,
}

/// A row for each side and figure, of the figures that are wanted and have a ratio.
pub(crate) fn rows(samples: &[Sample], wanted: &[Metric], rounds: u32) -> Vec<Row> {
    type Case = (u32, Place, Metric, Side);
    let mut by_case = BTreeMap::<Case, BTreeMap<u32, f64>>::new();
    for sample in samples.iter().filter(|sample| wanted.contains(&sample.metric)) {
        let case = (sample.services, sample.place, sample.metric, sample.side);
        by_case.entry(case).or_default().insert(sample.round, sample.value);
    }
    let row = |(&(services, place, metric, side), by_round): (&Case, &BTreeMap<u32, f64>)| {
        let plain = by_case.get(&(services, place, metric, Side::Plain))?;
        let values = Sorted::new(by_round.values().copied());
        let ratios = by_round.iter().filter_map(|(round, value)| Some(value / plain.get(round)?));
        Some(Row {
            r#where: place,
            metric,
            side,
            services,
            median: values.quantile(0.5),
            unit: metric.unit(),
            ratio_to_plain: median(ratios)?,
            rounds,
            spread: (values.quantile(0.75) - values.quantile(0.25)) / 2.0 / values.quantile(0.5),
        })
    };
    by_case.iter().filter_map(row).collect()
}

/// For people.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut table = new_table(
        &[
            "WHERE",
            "METRIC",
            "SIDE",
            "SERVICES",
            "MEDIAN",
            "±%",
            "UNIT",
            "RATIO TO PLAIN",
            "BETTER",
        ],
        &[3, 4, 5, 7],
    );
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
            format!("{:.1}", Sorted::new(micros.iter().copied()).quantile(0.5)),
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
    pub(crate) empty: f64,
    pub(crate) full: f64,
    /// Median of the ratios within each round.
    pub(crate) ratio: f64,
}

/// A row for each figure.
pub(crate) fn crowded(outcome: &flows::Outcome) -> Vec<Crowded> {
    let mut by_case = BTreeMap::<(Place, Metric), [BTreeMap<u32, f64>; 2]>::new();
    for sample in &outcome.samples {
        let case = by_case.entry((sample.place, sample.metric)).or_default();
        case[usize::from(sample.full)].insert(sample.round, sample.value);
    }
    let row = |((place, metric), [empty, full]): ((Place, Metric), [BTreeMap<u32, f64>; 2])| {
        let ratios = full.iter().filter_map(|(round, value)| Some(value / empty.get(round)?));
        Some(Crowded {
            place,
            metric,
            empty: median(empty.values().copied())?,
            full: median(full.values().copied())?,
            ratio: median(ratios)?,
        })
    };
    by_case.into_iter().filter_map(row).collect()
}

/// The same for people.
pub(crate) fn flows_table(outcome: &flows::Outcome) -> Table {
    let full = format!("{} FLOWS", outcome.flows);
    let mut table = new_table(&["WHERE", "METRIC", "NO FLOWS", &full, "UNIT", "RATIO"], &[2, 3, 5]);
    for row in crowded(outcome) {
        table.add_row([
            row.place.to_string(),
            row.metric.to_string(),
            format!("{:.1}", row.empty),
            format!("{:.1}", row.full),
            row.metric.unit().to_owned(),
            format!("{:.2}", row.ratio),
        ]);
    }
    table
}

/// Values of a side in one case, by round.
fn by_round(
    samples: &[Sample],
    services: u32,
    place: Place,
    metric: Metric,
    side: Side,
) -> BTreeMap<u32, f64> {
    let wanted = (services, place, metric, side);
    samples
        .iter()
        .filter(|sample| (sample.services, sample.place, sample.metric, sample.side) == wanted)
        .map(|sample| (sample.round, sample.value))
        .collect()
}

/// Median of the ratios of `side` to `base` within each round; nothing if one was not measured.
pub(crate) fn ratio(
    samples: &[Sample],
    services: u32,
    place: Place,
    metric: Metric,
    side: Side,
    base: Side,
) -> Option<f64> {
    let base = by_round(samples, services, place, metric, base);
    let values = by_round(samples, services, place, metric, side);
    median(values.iter().filter_map(|(round, value)| Some(value / base.get(round)?)))
}

/// Half of what the values of all rounds span, as a part of their median.
pub(crate) fn range(
    samples: &[Sample],
    services: u32,
    place: Place,
    metric: Metric,
    side: Side,
) -> Option<f64> {
    let values = by_round(samples, services, place, metric, side);
    let sorted = Sorted::new(values.into_values());
    let (least, most) = (sorted.0.first()?, sorted.0.last()?);
    Some((most - least) / 2.0 / sorted.quantile(0.5))
}

/// Nothing of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let sorted = Sorted::new(values);
    (!sorted.0.is_empty()).then(|| sorted.quantile(0.5))
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

/// Values in order, at least one.
struct Sorted(Vec<f64>);

impl Sorted {
    fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        Self(values)
    }

    /// Between two values, the point on the line between them.
    fn quantile(&self, part: f64) -> f64 {
        let at = part * (self.0.len() - 1) as f64;
        let (below, above) = (self.0[at.floor() as usize], self.0[at.ceil() as usize]);
        below + (above - below) * at.fract()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, side: Side, value: f64) -> Sample {
        let (place, metric) = (Place::Same, Metric::Tcp1);
        Sample { services: 0, round, place, side, metric, value }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine is twice as fast in the second round and ten times in the third.
        let samples = [
            sample(0, Side::Plain, 10.0),
            sample(0, Side::Xylem, 11.0),
            sample(1, Side::Plain, 20.0),
            sample(1, Side::Xylem, 22.0),
            sample(2, Side::Plain, 100.0),
            sample(2, Side::Xylem, 90.0),
        ];
        let rows = rows(&samples, &[Metric::Tcp1], 3);
        let xylem = rows.iter().find(|row| row.side == Side::Xylem).unwrap();
        assert!((xylem.ratio_to_plain - 1.1).abs() < 1e-9);
        assert!((xylem.median - 22.0).abs() < 1e-9);
    }

    #[test]
    fn each_number_of_services_has_its_own_plain_runs() {
        let mut samples = Vec::new();
        for (services, plain) in [(10, 1.0), (10_000, 2.0)] {
            samples.push(Sample { services, ..sample(0, Side::Plain, plain) });
            samples.push(Sample { services, ..sample(0, Side::Iptables, 1.0) });
        }
        let rows = rows(&samples, &[Metric::Tcp1], 1);
        let ratios: Vec<_> =
            rows.iter().map(|row| (row.services, row.side, row.ratio_to_plain)).collect();
        assert_eq!(
            ratios,
            [
                (10, Side::Plain, 1.0),
                (10, Side::Iptables, 1.0),
                (10_000, Side::Plain, 1.0),
                (10_000, Side::Iptables, 0.5)
            ]
        );
    }

    #[test]
    fn a_round_without_a_plain_value_tells_no_ratio() {
        let mut samples = vec![sample(0, Side::Plain, 10.0), sample(0, Side::Xylem, 11.0)];
        samples.push(sample(1, Side::Xylem, 900.0));
        let rows = rows(&samples, &[Metric::Tcp1], 2);
        assert!((rows[1].ratio_to_plain - 1.1).abs() < 1e-9, "{rows:?}");
        assert!(self::rows(&samples[2..], &[Metric::Tcp1], 2).is_empty());
    }

    #[test]
    fn only_wanted_figures_are_told() {
        assert!(rows(&[sample(0, Side::Plain, 1.0)], &[Metric::CpuKb], 1).is_empty());
    }

    #[test]
    fn a_row_has_the_fields_that_readers_know() {
        let rows = rows(&[sample(0, Side::Plain, 2.5)], &[Metric::Tcp1], 1);
        assert_eq!(
            serde_json::to_string(&rows).unwrap(),
            r#"[{"where":"same","metric":"tcp1","side":"plain","services":0,"median":2.5,"unit":"Gb/s","ratio_to_plain":1.0,"rounds":1}]"#
        );
    }

    #[test]
    fn quantiles_lie_between_values() {
        let sorted = Sorted::new([4.0, 1.0, 3.0, 2.0]);
        assert_eq!([0.0, 0.5, 1.0].map(|part| sorted.quantile(part)), [1.0, 2.5, 4.0]);
        assert_eq!(Sorted::new([7.0]).quantile(0.75), 7.0);
    }
}

//! Medians, and ratios to plain routing.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets::NOTHING};
use serde::Serialize;

use crate::measure::{Metric, Place, Sample, Side};

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    r#where: Place,
    metric: Metric,
    side: Side,
    /// Service IPs and instance IPs that the client's node knew.
    services: usize,
    median: f64,
    unit: &'static str,
    /// Median of the ratios within each round.
    ratio_to_plain: f64,
    rounds: u32,
}

pub(crate) fn rows(samples: &[Sample], rounds: u32, services: usize) -> Vec<Row> {
    let mut by_case = BTreeMap::<_, BTreeMap<u32, f64>>::new();
    for sample in samples {
        let case = (sample.place, sample.metric, sample.side);
        by_case.entry(case).or_default().insert(sample.round, sample.value);
    }
    let row = |(&(place, metric, side), values): (&(Place, Metric, Side), &BTreeMap<u32, f64>)| {
        let plain = &by_case[&(place, metric, Side::Plain)];
        Row {
            r#where: place,
            metric,
            side,
            services,
            median: median(values.values().copied().collect()),
            unit: metric.unit(),
            ratio_to_plain: median(values.iter().map(|(round, v)| v / plain[round]).collect()),
            rounds,
        }
    };
    by_case.iter().map(row).collect()
}

/// For people.
pub(crate) fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["WHERE", "METRIC", "SIDE", "MEDIAN", "UNIT", "RATIO TO PLAIN"]);
    for column in [3, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for row in rows {
        table.add_row([
            name(row.r#where),
            name(row.metric),
            name(row.side),
            format!("{:.1}", row.median),
            row.unit.to_owned(),
            format!("{:.2}", row.ratio_to_plain),
        ]);
    }
    table
}

/// As in the JSON.
fn name(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("unit variants are written as text, not {other:?}"),
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_within_a_round() {
        let sample = |round, side, value| Sample {
            round,
            place: Place::Same,
            side,
            metric: Metric::Tcp1,
            value,
        };
        // The machine is twice as fast in the second round and ten times in the third.
        let samples = [
            sample(0, Side::Plain, 10.0),
            sample(0, Side::Xylem, 11.0),
            sample(1, Side::Plain, 20.0),
            sample(1, Side::Xylem, 22.0),
            sample(2, Side::Plain, 100.0),
            sample(2, Side::Xylem, 90.0),
        ];
        let rows = rows(&samples, 3, 4);
        let xylem = rows.iter().find(|row| row.side == Side::Xylem).unwrap();
        assert!((xylem.ratio_to_plain - 1.1).abs() < 1e-9);
        assert!((xylem.median - 22.0).abs() < 1e-9);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
    }
}

//! What the measured values come to: medians, and ratios within a round.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    metric::{Metric, Place, Sample, Side},
    stats::{Between, Estimate, Sorted},
};

/// What is measured again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    pub(crate) services: u32,
    pub(crate) place: Place,
    pub(crate) metric: Metric,
    pub(crate) side: Side,
}

/// By round.
pub(crate) type Values = BTreeMap<u32, f64>;

/// All values, by case.
#[derive(Debug)]
pub(crate) struct Figures(BTreeMap<Case, Values>);

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) r#where: Place,
    pub(crate) metric: Metric,
    pub(crate) side: Side,
    /// Beside the two that are dialled.
    pub(crate) services: u32,
    pub(crate) median: f64,
    pub(crate) unit: &'static str,
    /// Median of the ratios within each round.
    pub(crate) ratio_to_plain: f64,
    rounds: u32,
    #[serde(skip)]
    pub(crate) ratio_between: Between,
    /// Half of what the middle half of the values spans, as a part of the median.
    #[serde(skip)]
    pub(crate) spread: f64,
}

impl Figures {
    pub(crate) fn new(samples: &[Sample]) -> Self {
        let mut by_case = BTreeMap::<Case, Values>::new();
        for &Sample { services, round, place, side, metric, value } in samples {
            let case = Case { services, place, metric, side };
            by_case.entry(case).or_default().insert(round, value);
        }
        Self(by_case)
    }

    /// A row for each side and figure, of the figures that are wanted and have a ratio.
    pub(crate) fn rows(&self, wanted: &[Metric], rounds: u32) -> Vec<Row> {
        let row = |(&case, values): (&Case, &Values)| {
            let ratio = self.ratio(case, Side::Plain)?;
            let values = Sorted::new(values.values().copied())?;
            let Case { services, place, metric, side } = case;
            Some(Row {
                r#where: place,
                metric,
                side,
                services,
                median: values.quantile(0.5),
                unit: metric.unit(),
                ratio_to_plain: ratio.median,
                rounds,
                ratio_between: if side == Side::Plain { Between::Allowed } else { ratio.between },
                spread: values.spread(0.5),
            })
        };
        self.0.iter().filter(|(case, _)| wanted.contains(&case.metric)).filter_map(row).collect()
    }

    /// Of a case to the same of `base`; nothing if one was not measured.
    pub(crate) fn ratio(&self, case: Case, base: Side) -> Option<Estimate> {
        let base = self.0.get(&Case { side: base, ..case })?;
        Estimate::of(ratios(self.0.get(&case)?, base))
    }

    /// Half of what the values of all rounds span, as a part of their median; nothing of one
    /// round.
    pub(crate) fn range(&self, case: Case) -> Option<f64> {
        let values = self.0.get(&case).filter(|values| values.len() > 1)?;
        Some(Sorted::new(values.values().copied())?.spread(1.0))
    }

    /// The least and the most services.
    pub(crate) fn services(&self) -> Option<(u32, u32)> {
        // In order of the services first.
        Some((self.0.first_key_value()?.0.services, self.0.last_key_value()?.0.services))
    }
}

/// Of the rounds that have both.
pub(crate) fn ratios(values: &Values, base: &Values) -> impl Iterator<Item = f64> {
    values.iter().filter_map(|(round, value)| Some(value / base.get(round)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(round: u32, side: Side, value: f64) -> Sample {
        let (place, metric) = (Place::Same, Metric::Tcp1);
        Sample { services: 0, round, place, side, metric, value }
    }

    fn rows(samples: &[Sample], wanted: &[Metric]) -> Vec<Row> {
        Figures::new(samples).rows(wanted, 3)
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
        let rows = rows(&samples, &[Metric::Tcp1]);
        let xylem = rows.iter().find(|row| row.side == Side::Xylem).unwrap();
        assert!((xylem.ratio_to_plain - 1.1).abs() < 1e-9);
        assert!((xylem.median - 22.0).abs() < 1e-9);
        assert_eq!(xylem.ratio_between, Between::Unknown, "of three rounds");
    }

    #[test]
    fn each_number_of_services_has_its_own_plain_runs() {
        let mut samples = Vec::new();
        for (services, plain) in [(10, 1.0), (10_000, 2.0)] {
            samples.push(Sample { services, ..sample(0, Side::Plain, plain) });
            samples.push(Sample { services, ..sample(0, Side::Iptables, 1.0) });
        }
        let rows = rows(&samples, &[Metric::Tcp1]);
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
        assert_eq!(Figures::new(&samples).services(), Some((10, 10_000)));
    }

    #[test]
    fn a_round_without_a_plain_value_tells_no_ratio() {
        let mut samples = vec![sample(0, Side::Plain, 10.0), sample(0, Side::Xylem, 11.0)];
        samples.push(sample(1, Side::Xylem, 900.0));
        let told = rows(&samples, &[Metric::Tcp1]);
        assert!((told[1].ratio_to_plain - 1.1).abs() < 1e-9, "{told:?}");
        assert!(rows(&samples[2..], &[Metric::Tcp1]).is_empty());
    }

    #[test]
    fn only_wanted_figures_are_told() {
        assert!(rows(&[sample(0, Side::Plain, 1.0)], &[Metric::CpuKb]).is_empty());
    }
}

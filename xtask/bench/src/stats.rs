//! Medians, and how far they can be trusted.

use std::fmt;

/// The median of some values, and where it would come to lie with more of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) median: f64,
    pub(crate) between: Between,
}

/// Two of the values between which the median of endlessly many lies with a chance of at least
/// seven in eight: of seven values, the second and the last but one. That holds whatever the
/// values are spread like (each is above the true median with a chance of one in two).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Between {
    Values(f64, f64),
    /// Fewer than four values cannot tell.
    Unknown,
    /// What it is compared with already allows for the noise.
    Allowed,
}

/// Chance that the median is below the interval, or as much above it.
const MISS_MAX: f64 = 1.0 / 16.0;

impl Estimate {
    /// Nothing of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let sorted = Sorted::new(values)?;
        Some(Self { median: sorted.quantile(0.5), between: sorted.between() })
    }
}

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = f.precision().unwrap_or(2);
        match self {
            Self::Values(low, high) => write!(f, "{low:.precision$} – {high:.precision$}"),
            Self::Unknown => f.write_str("?"),
            Self::Allowed => Ok(()),
        }
    }
}

/// Nothing of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    Some(Sorted::new(values)?.quantile(0.5))
}

/// Values in order, at least one.
pub(crate) struct Sorted(Vec<f64>);

impl Sorted {
    /// Nothing of nothing.
    pub(crate) fn new(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        (!values.is_empty()).then_some(Self(values))
    }

    /// Between two values, the point on the line between them.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let at = part * (self.0.len() - 1) as f64;
        let (below, above) = (self.0[at.floor() as usize], self.0[at.ceil() as usize]);
        below + (above - below) * at.fract()
    }

    /// Half of what the part of the values in the middle spans, as a part of their median: of
    /// 0.5, half the distance of the quartiles.
    pub(crate) fn spread(&self, part: f64) -> f64 {
        let (low, high) = (0.5 - part / 2.0, 0.5 + part / 2.0);
        (self.quantile(high) - self.quantile(low)) / 2.0 / self.quantile(0.5)
    }

    fn between(&self) -> Between {
        let count = self.0.len();
        // How likely it is that exactly `index` of the values are below the true median.
        let mut chance = 0.5_f64.powi(count as i32);
        let mut miss = chance;
        let mut cut = 0;
        while miss <= MISS_MAX && cut < count / 2 {
            chance *= (count - cut) as f64 / (cut + 1) as f64;
            cut += 1;
            miss += chance;
        }
        match cut {
            0 => Between::Unknown,
            _ => Between::Values(self.0[cut - 1], self.0[count - cut]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        let sorted = Sorted::new([4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!([0.0, 0.5, 1.0].map(|part| sorted.quantile(part)), [1.0, 2.5, 4.0]);
        assert_eq!(Sorted::new([7.0]).unwrap().quantile(0.75), 7.0);
        assert!(Sorted::new([]).is_none() && Estimate::of([]).is_none());
    }

    #[test]
    fn spread_is_that_of_the_middle() {
        let sorted = Sorted::new([1.0, 9.0, 10.0, 11.0, 1000.0]).unwrap();
        assert_eq!(sorted.spread(0.5), 0.1);
        assert_eq!(sorted.spread(1.0), 49.95);
    }

    /// Which values they are: see a table of the sign test.
    #[test]
    fn the_median_is_placed_by_the_sign_test() {
        let between = |count: u32| Estimate::of((1..=count).map(f64::from)).unwrap().between;
        for few in 1..=3 {
            assert_eq!(between(few), Between::Unknown, "{few}");
        }
        for (count, low, high) in
            [(4, 1.0, 4.0), (6, 1.0, 6.0), (7, 2.0, 6.0), (11, 3.0, 9.0), (100, 42.0, 59.0)]
        {
            assert_eq!(between(count), Between::Values(low, high), "{count}");
        }
    }

    /// Simulated: how often the interval of seven values, skewed and with outliers, has the true
    /// median in it.
    #[test]
    fn the_chance_is_as_said() {
        // Marsaglia, Xorshift RNGs, 2003.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut uniform = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let mut inside = 0;
        const TRIALS: u32 = 20_000;
        for _ in 0..TRIALS {
            // The median of 1 / u is 2, and its mean is infinite.
            let values: Vec<_> = (0..7).map(|_| 1.0 / uniform()).collect();
            let estimate = Estimate::of(values).unwrap();
            let Between::Values(low, high) = estimate.between else { panic!("{estimate:?}") };
            inside += u32::from((low..=high).contains(&2.0));
        }
        let share = f64::from(inside) / f64::from(TRIALS);
        assert!((0.86..0.89).contains(&share), "{share}");
    }

    #[test]
    fn what_is_not_known_is_told_so() {
        assert_eq!(format!("{:.3}", Between::Values(0.9, 1.0)), "0.900 – 1.000");
        assert_eq!(format!("{} {}", Between::Unknown, Between::Allowed), "? ");
    }
}

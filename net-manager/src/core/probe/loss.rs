//! The share of lost probes.

/// What became of the last [`Loss::WINDOW`] probes, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// The latest is the lowest; 1 = lost.
    lost: u128,
    known: u32,
}

impl Loss {
    /// 10 s at the usual rate.
    pub const WINDOW: u32 = 100;

    pub fn add(&mut self, is_lost: bool) {
        self.lost = (self.lost << 1 | u128::from(is_lost)) & ((1 << Self::WINDOW) - 1);
        self.known = (self.known + 1).min(Self::WINDOW);
    }

    /// Of the probes whose fate is known, 0 to 1; `None` before the first.
    pub fn ratio(&self) -> Option<f64> {
        (self.known > 0).then(|| f64::from(self.lost.count_ones()) / f64::from(self.known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_hundred_count() {
        let mut loss = Loss::default();
        assert_eq!(loss.ratio(), None);
        loss.add(true);
        assert_eq!(loss.ratio(), Some(1.0));
        (0..3).for_each(|_| loss.add(false));
        assert_eq!(loss.ratio(), Some(0.25));
        (0..96).for_each(|_| loss.add(false));
        assert_eq!(loss.ratio(), Some(0.01));
        loss.add(false);
        assert_eq!(loss.ratio(), Some(0.0));
        (0..200).for_each(|_| loss.add(true));
        assert_eq!(loss.ratio(), Some(1.0));
    }
}

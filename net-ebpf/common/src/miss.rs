//! How many misses an instance may cause: each costs a place in the ring buffer and a question to
//! the cluster, so an instance that scans the address space must not take those of the others.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits;

/// Value of the map `miss_budgets`, keyed by the sender's interface: a token bucket.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct MissBudget {
    /// In nanoseconds of refilling: a miss costs [`MissBudget::COST_NS`].
    pub credit_ns: u64,
    /// `CLOCK_MONOTONIC`, when it was last refilled.
    pub refilled_ns: u64,
}

impl MissBudget {
    /// Time in which one miss is earned.
    pub const COST_NS: u64 = 1_000_000_000 / limits::MISSES_PER_SECOND;
    const MOST_NS: u64 = Self::COST_NS * limits::MISS_BURST;

    /// That of an instance that has not missed yet.
    #[inline(always)]
    pub const fn full(now_ns: u64) -> Self {
        Self { credit_ns: Self::MOST_NS, refilled_ns: now_ns }
    }

    /// Takes one miss out, if there is one.
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64) -> bool {
        let earned = self.credit_ns + now_ns.saturating_sub(self.refilled_ns);
        let credit = if earned > Self::MOST_NS { Self::MOST_NS } else { earned };
        self.refilled_ns = now_ns;
        let is_enough = credit >= Self::COST_NS;
        self.credit_ns = if is_enough { credit - Self::COST_NS } else { credit };
        is_enough
    }
}

crate::map_type!(MissBudget);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_steady_rate() {
        let mut budget = MissBudget::full(0);
        let taken = (0..10_000).filter(|_| budget.take(0)).count() as u64;
        assert_eq!(taken, limits::MISS_BURST);
        let second = 1_000_000_000;
        let mut taken = 0;
        for step in 1..=10_000 {
            taken += u64::from(budget.take(step * second / 10_000));
        }
        assert_eq!(taken, limits::MISSES_PER_SECOND);
        // A long rest earns one burst, and a clock that goes back nothing.
        assert!(budget.take(1_000 * second) && budget.take(0));
    }
}

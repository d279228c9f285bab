//! Underutilized: flows in progress first, reported CPU second.
//!
//! Flows in progress are what Prequal (Wydrowski et al., NSDI 2024) calls requests in flight: a
//! signal of *now*, known here without a report, while CPU is an average of the past. Unlike
//! there, the choice is not made for each request from two candidates but published as shares:
//!
//! ```text
//! load   lᵢ = (flowsᵢ + 1) / (mean flows + 1)
//! weight wᵢ = clamp(lᵢ⁻², 1/16, 16) · (1.5 − cpuᵢ/100)      cpu unknown: mean of the known, or 50
//! target tᵢ = wᵢ / Σ w
//! share  sᵢ ← sᵢ + (tᵢ − sᵢ) · (1 − 2^(−Δt / half-life))     half-life 1 s
//! ```
//!
//! * Flows first: the factor for CPU is from 0.5 to 1.5, so 1.8 times the load outweighs any CPU.
//!   With flows alike, CPU decides, by 3 to 1 at most.
//! * No herd: shares are in proportion and not "all to the least loaded", so that when many nodes
//!   see the same instance idle it gets more of each and not everything of all. The square makes
//!   them decided: by Little's law flows are `share · rate · duration`, and at rest an instance
//!   that is 8 times slower has twice the flows, not 8 times.
//! * Bounded rate: in each half-life a share goes at most half the way. A newcomer starts with no
//!   more than an equal share. Only the first table, with nothing to go from, is at its target.
//! * Quiet: the published shares stay until one of them is off by a tenth of an equal share.

use std::{collections::BTreeMap, time::Duration};

use super::Candidate;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// In which a share goes half the way to its target.
    pub half_life: Duration,
    /// A share is published anew when it is off by this part of an equal share.
    pub tolerance: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { half_life: Duration::from_secs(1), tolerance: 0.1 }
    }
}

/// No instance is weighed heavier or lighter for its flows than this many times.
const MOST: f64 = 16.0;
/// Stands for a report, in percent, where there is none.
const CPU_UNKNOWN: f64 = 50.0;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Share {
    /// On its way to the target.
    current: f64,
    published: f64,
}

/// What one table remembers from one update to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// By the number of the instance.
    shares: BTreeMap<u32, Share>,
    last: Option<Duration>,
}

impl Memory {
    /// The share of new flows for each candidate, in their order; all of them take flows.
    pub(super) fn shares(
        &mut self,
        settings: &Settings,
        candidates: &[Candidate],
        now: Duration,
    ) -> Vec<f64> {
        let targets = targets(candidates);
        let equal = 1.0 / candidates.len() as f64;
        let is_first = !candidates.iter().any(|c| self.shares.contains_key(&c.number));
        let step = self.last.map_or(1.0, |last| step(settings, now.saturating_sub(last)));
        self.last = Some(self.last.map_or(now, |last| last.max(now)));

        let mut shares: Vec<f64> = candidates
            .iter()
            .zip(&targets)
            .map(|(candidate, target)| match self.shares.get(&candidate.number) {
                _ if is_first => *target,
                Some(share) => share.current + (target - share.current) * step,
                None => target.min(equal),
            })
            .collect();
        normalize(&mut shares);

        let before = std::mem::take(&mut self.shares);
        let has_changed = before.len() != candidates.len()
            || candidates.iter().zip(&shares).any(|(candidate, share)| {
                before.get(&candidate.number).is_none_or(|before| {
                    (share - before.published).abs() > settings.tolerance * equal
                })
            });
        let published = |number: u32, share: f64| match before.get(&number) {
            Some(before) if !has_changed => before.published,
            _ => share,
        };
        candidates
            .iter()
            .zip(shares)
            .map(|(candidate, current)| {
                let published = published(candidate.number, current);
                self.shares.insert(candidate.number, Share { current, published });
                published
            })
            .collect()
    }
}

/// How much of the way to its target a share goes in this time.
fn step(settings: &Settings, elapsed: Duration) -> f64 {
    if settings.half_life.is_zero() {
        return 1.0;
    }
    1.0 - (-elapsed.as_secs_f64() / settings.half_life.as_secs_f64()).exp2()
}

fn targets(candidates: &[Candidate]) -> Vec<f64> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let flows: Vec<f64> = candidates.iter().map(|c| f64::from(c.flows)).collect();
    let reported: Vec<f64> = candidates.iter().filter_map(Candidate::cpu).collect();
    let unknown = if reported.is_empty() { CPU_UNKNOWN } else { mean(&reported) };
    let mean_flows = mean(&flows);
    let mut targets: Vec<f64> = candidates
        .iter()
        .zip(&flows)
        .map(|(candidate, flows)| {
            let load = (flows + 1.0) / (mean_flows + 1.0);
            let headroom = 1.5 - candidate.cpu().unwrap_or(unknown) / 100.0;
            load.powi(-2).clamp(1.0 / MOST, MOST) * headroom
        })
        .collect();
    normalize(&mut targets);
    targets
}

/// Makes them add up to 1.
fn normalize(shares: &mut [f64]) {
    let sum: f64 = shares.iter().sum();
    shares.iter_mut().for_each(|share| *share /= sum);
}

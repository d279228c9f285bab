//! Measures every side, in turn.

use std::{io::IsTerminal, time::Duration};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    cpu,
    interrupt::Interrupt,
    measure,
    metric::{Load, Place, Sample, Side},
    scene::Scene,
};

/// With more the figures are of little worth.
const IDLE_LOAD_MAX: f64 = 0.1;

/// What is to be measured, how often and how long.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) sides: Vec<Side>,
    pub(crate) loads: Vec<Load>,
    /// Services beside the measured ones; one run for each.
    pub(crate) services: Vec<u32>,
    /// Whether it is also measured how long it takes to add a service.
    pub(crate) additions: bool,
    pub(crate) rounds: u32,
    pub(crate) duration: Duration,
}

/// How long it took to add one service to those that were there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addition {
    pub(crate) side: Side,
    pub(crate) services: u32,
    pub(crate) time: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) samples: Vec<Sample>,
    pub(crate) additions: Vec<Addition>,
}

impl Plan {
    /// # Errors
    /// If a load fails, or it was interrupted.
    pub(crate) fn run(&self, scene: &mut Scene, interrupt: &Interrupt) -> Result<Outcome> {
        let progress = progress(self.steps());
        let mut outcome = Outcome::default();
        for services in self.services.iter().copied() {
            for (side, contender) in scene.sides() {
                interrupt.check()?;
                let filled = contender.fill(services);
                filled.with_context(|| format!("{side} with {services} services"))?;
            }
            for round in 0..self.rounds {
                self.round(scene, interrupt, (services, round), &mut outcome.samples, &progress)?;
                if self.additions {
                    outcome.additions.extend(additions(scene, services)?);
                }
            }
        }
        progress.finish_and_clear();
        Ok(outcome)
    }

    fn round(
        &self,
        scene: &Scene,
        interrupt: &Interrupt,
        (services, round): (u32, u32),
        samples: &mut Vec<Sample>,
        progress: &ProgressBar,
    ) -> Result<()> {
        let idle_load = cpu::idle_load(self.duration)?;
        if idle_load > IDLE_LOAD_MAX {
            progress.suspend(|| {
                eprintln!("round {round}: {idle_load:.1} CPUs are busy with other things");
            });
        }
        // The order changes by round, so that no side is always the first.
        let mut sides = self.sides.clone();
        let turn = round as usize % sides.len();
        sides.rotate_left(turn);
        for place in Place::ALL {
            for load in self.loads.iter().copied() {
                for side in sides.iter().copied().filter(|side| side.carries(load)) {
                    interrupt.check()?;
                    let path = scene.path(side, place);
                    let values = measure::run(load, &path, self.duration, idle_load);
                    for (metric, value) in values.with_context(|| format!("{side}, {place:?}"))? {
                        samples.push(Sample { services, round, place, side, metric, value });
                    }
                    progress.inc(1);
                }
            }
        }
        Ok(())
    }

    /// How many loads are run.
    pub(crate) fn steps(&self) -> u64 {
        let carried = |side: &Side| self.loads.iter().filter(|load| side.carries(**load)).count();
        let of_a_round: usize = self.sides.iter().map(carried).sum();
        let rounds = u64::from(self.rounds) * self.services.len() as u64;
        rounds * (Place::ALL.len() * of_a_round) as u64
    }
}

fn additions(scene: &mut Scene, services: u32) -> Result<Vec<Addition>> {
    let mut additions = Vec::new();
    for (side, contender) in scene.sides() {
        let time = contender.time_adding();
        let time = time.with_context(|| format!("{side}: one more than {services} services"))?;
        additions.extend(time.map(|time| Addition { side, services, time }));
    }
    Ok(additions)
}

fn progress(steps: u64) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} measurements, {eta} left")
        .expect("a fixed template");
    ProgressBar::with_draw_target(Some(steps), target).with_style(style)
}

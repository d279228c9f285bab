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
    /// All that any block has.
    pub(crate) sides: Vec<Side>,
    /// One after the other.
    pub(crate) blocks: Vec<Block>,
    /// Of each block.
    pub(crate) rounds: u32,
    pub(crate) duration: Duration,
}

/// What is measured with one number of services.
#[derive(Debug)]
pub(crate) struct Block {
    /// Beside the measured ones.
    pub(crate) services: u32,
    /// One after the other, in each round.
    pub(crate) heats: Vec<Heat>,
}

/// One load at one place, carried by each side in turn.
#[derive(Debug)]
pub(crate) struct Heat {
    pub(crate) place: Place,
    pub(crate) load: Load,
    pub(crate) sides: Vec<Side>,
}

/// How long it took to add one service to those that were there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addition {
    pub(crate) side: Side,
    pub(crate) step: Step,
    pub(crate) services: u32,
    pub(crate) time: Duration,
}

/// What of an addition takes the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Rules, or map entries, written on the client's node.
    Written,
    /// From the first packet to a service that the node does not know, by way of the query to the
    /// cluster and its answer, to the entry in the kernel.
    Learnt,
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
        let mut run = Run {
            plan: self,
            interrupt,
            progress: progress(self.steps()),
            idle_load: f64::INFINITY,
            outcome: Outcome::default(),
        };
        for block in &self.blocks {
            let services = block.services;
            for (side, contender) in scene.sides().filter(|(side, _)| block.has(*side)) {
                interrupt.check()?;
                let filled = contender.fill(services);
                filled.with_context(|| format!("{side} with {services} services"))?;
            }
            for round in 0..self.rounds {
                run.round(scene, block, round)?;
                run.add_to(scene, block)?;
            }
        }
        run.progress.finish_and_clear();
        Ok(run.outcome)
    }

    /// How many loads are run.
    pub(crate) fn steps(&self) -> u64 {
        let of_a_round: usize = self.blocks.iter().map(Block::steps).sum();
        u64::from(self.rounds) * of_a_round as u64
    }
}

impl Block {
    /// Of these sides, with these loads, at each place, what is `wanted`.
    pub(crate) fn new(
        services: u32,
        sides: &[Side],
        loads: &[Load],
        wanted: impl Fn(Place, Load, Side) -> bool,
    ) -> Self {
        let heat = |place, load: Load| {
            let runs = |side: &Side| side.carries(load) && wanted(place, load, *side);
            Heat { place, load, sides: sides.iter().copied().filter(runs).collect() }
        };
        let heats_at = |place| loads.iter().map(move |load| heat(place, *load));
        Self { services, heats: Place::ALL.into_iter().flat_map(heats_at).collect() }
    }

    /// Loads in one round.
    fn steps(&self) -> usize {
        self.heats.iter().map(|heat| heat.sides.len()).sum()
    }

    pub(crate) fn has(&self, side: Side) -> bool {
        self.heats.iter().any(|heat| heat.sides.contains(&side))
    }
}

struct Run<'a> {
    plan: &'a Plan,
    interrupt: &'a Interrupt,
    progress: ProgressBar,
    /// CPUs that are busy when nothing is measured; the least of all rounds, because others may
    /// have been at work just then.
    idle_load: f64,
    outcome: Outcome,
}

impl Run<'_> {
    fn round(&mut self, scene: &Scene, block: &Block, round: u32) -> Result<()> {
        self.interrupt.check()?;
        if self.progress.is_hidden() {
            let (services, rounds) = (block.services, self.plan.rounds);
            eprintln!("{services} services: round {} of {rounds}", round + 1);
        }
        let idle_load = cpu::idle_load(self.plan.duration)?;
        if idle_load > IDLE_LOAD_MAX {
            self.progress.suspend(|| {
                eprintln!("round {round}: {idle_load:.1} CPUs are busy with other things");
            });
        }
        self.idle_load = self.idle_load.min(idle_load);
        // What others do by fits and starts cannot be told from what is measured.
        let background = if self.idle_load > IDLE_LOAD_MAX { 0.0 } else { self.idle_load };
        let services = block.services;
        for Heat { place, load, sides } in &block.heats {
            let (place, mut sides) = (*place, sides.clone());
            // The order changes by round, so that no side is always the first.
            let turn = round as usize % sides.len().max(1);
            sides.rotate_left(turn);
            for side in sides {
                self.interrupt.check()?;
                let path = scene.path(side, place);
                let values = measure::run(*load, &path, self.plan.duration, background);
                for (metric, value) in values.with_context(|| format!("{side}, {place}"))? {
                    let sample = Sample { services, round, place, side, metric, value };
                    self.outcome.samples.push(sample);
                }
                self.progress.inc(1);
            }
        }
        Ok(())
    }

    /// Adds one more to so many services.
    fn add_to(&mut self, scene: &mut Scene, block: &Block) -> Result<()> {
        let services = block.services;
        for (side, contender) in scene.sides().filter(|(side, _)| block.has(*side)) {
            self.interrupt.check()?;
            let mut note = |step, time: Result<Option<Duration>>| -> Result<()> {
                let time =
                    time.with_context(|| format!("{side}: one more than {services} services"))?;
                let addition = time.map(|time| Addition { side, step, services, time });
                self.outcome.additions.extend(addition);
                Ok(())
            };
            note(Step::Written, contender.time_adding())?;
            note(Step::Learnt, contender.time_learning())?;
        }
        Ok(())
    }
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

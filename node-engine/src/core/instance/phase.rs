//! Where an instance is.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use xylem_types::{instance::Generation, mqtt::DeployCommand};

use crate::core::outcome::Outcome;

/// Where an instance is. Each phase owns the data that the ones before lack.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// Nothing is known of it.
    Vacant,
    /// The image is fetched and unpacked; nothing of the instance itself exists yet.
    Preparing {
        command: Box<DeployCommand>,
    },
    /// The container is made, its first process held back. `next` is what was asked meanwhile.
    Creating {
        command: Box<DeployCommand>,
        next: Option<Next>,
    },
    /// The net manager attaches the container's network namespace.
    Attaching {
        command: Box<DeployCommand>,
        pid: i32,
        give_up_at: Instant,
        attempt: Attempt,
        next: Option<Next>,
    },
    /// The first process is let go.
    Starting {
        command: Box<DeployCommand>,
        next: Option<Next>,
    },
    Running {
        command: Box<DeployCommand>,
    },
    /// It was asked to end by itself; at `kill_at` it is killed.
    Stopping {
        command: Box<DeployCommand>,
        kill_at: Instant,
        next: Next,
    },
    /// Everything that was made for it is taken down.
    Clearing {
        command: Box<DeployCommand>,
        next: Next,
    },
    /// Over, and nothing left but this: kept so that it can be reported, and an older command
    /// refused.
    Ended {
        command: Box<DeployCommand>,
        outcome: Outcome,
    },
}

/// One attempt to attach to the network.
#[derive(Clone, Debug, PartialEq)]
pub enum Attempt {
    UnderWay {
        waiting_for: Option<String>,
    },
    /// The net manager did not answer; tried again at `retry_at`.
    Waiting {
        retry_at: Instant,
        waiting_for: String,
    },
}

/// What follows once an instance is cleared away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    Forget { generation: Generation },
    Replace(Box<DeployCommand>),
    Rest(Outcome),
}

/// The generation that this worker is to run, or ran last; `None` when nothing is known.
pub(super) fn wanted_generation(phase: &Phase) -> Option<Generation> {
    match next(phase) {
        Some(Next::Replace(command)) => Some(command.generation),
        Some(Next::Forget { generation }) => Some(*generation),
        Some(Next::Rest(_)) | None => command(phase).map(|command| command.generation),
    }
}

pub(super) fn deletes(phase: &Phase) -> bool {
    matches!(next(phase), Some(Next::Forget { .. }))
}

pub(super) fn next(phase: &Phase) -> Option<&Next> {
    match phase {
        Phase::Creating { next, .. }
        | Phase::Attaching { next, .. }
        | Phase::Starting { next, .. } => next.as_ref(),
        Phase::Stopping { next, .. } | Phase::Clearing { next, .. } => Some(next),
        Phase::Vacant | Phase::Preparing { .. } | Phase::Running { .. } | Phase::Ended { .. } => {
            None
        }
    }
}

/// The command that the phase works on.
pub fn command(phase: &Phase) -> Option<&DeployCommand> {
    match phase {
        Phase::Vacant => None,
        Phase::Preparing { command }
        | Phase::Creating { command, .. }
        | Phase::Attaching { command, .. }
        | Phase::Starting { command, .. }
        | Phase::Running { command }
        | Phase::Stopping { command, .. }
        | Phase::Clearing { command, .. }
        | Phase::Ended { command, .. } => Some(command),
    }
}

/// When [`super::Event::Tick`] is due.
pub fn deadline(phase: &Phase) -> Option<Instant> {
    match phase {
        Phase::Attaching { attempt: Attempt::Waiting { retry_at, .. }, .. } => Some(*retry_at),
        Phase::Stopping { kill_at, .. } => Some(*kill_at),
        _ => None,
    }
}

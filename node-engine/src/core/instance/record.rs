//! What is reported of an instance, and what is written down of it.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use xylem_types::{
    instance::{Generation, InstanceStatus},
    mqtt::DeployCommand,
};

use super::{
    Effect, Timing, clear,
    phase::{Attempt, Next, Phase, command, next, wanted_generation},
};
use crate::core::outcome::Outcome;

/// What the cluster is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub generation: Generation,
    pub status: InstanceStatus,
    pub detail: String,
}

/// The status to report; `None` while an instance is being forgotten, whose last word is
/// [`Effect::ReportGone`].
pub fn status(phase: &Phase) -> Option<Status> {
    let generation = wanted_generation(phase)?;
    let status =
        |status, detail: &str| Some(Status { generation, status, detail: detail.to_owned() });
    match (phase, next(phase)) {
        (Phase::Running { .. }, _) => status(InstanceStatus::Running, ""),
        (_, Some(Next::Forget { .. })) => None,
        (_, Some(Next::Replace(_))) => {
            status(InstanceStatus::Creating, "the generation before is stopped first")
        }
        (_, Some(Next::Rest(outcome))) | (Phase::Ended { outcome, .. }, None) => {
            status(outcome.status(), outcome.detail())
        }
        (
            Phase::Attaching {
                attempt:
                    Attempt::Waiting { waiting_for, .. }
                    | Attempt::UnderWay { waiting_for: Some(waiting_for) },
                ..
            },
            None,
        ) => status(InstanceStatus::Creating, waiting_for),
        (Phase::Starting { .. }, None) => status(InstanceStatus::Created, ""),
        (_, None) => status(InstanceStatus::Creating, ""),
    }
}

/// What is written down of an instance, so that a restarted engine goes on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub command: DeployCommand,
    pub stage: Stage,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Not running yet; after a restart it is done over.
    Deploying,
    Running,
    Stopping {
        next: Next,
    },
    Ended {
        outcome: Outcome,
    },
}

/// The record of a phase, `None` when there is nothing to remember.
pub fn record(phase: &Phase) -> Option<Record> {
    let command = command(phase)?.clone();
    let stage = match (phase, next(phase)) {
        (_, Some(next)) => Stage::Stopping { next: next.clone() },
        (Phase::Running { .. }, None) => Stage::Running,
        (Phase::Ended { outcome, .. }, None) => Stage::Ended { outcome: outcome.clone() },
        (_, None) => Stage::Deploying,
    };
    Some(Record { command, stage })
}

/// Goes on after a restart of the engine.
pub fn resume(record: Record, now: Instant, timing: &Timing) -> (Phase, Vec<Effect>) {
    let command = Box::new(record.command);
    match record.stage {
        Stage::Deploying => clear(command.clone(), Next::Replace(command)),
        Stage::Running => (Phase::Running { command }, vec![Effect::Reconnect]),
        Stage::Stopping { next } => {
            let kill_at = now + timing.stop_grace;
            let phase = Phase::Stopping { command, kill_at, next };
            (phase, vec![Effect::Reconnect, Effect::Terminate])
        }
        Stage::Ended { outcome } => (Phase::Ended { command, outcome }, vec![]),
    }
}

//! The life of one instance on this worker.
//!
//! [`step`] is the only place where an instance changes phase. It does no I/O and reads no clock,
//! so that every interleaving of commands, failures and restarts can be tested. What is reported
//! ([`status`]) and what is written down ([`mod@record`]) are functions of the phase: neither can
//! contradict it or be forgotten.
//!
//! Invariant: at most one operation ([`Effect`] with an answering [`Event`]) is under way, and
//! while one other than `Prepare` is, the phase waits for its answer. So an instance is never
//! attached to the network after it was cleared away.

mod phase;
mod record;

use std::time::{Duration, Instant};

use xylem_types::{instance::Generation, mqtt::DeployCommand};

use self::phase::{deletes, wanted_generation};
pub use self::{
    phase::{Attempt, Next, Phase, command, deadline},
    record::{Record, Stage, Status, record, resume, status},
};
use super::outcome::{Exit, Outcome};

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Deploy(Box<DeployCommand>),
    /// Stop this instance if it is of this generation or an older one; `None` = of any.
    Delete {
        generation: Option<Generation>,
    },
    Prepared(Result<(), String>),
    /// The process id of the container's first process.
    Created(Result<i32, String>),
    Attached(Result<(), AttachFailure>),
    Started(Result<(), String>),
    Exited(Exit),
    /// The shim is gone and left no exit status.
    Lost,
    Cleared,
    /// Time has passed; see [`deadline`].
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachFailure {
    /// Nobody answers: worth another try.
    Unavailable(String),
    Refused(String),
}

/// What is to be done. `Prepare`, `Create`, `Attach`, `Start` and `Clear` are answered by an
/// event; a new one takes the place of a `Prepare` under way.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    Prepare,
    Create,
    Attach {
        pid: i32,
    },
    Start,
    /// Find the shim again after a restart of the engine; answered by `Lost` or `Exited` only.
    Reconnect,
    /// Ask the first process to end.
    Terminate,
    Kill,
    /// Kill what is left, detach the network, remove every trace.
    Clear,
    /// Tell the cluster that nothing of this generation or an older one is here (any more).
    ReportGone {
        generation: Generation,
    },
    /// A command for a generation older than the one here was not obeyed.
    Refuse {
        generation: Generation,
        current: Generation,
    },
}

/// Durations that the decisions depend on.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// A silent net manager fails a deployment after this time.
    pub attach_within: Duration,
    /// Between two attempts to reach the net manager.
    pub attach_retry: Duration,
    /// From the request to end to the kill.
    pub stop_grace: Duration,
}

/// A process that was killed and is still there is killed again after this time.
const KILL_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What `event` makes of an instance in `phase`, and what is to be done.
#[must_use]
pub fn step(phase: Phase, event: Event, now: Instant, timing: &Timing) -> (Phase, Vec<Effect>) {
    match event {
        Event::Deploy(command) => deploy(phase, command, now, timing),
        Event::Delete { generation } => delete(phase, generation, now, timing),
        Event::Exited(exit) => over(phase, |command| Outcome::of_exit(exit, command.one_shot)),
        Event::Lost => over(phase, |_| Outcome::Dead {
            detail: "its supervising process is gone (killed, or the machine restarted)".into(),
        }),
        Event::Tick => tick(phase, now),
        answer => progress(phase, answer, now, timing),
    }
}

fn deploy(
    phase: Phase,
    new: Box<DeployCommand>,
    now: Instant,
    timing: &Timing,
) -> (Phase, Vec<Effect>) {
    if let Some(current) = wanted_generation(&phase)
        && new.generation <= current
        // After a deletion that is still under way, the same generation may come back: cluster
        // managers without generations use 0 for everything.
        && !(deletes(&phase) && new.generation == current)
    {
        let refused = new.generation < current;
        let effects = if refused {
            vec![Effect::Refuse { generation: new.generation, current }]
        } else {
            vec![]
        };
        return (phase, effects);
    }
    match phase {
        Phase::Vacant | Phase::Preparing { .. } | Phase::Ended { .. } => {
            (Phase::Preparing { command: new }, vec![Effect::Prepare])
        }
        busy => turn_to(busy, Next::Replace(new), now, timing),
    }
}

fn delete(
    phase: Phase,
    generation: Option<Generation>,
    now: Instant,
    timing: &Timing,
) -> (Phase, Vec<Effect>) {
    let Some(current) = wanted_generation(&phase) else {
        let generation = generation.unwrap_or_default();
        return (phase, vec![Effect::ReportGone { generation }]);
    };
    let generation = generation.unwrap_or(current);
    if generation < current {
        return (phase, vec![Effect::ReportGone { generation }]);
    }
    turn_to(phase, Next::Forget { generation }, now, timing)
}

/// Ends whatever the phase is about, as soon as it can be ended, and then does `next`.
fn turn_to(phase: Phase, next: Next, now: Instant, timing: &Timing) -> (Phase, Vec<Effect>) {
    match phase {
        Phase::Vacant => (Phase::Vacant, vec![]),
        Phase::Preparing { command } | Phase::Ended { command, .. } => clear(command, next),
        Phase::Creating { command, .. } => (Phase::Creating { command, next: Some(next) }, vec![]),
        Phase::Attaching { command, attempt: Attempt::Waiting { .. }, .. } => clear(command, next),
        Phase::Attaching { command, pid, give_up_at, attempt, .. } => {
            (Phase::Attaching { command, pid, give_up_at, attempt, next: Some(next) }, vec![])
        }
        Phase::Starting { command, .. } => (Phase::Starting { command, next: Some(next) }, vec![]),
        Phase::Running { command } => {
            let kill_at = now + timing.stop_grace;
            (Phase::Stopping { command, kill_at, next }, vec![Effect::Terminate])
        }
        Phase::Stopping { command, kill_at, .. } => {
            (Phase::Stopping { command, kill_at, next }, vec![])
        }
        Phase::Clearing { command, .. } => (Phase::Clearing { command, next }, vec![]),
    }
}

fn clear(command: Box<DeployCommand>, next: Next) -> (Phase, Vec<Effect>) {
    (Phase::Clearing { command, next }, vec![Effect::Clear])
}

/// The first process ended, or nobody watches it any more.
fn over(phase: Phase, outcome: impl FnOnce(&DeployCommand) -> Outcome) -> (Phase, Vec<Effect>) {
    match phase {
        // The shim may be gone again before it is known to have come.
        Phase::Creating { command, next } => {
            let next = next.or_else(|| Some(Next::Rest(outcome(&command))));
            (Phase::Creating { command, next }, vec![])
        }
        // A shim that dies while its container is attached: the answer of the net manager is
        // awaited, else it could attach what is already cleared away.
        Phase::Attaching {
            command,
            pid,
            give_up_at,
            attempt: attempt @ Attempt::UnderWay { .. },
            next,
        } => {
            let next = next.or_else(|| Some(Next::Rest(outcome(&command))));
            (Phase::Attaching { command, pid, give_up_at, attempt, next }, vec![])
        }
        Phase::Attaching { command, next, .. } | Phase::Starting { command, next } => {
            let next = next.unwrap_or_else(|| Next::Rest(outcome(&command)));
            clear(command, next)
        }
        Phase::Running { command } => {
            let next = Next::Rest(outcome(&command));
            clear(command, next)
        }
        Phase::Stopping { command, next, .. } => clear(command, next),
        // No process yet, or none any more.
        phase @ (Phase::Vacant
        | Phase::Preparing { .. }
        | Phase::Clearing { .. }
        | Phase::Ended { .. }) => (phase, vec![]),
    }
}

fn tick(phase: Phase, now: Instant) -> (Phase, Vec<Effect>) {
    match phase {
        Phase::Attaching {
            command,
            pid,
            give_up_at,
            attempt: Attempt::Waiting { retry_at, waiting_for },
            next,
        } if now >= retry_at => {
            let attempt = Attempt::UnderWay { waiting_for: Some(waiting_for) };
            let phase = Phase::Attaching { command, pid, give_up_at, attempt, next };
            (phase, vec![Effect::Attach { pid }])
        }
        Phase::Stopping { command, kill_at, next } if now >= kill_at => {
            let kill_at = now + KILL_AGAIN_AFTER;
            (Phase::Stopping { command, kill_at, next }, vec![Effect::Kill])
        }
        phase => (phase, vec![]),
    }
}

/// The answer to an effect. One that the phase does not wait for is out of date.
fn progress(phase: Phase, answer: Event, now: Instant, timing: &Timing) -> (Phase, Vec<Effect>) {
    let failed = |detail| Next::Rest(Outcome::Failed { detail });
    match (phase, answer) {
        (Phase::Preparing { command }, Event::Prepared(Ok(()))) => {
            (Phase::Creating { command, next: None }, vec![Effect::Create])
        }
        (Phase::Preparing { command }, Event::Prepared(Err(detail))) => {
            clear(command, failed(detail))
        }
        (Phase::Creating { command, next: None }, Event::Created(Ok(pid))) => {
            let give_up_at = now + timing.attach_within;
            let attempt = Attempt::UnderWay { waiting_for: None };
            let phase = Phase::Attaching { command, pid, give_up_at, attempt, next: None };
            (phase, vec![Effect::Attach { pid }])
        }
        (Phase::Creating { command, next: Some(next) }, Event::Created(_)) => clear(command, next),
        (Phase::Creating { command, next: None }, Event::Created(Err(detail))) => {
            clear(command, failed(detail))
        }
        (Phase::Attaching { command, next: Some(next), .. }, Event::Attached(_)) => {
            clear(command, next)
        }
        (Phase::Attaching { command, next: None, .. }, Event::Attached(Ok(()))) => {
            (Phase::Starting { command, next: None }, vec![Effect::Start])
        }
        (
            Phase::Attaching { command, pid, give_up_at, next: None, .. },
            Event::Attached(Err(AttachFailure::Unavailable(waiting_for))),
        ) if now < give_up_at => {
            let attempt = Attempt::Waiting { retry_at: now + timing.attach_retry, waiting_for };
            (Phase::Attaching { command, pid, give_up_at, attempt, next: None }, vec![])
        }
        (
            Phase::Attaching { command, next: None, .. },
            Event::Attached(Err(
                AttachFailure::Unavailable(detail) | AttachFailure::Refused(detail),
            )),
        ) => clear(command, failed(detail)),
        (Phase::Starting { command, next: None }, Event::Started(Ok(()))) => {
            (Phase::Running { command }, vec![])
        }
        (Phase::Starting { command, next: Some(next) }, Event::Started(Ok(()))) => {
            turn_to(Phase::Running { command }, next, now, timing)
        }
        (Phase::Starting { command, next }, Event::Started(Err(detail))) => {
            clear(command, next.unwrap_or_else(|| failed(detail)))
        }
        (Phase::Clearing { command, next }, Event::Cleared) => match next {
            Next::Forget { generation } => (Phase::Vacant, vec![Effect::ReportGone { generation }]),
            Next::Replace(command) => (Phase::Preparing { command }, vec![Effect::Prepare]),
            Next::Rest(outcome) => (Phase::Ended { command, outcome }, vec![]),
        },
        (phase, _) => (phase, vec![]),
    }
}

#[cfg(test)]
mod tests;

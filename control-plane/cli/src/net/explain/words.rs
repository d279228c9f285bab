//! The steps of a decision in words: names instead of ids.

use std::collections::BTreeMap;

use net_common::{DropReason, Explanation, InstanceState, Step, StepKind, explain::STEPS};
use serde::Serialize;

use super::super::snapshot::{Snapshot, policy_name};

/// One decision.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct StepView {
    /// Kind of the step, for programs.
    pub(super) kind: String,
    pub(super) text: String,
}

/// What would become of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Delivered,
    Tunnelled,
    LeavesOverlay,
    Parked,
    Passed,
    Dropped,
    Unknown,
}

/// The steps, the verdict, and the verdict in words.
pub(super) fn of(
    snapshot: &Snapshot,
    explanation: &Explanation,
) -> (Vec<StepView>, Verdict, String) {
    let noted = (explanation.len as usize).min(STEPS);
    let mut story = Story { snapshot, slot: 0, instance: None, verdict: Verdict::Unknown };
    let mut summary =
        "unknown: the program noted nothing that ends the packet's way; it may be of \
                       another version than this command"
            .to_owned();
    let mut steps = Vec::new();
    for step in &explanation.steps[..noted] {
        let Some(kind) = StepKind::from_raw(step.kind) else {
            let (kind, value) = (step.kind, step.value);
            steps.push(StepView {
                kind: kind.to_string(),
                text: format!("step {kind} of a newer version, {value} {}", step.addr),
            });
            continue;
        };
        let text = story.text(kind, step);
        steps.push(StepView { kind: name(kind).to_owned(), text });
        if let Some(end) = story.end(kind, step) {
            summary = end;
        }
    }
    if explanation.len as usize > STEPS {
        let text = format!("{} more steps were not kept", explanation.len as usize - STEPS);
        steps.push(StepView { kind: "more".to_owned(), text });
    }
    (steps, story.verdict, summary)
}

/// What the steps so far have told.
struct Story<'a> {
    snapshot: &'a Snapshot,
    /// Of the service that was dialled.
    slot: u32,
    /// That was chosen.
    instance: Option<u32>,
    verdict: Verdict,
}

impl Story<'_> {
    fn text(&mut self, kind: StepKind, &Step { value, addr, .. }: &Step) -> String {
        let snapshot = self.snapshot;
        match kind {
            StepKind::FlowFound => {
                self.instance = (value != 0).then_some(value);
                match value {
                    0 => format!("the packet has a flow, to {addr}"),
                    _ => format!("the packet has a flow: {}, at {addr}", self.name_of(value)),
                }
            }
            StepKind::NoFlow => "no flow: the packet opens one".to_owned(),
            StepKind::Sender if value == 0 => format!("the sender has the instance IP {addr}"),
            StepKind::Sender => {
                format!("the sender is {} with the instance IP {addr}", self.name_of(value))
            }
            StepKind::UnnamedSender => {
                "the sender's own instance IP is not known yet: the cluster has not told it"
                    .to_owned()
            }
            StepKind::Service => {
                self.slot = value;
                match snapshot.name(value) {
                    "" => format!("{addr} is known, slot {value}, without a name"),
                    name => format!("{addr} is an address of the service {name}"),
                }
            }
            StepKind::Policy => format!("its policy is {}", policy_name(value)),
            StepKind::Table => self.table(value),
            StepKind::Chosen => {
                self.instance = Some(value);
                format!("{} is chosen, at {addr}", self.name_of(value))
            }
            StepKind::PassedOver => {
                format!("{} is passed over: {}", self.name_of(value), self.why_not(value))
            }
            StepKind::Deliver => format!("it goes to the interface {value} of this node"),
            StepKind::Tunnel => {
                format!("it goes through the tunnel to the node {}", snapshot.node_name(value))
            }
            StepKind::Outside => format!("it leaves the overlay with the node's address {addr}"),
            StepKind::Miss => format!("nobody has told yet what {addr} is"),
            StepKind::Dropped => "it goes no further".to_owned(),
            StepKind::Passed => "it is none of the overlay's".to_owned(),
        }
    }

    /// Where a step ends the packet's way, how.
    fn end(&mut self, kind: StepKind, step: &Step) -> Option<String> {
        let to = self.instance.map_or(String::new(), |id| format!(" to {}", self.name_of(id)));
        let (verdict, summary) = match kind {
            StepKind::Deliver => (Verdict::Delivered, format!("delivered on this node{to}")),
            StepKind::Tunnel => {
                let node = self.snapshot.node_name(step.value);
                (Verdict::Tunnelled, format!("sent through the tunnel to {node}{to}"))
            }
            StepKind::Outside => {
                (Verdict::LeavesOverlay, "sent out of the overlay, masqueraded".to_owned())
            }
            StepKind::Miss => (
                Verdict::Parked,
                "parked: it waits in the net manager until the cluster has answered".to_owned(),
            ),
            StepKind::Passed => {
                (Verdict::Passed, "left to the kernel's own network stack".to_owned())
            }
            StepKind::Dropped => (
                Verdict::Dropped,
                match DropReason::from_raw(step.value) {
                    Some(reason) => format!("dropped, {}: {}", reason.name(), reason.explanation()),
                    None => format!("dropped for the reason {}, of a newer version", step.value),
                },
            ),
            _ => return None,
        };
        self.verdict = verdict;
        Some(summary)
    }

    fn name_of(&self, id: u32) -> String {
        self.snapshot.instance_name(id)
    }

    fn table(&self, places: u32) -> String {
        let mut weights = BTreeMap::<u32, usize>::new();
        let ids = self.snapshot.tables.get(&self.slot).map_or(&[][..], Vec::as_slice);
        for known in ids.iter().filter_map(|id| self.snapshot.instances.get(id)) {
            *weights.entry(known.entry.number).or_default() += 1;
        }
        let shares: Vec<_> = weights
            .iter()
            .map(|(number, weight)| {
                format!("instance {number} {:.0}%", *weight as f64 * 100.0 / ids.len() as f64)
            })
            .collect();
        match shares.len() {
            0 => format!("its lookup table has {places} places"),
            1..=8 => format!("its lookup table has {places} places: {}", shares.join(", ")),
            many => format!("its lookup table has {places} places for {many} instances"),
        }
    }

    /// Why an instance cannot take the flow, as far as the maps tell.
    fn why_not(&self, id: u32) -> &'static str {
        let state = self.snapshot.instances.get(&id).map(|known| known.entry.state);
        match state.and_then(InstanceState::from_raw) {
            Some(InstanceState::Draining) => "it is draining",
            Some(InstanceState::Up) => "it is up, but its answers would meet another flow's",
            Some(InstanceState::Absent) | None => "it is gone",
        }
    }
}

fn name(kind: StepKind) -> &'static str {
    match kind {
        StepKind::FlowFound => "flow-found",
        StepKind::NoFlow => "no-flow",
        StepKind::Sender => "sender",
        StepKind::UnnamedSender => "unnamed-sender",
        StepKind::Service => "service",
        StepKind::Policy => "policy",
        StepKind::Table => "table",
        StepKind::Chosen => "chosen",
        StepKind::PassedOver => "passed-over",
        StepKind::Deliver => "deliver",
        StepKind::Tunnel => "tunnel",
        StepKind::Outside => "outside",
        StepKind::Miss => "miss",
        StepKind::Dropped => "dropped",
        StepKind::Passed => "passed",
    }
}

//! One flow: the two entries that the flow table has of it, side by side.
//!
//! Nothing is copied or put into words here: a table may hold a million of them, of which a screen
//! shows thirty.

use std::collections::HashMap;

use clap::ValueEnum;
use net_common::{
    Flow,
    flow::flags::{CLOSING, CONFIRMED, REPLY, RESET},
};
use serde::Serialize;

use super::{
    flow_ends::{Ends, Pairing},
    snapshot::Snapshot,
};

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Its two sides have not both answered yet
    Opening,
    /// They have
    Established,
    /// A TCP FIN went by
    Closing,
    /// A TCP RST went by
    Reset,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Reset => "reset",
        }
    }
}

/// What the flow table has of one flow: one entry, or both.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    pub(super) ends: Ends,
    question: Option<&'a Flow>,
    reply: Option<&'a Flow>,
}

/// The flows of a snapshot, in no order.
pub(super) fn rows(snapshot: &Snapshot) -> Vec<Row<'_>> {
    let mut places = HashMap::<Pairing, usize>::with_capacity(snapshot.flows.len() / 2 + 1);
    let mut rows = Vec::<Row<'_>>::with_capacity(snapshot.flows.len() / 2 + 1);
    for (key, flow) in &snapshot.flows {
        let ends = Ends::of(key, flow);
        let place = *places.entry(ends.pairing()).or_insert_with(|| {
            rows.push(Row { ends, question: None, reply: None });
            rows.len() - 1
        });
        let row = &mut rows[place];
        if flow.flags & REPLY == 0 {
            (row.ends, row.question) = (ends, Some(flow));
        } else {
            row.reply = Some(flow);
        }
    }
    rows
}

impl<'a> Row<'a> {
    fn entries(&self) -> impl Iterator<Item = &'a Flow> {
        self.question.into_iter().chain(self.reply)
    }

    fn flags(&self) -> u32 {
        self.entries().fold(0, |flags, flow| flags | flow.flags)
    }

    pub(super) fn state(&self) -> State {
        let flags = self.flags();
        if flags & RESET != 0 {
            State::Reset
        } else if flags & CLOSING != 0 {
            State::Closing
        } else if flags & CONFIRMED != 0 {
            State::Established
        } else {
            State::Opening
        }
    }

    /// Id of the instance that it leads to or, to the outside, comes from.
    pub(super) fn instance(&self) -> Option<u32> {
        self.entries().map(|flow| flow.instance).find(|id| *id != 0)
    }

    /// Slot of what was dialled or, where only the client's node knows that, of what was reached.
    pub(super) fn slot(&self, snapshot: &Snapshot) -> u32 {
        let dialled = self.entries().map(|flow| flow.service).find(|slot| *slot != 0);
        let reached = || Some(snapshot.instances.get(&self.instance()?)?.entry.service);
        dialled.or_else(reached).unwrap_or(0)
    }

    /// Packets and bytes that the client sent.
    pub(super) fn sent(&self) -> (u64, u64) {
        self.question.map_or((0, 0), |flow| (flow.packets, flow.bytes))
    }

    /// Packets and bytes that it received.
    pub(super) fn received(&self) -> (u64, u64) {
        self.reply.map_or((0, 0), |flow| (flow.packets, flow.bytes))
    }

    pub(super) fn packets(&self) -> u64 {
        self.sent().0.saturating_add(self.received().0)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.sent().1.saturating_add(self.received().1)
    }

    pub(super) fn created_ns(&self) -> u64 {
        self.entries().map(|flow| flow.created_ns).min().unwrap_or(0)
    }

    pub(super) fn last_seen_ns(&self) -> u64 {
        self.entries().map(|flow| flow.last_seen_ns).max().unwrap_or(0)
    }
}

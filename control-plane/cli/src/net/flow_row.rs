//! One flow: what the flow table's two entries say of it, together.
//!
//! Nothing is put into words here, and of an entry only what is shown is kept: a table may hold a
//! million of them, of which a screen shows thirty.

use std::hash::{BuildHasher, RandomState};

use clap::ValueEnum;
use hashbrown::HashTable;
use net_common::{
    Flow,
    flow::flags::{CLOSING, CONFIRMED, REPLY, RESET},
};
use serde::Serialize;

use super::{flow_ends::Ends, snapshot::Snapshot};

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
pub(super) struct Row {
    pub(super) ends: Ends,
    flags: u32,
    instance: u32,
    service: u32,
    /// Packets and bytes.
    sent: (u64, u64),
    received: (u64, u64),
    created_ns: u64,
    last_seen_ns: u64,
}

/// Brings the two entries of each flow together, in whatever order they come.
#[derive(Debug, Default)]
pub(super) struct Rows {
    rows: Vec<Row>,
    /// Indices of `rows`, by what pairs entries: the rows have that themselves.
    places: HashTable<u32>,
    hasher: RandomState,
}

impl Rows {
    /// Adds an entry, whose ends these are.
    pub(super) fn add(&mut self, ends: Ends, flow: &Flow) {
        let Self { rows, places, hasher } = self;
        let pairing = ends.pairing();
        let is_same = |place: &u32| rows[*place as usize].ends.pairing() == pairing;
        let hash = hasher.hash_one(pairing);
        if let Some(place) = places.find(hash, is_same) {
            rows[*place as usize].add(ends, flow);
            return;
        }
        // No table of flows has room for more than 2³² entries.
        let place = rows.len() as u32;
        rows.push(Row::new(ends, flow));
        let rehash = |place: &u32| hasher.hash_one(rows[*place as usize].ends.pairing());
        places.insert_unique(hash, place, rehash);
    }

    /// In no order.
    pub(super) fn into_vec(self) -> Vec<Row> {
        self.rows
    }
}

impl Row {
    fn new(ends: Ends, flow: &Flow) -> Self {
        let mut row = Self {
            ends,
            flags: 0,
            instance: 0,
            service: 0,
            sent: (0, 0),
            received: (0, 0),
            created_ns: u64::MAX,
            last_seen_ns: 0,
        };
        row.add(ends, flow);
        row
    }

    fn add(&mut self, ends: Ends, flow: &Flow) {
        let counted = (flow.packets, flow.bytes);
        if flow.flags & REPLY == 0 {
            // It knows where the packets go; the answers, only where they come from.
            (self.ends, self.sent) = (ends, counted);
        } else {
            self.received = counted;
        }
        self.flags |= flow.flags;
        let known = |known: u32, told: u32| if known == 0 { told } else { known };
        self.instance = known(self.instance, flow.instance);
        self.service = known(self.service, flow.service);
        self.created_ns = self.created_ns.min(flow.created_ns);
        self.last_seen_ns = self.last_seen_ns.max(flow.last_seen_ns);
    }

    pub(super) fn state(&self) -> State {
        let flags = self.flags;
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
        (self.instance != 0).then_some(self.instance)
    }

    /// Slot of what was dialled or, where only the client's node knows that, of what was reached.
    pub(super) fn slot(&self, snapshot: &Snapshot) -> u32 {
        let reached = || Some(snapshot.instances.get(&self.instance()?)?.entry.service);
        if self.service == 0 { reached().unwrap_or(0) } else { self.service }
    }

    /// Packets and bytes that the client sent.
    pub(super) fn sent(&self) -> (u64, u64) {
        self.sent
    }

    /// Packets and bytes that it received.
    pub(super) fn received(&self) -> (u64, u64) {
        self.received
    }

    pub(super) fn packets(&self) -> u64 {
        self.sent.0.saturating_add(self.received.0)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.sent.1.saturating_add(self.received.1)
    }

    pub(super) fn created_ns(&self) -> u64 {
        self.created_ns
    }

    pub(super) fn last_seen_ns(&self) -> u64 {
        self.last_seen_ns
    }
}

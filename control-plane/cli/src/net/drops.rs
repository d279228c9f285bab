//! `xylem net drops`: how many packets were dropped, and why.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

use net_common::{DropReason, Event, EventKind};
use serde::Serialize;

use super::{events::ends, snapshot::Snapshot};
use crate::{
    format,
    output::{self, Format},
    table::Table,
};

#[derive(Debug, Serialize)]
pub(crate) struct DropView {
    reason: &'static str,
    packets: u64,
    /// From the Ethernet header on.
    bytes: u64,
    explanation: &'static str,
    /// The last packets that were dropped for this reason while it was watched.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    samples: Vec<String>,
}

/// Samples kept of one reason.
const SAMPLES: usize = 3;

/// The last of the packets that were dropped, by reason.
#[derive(Debug, Default)]
pub(crate) struct Samples(BTreeMap<u32, VecDeque<String>>);

impl Samples {
    pub(super) fn add(&mut self, event: &Event) {
        if event.kind != EventKind::Dropped as u32 {
            return;
        }
        let samples = self.0.entry(event.value).or_default();
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(ends(event));
    }

    fn of(&self, reason: DropReason) -> Vec<String> {
        self.0.get(&(reason as u32)).into_iter().flatten().cloned().collect()
    }
}

/// The reasons for which packets were dropped, most packets first; with `all`, those for which
/// none was dropped too.
pub(crate) fn views(snapshot: &Snapshot, samples: &Samples, all: bool) -> Vec<DropView> {
    let mut views: Vec<_> = snapshot
        .drops
        .iter()
        .filter(|(_, counter)| all || counter.packets != 0)
        .map(|(reason, counter)| DropView {
            reason: reason.name(),
            packets: counter.packets,
            bytes: counter.bytes,
            explanation: reason.explanation(),
            samples: samples.of(*reason),
        })
        .collect();
    views.sort_by(|a, b| b.packets.cmp(&a.packets).then(a.reason.cmp(b.reason)));
    views
}

/// # Errors
/// Those of the writer.
pub(crate) fn render(
    out: &mut impl io::Write,
    format: Format,
    views: &[DropView],
) -> io::Result<()> {
    output::list(out, format, views, |views| {
        let mut table =
            Table::new(["REASON", "PACKETS", "BYTES", "MEANING"]).right_aligned(&[1, 2]);
        for view in views {
            table.row([
                view.reason.to_owned(),
                view.packets.to_string(),
                format::bytes(view.bytes),
                view.explanation.to_owned(),
            ]);
            for sample in &view.samples {
                table.row([
                    String::new(),
                    String::new(),
                    String::new(),
                    format!("last seen: {sample}"),
                ]);
            }
        }
        table
    })
}

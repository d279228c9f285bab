//! `xylem net drops`: how many packets were dropped, and why.

use std::io;

use serde::Serialize;

use super::snapshot::Snapshot;
use crate::{
    format,
    output::{self, Format},
    table::Table,
};

#[derive(Debug, Serialize)]
pub(crate) struct DropView {
    reason: &'static str,
    packets: u64,
    bytes: u64,
    explanation: &'static str,
}

/// The reasons for which packets were dropped, most packets first; with `all`, those for which
/// none was dropped too.
pub(crate) fn views(snapshot: &Snapshot, all: bool) -> Vec<DropView> {
    let mut views: Vec<_> = snapshot
        .drops
        .iter()
        .filter(|(_, counter)| all || counter.packets != 0)
        .map(|(reason, counter)| DropView {
            reason: reason.name(),
            packets: counter.packets,
            bytes: counter.bytes,
            explanation: reason.explanation(),
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
        }
        table
    })
}

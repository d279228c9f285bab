//! What a command prints on stdout: a table for people or JSON for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::{Serialize, Serializer};

use crate::table::Table;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    /// The API's own structures, unabridged; an empty list is `[]`.
    Json,
}

/// Writes `items` as JSON, or as the table that `table` makes of them.
///
/// # Errors
/// Those of the writer.
pub(crate) fn list<T: Serialize>(
    out: &mut impl Write,
    format: Format,
    items: &[T],
    table: impl FnOnce(&[T]) -> Table,
) -> io::Result<()> {
    match format {
        Format::Table => table(items).write_to(out),
        Format::Json => json(out, items),
    }
}

/// # Errors
/// Those of the writer.
pub(crate) fn json<T: Serialize + ?Sized>(out: &mut impl Write, value: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

/// A list whose items are made as they are written.
///
/// # Errors
/// Those of the writer.
pub(crate) fn json_each<T: Serialize>(
    out: &mut impl Write,
    items: impl Iterator<Item = T>,
) -> io::Result<()> {
    serde_json::Serializer::pretty(&mut *out).collect_seq(items)?;
    writeln!(out)
}

/// As [`json_each`], in one line.
///
/// # Errors
/// Those of the writer.
pub(crate) fn json_line_each<T: Serialize>(
    out: &mut impl Write,
    items: impl Iterator<Item = T>,
) -> io::Result<()> {
    serde_json::Serializer::new(&mut *out).collect_seq(items)?;
    writeln!(out)
}

/// One line, for who reads a stream of them.
///
/// # Errors
/// Those of the writer.
pub(crate) fn json_line<T: Serialize + ?Sized>(out: &mut impl Write, value: &T) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

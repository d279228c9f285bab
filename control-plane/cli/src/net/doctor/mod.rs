//! `xylem net doctor`: what the kernel and the data path are like, what was chosen, and why.

mod checks;
mod data_path;
mod facts;
mod xdp;

use std::{io::Write, path::Path};

use anyhow::bail;

use self::{
    checks::{Check, Status},
    facts::Facts,
};
use crate::{
    output::{self, Format},
    paint::{Colour, Paint},
    table::Table,
};

/// # Errors
/// Something is missing that the data path cannot work without, or the writer fails.
pub(super) fn run(
    bpffs: &Path,
    format: Format,
    paint: Paint,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let checks = checks::all(&Facts::gather(bpffs));
    render(out, format, paint, &checks)?;
    out.flush()?;
    let missing: Vec<_> = checks
        .iter()
        .filter(|check| check.status == Status::Missing)
        .map(|check| check.feature)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("missing: {}", missing.join(", "))
}

fn render(
    out: &mut impl Write,
    format: Format,
    paint: Paint,
    checks: &[Check],
) -> std::io::Result<()> {
    if format == Format::Json {
        return output::json(out, checks);
    }
    let mut table = Table::new(["STATUS", "FEATURE", "FOUND", "CHOSEN", "WHY"]);
    for check in checks {
        table.row([
            check.status.name().to_owned(),
            check.feature.to_owned(),
            check.found.clone(),
            check.chosen.clone(),
            check.why.clone(),
        ]);
    }
    let mut text = Vec::new();
    table.write_to(&mut text)?;
    // The status is the first word of a line; painted before, it would count for the width.
    let statuses = std::iter::once(None).chain(checks.iter().map(|check| Some(check.status)));
    for (line, status) in String::from_utf8_lossy(&text).lines().zip(statuses) {
        match status {
            Some(status) => {
                let rest = line.strip_prefix(status.name()).unwrap_or(line);
                writeln!(out, "{}{rest}", paint.on(colour(status), status.name()))?;
            }
            None => writeln!(out, "{line}")?,
        }
    }
    for check in checks {
        if let Some(todo) = &check.todo {
            writeln!(out, "{}: {todo}", paint.on(colour(check.status), check.feature))?;
        }
    }
    Ok(())
}

fn colour(status: Status) -> Colour {
    match status {
        Status::Ok => Colour::Green,
        Status::Off => Colour::Plain,
        Status::Warning => Colour::Yellow,
        Status::Missing => Colour::Red,
    }
}

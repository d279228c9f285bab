//! Shows something again and again until it is interrupted.

use std::{
    io::{self, IsTerminal, Write},
    thread,
    time::Duration,
};

use crate::output::Format;

/// Clears the screen and goes to its top left corner (ECMA-48).
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Whether a table is drawn in place of the one before it.
pub(super) fn redraws(format: Format) -> bool {
    format == Format::Table && io::stdout().is_terminal()
}

/// Calls `show` every `interval`; it returns when it fails, as it does when nobody reads on.
///
/// # Errors
/// Those of `show` and of the writer.
pub(super) fn every(
    interval: Duration,
    format: Format,
    out: &mut impl Write,
    mut show: impl FnMut(&mut Vec<u8>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let redraws = redraws(format);
    let mut is_first = true;
    loop {
        // Whole, so that a screen never shows half of it.
        let mut shown = Vec::new();
        show(&mut shown)?;
        if redraws {
            out.write_all(CLEAR.as_bytes())?;
        } else if !is_first && format == Format::Table {
            writeln!(out)?;
        }
        out.write_all(&shown)?;
        out.flush()?;
        is_first = false;
        #[expect(
            clippy::disallowed_methods,
            reason = "nothing else runs, and nothing tells of news"
        )]
        thread::sleep(interval);
    }
}

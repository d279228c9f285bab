//! How a command ends: exit code 0 done, 1 failed, 2 wrongly used (clap's own code too).

use std::{
    io::{self, Write},
    process::ExitCode,
};

/// The command as typed cannot be carried out; nothing was tried. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Turns the result of a command into the exit code, and says on stderr what went wrong.
pub(crate) fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if is_closed_pipe(&error) {
        // The reader (`| head`) has what it wanted.
        return ExitCode::SUCCESS;
    }
    // Nothing is left to be told if stderr is closed as well.
    let _ = writeln!(io::stderr(), "xylem: {error:#}");
    if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    })
}

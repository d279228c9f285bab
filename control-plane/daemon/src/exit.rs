//! How a daemon ends.

use std::{error::Error, process::ExitCode};

use crate::Chain;

/// 0, or 1 for an error, which is said in the log.
pub fn exit_code<E: AsRef<dyn Error + 'static>>(outcome: Result<(), E>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = %Chain(error.as_ref()), "cannot go on");
            ExitCode::FAILURE
        }
    }
}

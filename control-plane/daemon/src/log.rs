//! The log: on standard error, as much of it as `XYLEM_LOG` says.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, filter::ParseError};

/// The environment variable with the filter.
const VARIABLE: &str = "XYLEM_LOG";

/// The filter cannot be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "{VARIABLE} is {text:?}, and must be a filter such as \"info\" or \"warn,xylem_root=debug\""
)]
pub struct BadFilter {
    text: String,
    source: ParseError,
}

/// Writes a log from here on, as `XYLEM_LOG` says, else as `default` does.
///
/// # Errors
/// When what `XYLEM_LOG` says is no filter; the log is as `default` says then, so that the error
/// can be said in it.
pub fn init(default: &str) -> Result<(), BadFilter> {
    let Ok(text) = std::env::var(VARIABLE) else {
        init_with(EnvFilter::new(default));
        return Ok(());
    };
    match EnvFilter::try_new(&text) {
        Ok(filter) => {
            init_with(filter);
            Ok(())
        }
        Err(source) => {
            init_with(EnvFilter::new(default));
            Err(BadFilter { text, source })
        }
    }
}

/// Writes a log from here on, whatever the environment says.
pub fn init_with(filter: EnvFilter) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

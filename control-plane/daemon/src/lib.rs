//! What every daemon does around its work: it reads its settings, writes a log, ends at a signal,
//! and says with which error it could not go on.
//!
//! Settings come from a flag, else the environment, else a TOML file, else a default. A daemon
//! declares them once, as a `Settings` whose fields are all optional: clap fills one from flags and
//! environment, [`settings::read`] another from the file.

mod chain;
mod exit;
pub mod log;
pub mod settings;
mod stop;

pub use chain::Chain;
pub use exit::exit_code;
pub use stop::at_signal;

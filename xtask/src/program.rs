//! `cargo xtask demo` and `bench`: build everything, then become a program of their own, so that
//! the other commands need not be built with all that these use.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Error, Result};

use crate::{build, command::workspace};

/// Returns only if the program cannot be built or started.
pub(crate) fn become_program(name: &str, options: &[String]) -> Result<()> {
    build::everything()?;
    let program = build::target_folder().join(name);
    let error = Command::new(&program).args(options).current_dir(workspace()).exec();
    Err(Error::new(error).context(format!("cannot start {}", program.display())))
}

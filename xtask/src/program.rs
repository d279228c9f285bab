//! `cargo xtask demo` and `bench`: build everything, then become a program of their own, so that
//! the other commands need not be built with all that these use.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Error, Result};

use crate::{
    build::{self, Profile},
    command::workspace,
};

/// Returns only if the program cannot be built or started.
pub(crate) fn become_program(name: &str, profile: Profile, options: &[String]) -> Result<()> {
    build::everything(profile)?;
    let program = profile.folder().join(name);
    let error = Command::new(&program).args(options).current_dir(workspace()).exec();
    Err(Error::new(error).context(format!("cannot start {}", program.display())))
}

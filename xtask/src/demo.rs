//! `cargo xtask demo`: builds everything, then becomes the demo.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Error, Result};

use crate::{build, command::workspace};

/// A program of its own, so that the other commands need not be built with all that it uses.
pub(crate) fn demo(options: &[String]) -> Result<()> {
    build::everything()?;
    let program = build::target_folder().join("xylem-demo");
    let error = Command::new(&program).args(options).current_dir(workspace()).exec();
    Err(Error::new(error).context(format!("cannot start {}", program.display())))
}

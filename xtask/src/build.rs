//! Building everything, each part once: the same packages and features for build and test, so
//! that nothing is compiled a second time for the other.

use std::{
    env::{self, consts::ARCH},
    path::PathBuf,
};

use anyhow::{Context, Result};

use crate::{
    command::{cargo, run},
    ebpf, setup,
};

/// The workspace less the crate that is compiled for the kernel only.
pub(crate) const HOST_PACKAGES: [&str; 3] = ["--workspace", "--exclude", "net-ebpf"];

/// Kernel programs, daemons, tools, and the demo's application.
pub(crate) fn everything() -> Result<()> {
    let tools = setup::run()?;
    ebpf::build(&tools)?;
    run(cargo().arg("build").args(HOST_PACKAGES).arg("--bins"))
        .context("the programs do not build")?;
    demo_app()
}

/// Where cargo puts the programs: where we are.
pub(crate) fn target_folder() -> PathBuf {
    let this = env::current_exe().expect("a program has a path");
    this.parent().expect("a program is in a folder").to_owned()
}

/// The application that containers run: static, since its image has no libraries.
fn demo_app() -> Result<()> {
    let target = format!("{ARCH}-unknown-linux-gnu");
    run(cargo()
        .args(["build", "--quiet", "--package", "demo-app", "--target", &target])
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static"))
    .context("the demo's application does not build")
}

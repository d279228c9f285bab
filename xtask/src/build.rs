//! Building everything, each part once: the same packages and features for build and test, so
//! that nothing is compiled a second time for the other.

use std::{
    env::{self, consts::ARCH},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    command::{cargo, run},
    ebpf, setup,
};

/// The workspace less the crate that is compiled for the kernel only.
pub(crate) const HOST_PACKAGES: [&str; 3] = ["--workspace", "--exclude", "net-ebpf"];

/// How programs are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quickly, as tests and the demo want it.
    Dev,
    /// As operators run them, for what is measured.
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }

    /// Where cargo puts the programs: beside this one's folder, which is another profile's perhaps.
    pub(crate) fn folder(self) -> PathBuf {
        let folder = if self == Self::Dev { "debug" } else { self.name() };
        let this = env::current_exe().expect("a program has a path");
        let target = this.parent().and_then(Path::parent).expect("cargo made two folders");
        target.join(folder)
    }
}

/// Kernel programs, daemons, tools, and the demo's application.
pub(crate) fn everything(profile: Profile) -> Result<()> {
    let tools = setup::run()?;
    ebpf::build(&tools)?;
    run(cargo().arg("build").args(HOST_PACKAGES).args(["--bins", "--profile", profile.name()]))
        .context("the programs do not build")?;
    demo_app(profile)
}

/// The application that containers run: static, since its image has no libraries.
fn demo_app(profile: Profile) -> Result<()> {
    let target = format!("{ARCH}-unknown-linux-gnu");
    run(cargo()
        .args(["build", "--quiet", "--package", "demo-app", "--target", &target])
        .args(["--profile", profile.name()])
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static"))
    .context("the demo's application does not build")
}

//! `cargo xtask setup`: what the other commands need, found or installed.
//!
//! Everything is checked each time and nothing is remembered, so that it is right also after
//! someone removed a package; when nothing is missing it takes a fraction of a second and says
//! nothing but one line.

use std::fs;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};

use crate::{
    linker::{self, Linker},
    packages,
    toolchain::{self, Toolchain},
};

/// What was found or installed.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) toolchain: Toolchain,
    pub(crate) linker: Linker,
}

pub(crate) fn run() -> Result<Tools> {
    packages::ensure(&packages::TOOLS)?;
    let toolchain = compiler()?;
    let linker = linker::find_or_install(&toolchain)?;
    mount_bpffs()?;
    eprintln!(
        "setup: complete (kernel programs by {}, {})",
        toolchain.origin,
        linker.program.display()
    );
    Ok(Tools { toolchain, linker })
}

fn compiler() -> Result<Toolchain> {
    if let Ok(toolchain) = toolchain::find() {
        return Ok(toolchain);
    }
    packages::ensure(&packages::BPF_COMPILER)?;
    toolchain::find().or_else(|toolchain::NotFound(refused)| {
        bail!(
            "no compiler for the kernel programs, not even after installing Debian's:\n  {}\n\
             Add the sources to a rustup toolchain whose LLVM is {}: rustup component add rust-src",
            refused.join("\n  "),
            toolchain::LLVM_MAJOR,
        )
    })
}

/// Maps, links and programs are pinned here; minimal systems do not mount it by themselves.
fn mount_bpffs() -> Result<()> {
    const BPFFS: &str = "/sys/fs/bpf";
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    let mounted = mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    });
    if mounted {
        return Ok(());
    }
    let by_hand = format!("mount -t bpf bpf {BPFFS}");
    if !nix::unistd::geteuid().is_root() {
        bail!("the BPF file system is not mounted, which needs root: {by_hand}");
    }
    eprintln!("setup: mounting the BPF file system at {BPFFS}: pinned maps live there");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=700"))
        .with_context(|| format!("cannot mount it; see what happens on: {by_hand}"))
}

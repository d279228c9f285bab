//! bpf-linker, which turns rustc's LLVM bitcode into one BPF object with BTF.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    command::{cargo, cargo_bin, output, run, without_cargo_environment, workspace},
    toolchain::{LLVM_MAJOR, Toolchain},
};

/// The release built for LLVM [`LLVM_MAJOR`].
pub(crate) const VERSION: &str = "0.10.4";

/// bpf-linker and the folder to put on its `LD_LIBRARY_PATH`.
#[derive(Debug)]
pub(crate) struct Linker {
    pub(crate) program: PathBuf,
    pub(crate) library_path: PathBuf,
}

/// Finds the linker of the right version, or installs it: into cargo's own folder if there is
/// none yet, else below `target`, so as not to replace a version that another project uses.
pub(crate) fn find_or_install(toolchain: &Toolchain) -> Result<Linker> {
    let library_path = library_folder(&toolchain.llvm)?;
    let own = workspace().join("target/tools");
    let on_path = env::var_os("PATH").unwrap_or_default();
    let folders =
        [own.join("bin")].into_iter().chain(cargo_bin()).chain(env::split_paths(&on_path));

    let mut another_there = false;
    for program in folders.map(|folder| folder.join("bpf-linker")).filter(|path| path.is_file()) {
        if is_ours(&program, &library_path) {
            return Ok(Linker { program, library_path });
        }
        another_there = true;
    }

    eprintln!(
        "setup: installing bpf-linker {VERSION}: it links the kernel programs (about a minute)"
    );
    let mut install = cargo();
    without_cargo_environment(&mut install);
    install.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"]);
    let bin = match cargo_bin() {
        Some(bin) if !another_there => bin,
        _ => {
            install.arg("--root").arg(&own);
            own.join("bin")
        }
    };
    run(&mut install).context(
        "bpf-linker could not be installed; it comes from the crate registry, so check the \
         network, or install it by hand: cargo install bpf-linker --locked --version 0.10.4",
    )?;
    Ok(Linker { program: bin.join("bpf-linker"), library_path })
}

fn is_ours(program: &Path, library_path: &Path) -> bool {
    let mut ask = Command::new(program);
    ask.env("LD_LIBRARY_PATH", library_path).arg("--version");
    output(&mut ask).is_ok_and(|text| text.split_whitespace().next_back() == Some(VERSION))
}

/// A folder with nothing but the compiler's LLVM in it: the linker loads the first `libLLVM*`
/// that it finds, of whatever version, and where a distribution keeps its libraries there may
/// be several.
fn library_folder(llvm: &Path) -> Result<PathBuf> {
    let folder = workspace().join("target/bpf/llvm");
    let link = folder.join(format!("libLLVM-{LLVM_MAJOR}.so"));
    if fs::read_link(&link).is_ok_and(|target| target == llvm) {
        return Ok(folder);
    }
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir_all(&folder).and_then(|()| symlink(llvm, &link)),
    }
    .with_context(|| format!("cannot write {}", folder.display()))?;
    Ok(folder)
}

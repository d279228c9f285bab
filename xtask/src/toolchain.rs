//! The compiler for the kernel programs.
//!
//! `bpfel-unknown-none` has no prebuilt `core`, so the compiler must come with its own sources
//! (`rust-src`), and its LLVM must be the one that bpf-linker speaks. A distribution's rustc with
//! its source package will do, and so will any rustup toolchain with the `rust-src` component;
//! the unstable flag this needs is opened by `RUSTC_BOOTSTRAP`, on stable compilers too.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::command::{output, without_cargo_environment};

/// LLVM's major version for which [`crate::linker::VERSION`] is built.
pub(crate) const LLVM_MAJOR: u32 = 22;

/// A compiler that can build the kernel programs.
#[derive(Debug)]
pub(crate) struct Toolchain {
    /// For people: where it came from.
    pub(crate) origin: String,
    pub(crate) cargo: PathBuf,
    pub(crate) rustc: PathBuf,
    /// The compiler's LLVM as a shared library, which bpf-linker loads at run time.
    pub(crate) llvm: PathBuf,
}

/// What was looked at, and why none of it would do.
#[derive(Debug)]
pub(crate) struct NotFound(pub(crate) Vec<String>);

/// Looks at the distribution's compiler first, then at rustup's toolchains.
pub(crate) fn find() -> Result<Toolchain, NotFound> {
    let mut refused = Vec::new();
    let distribution = ("/usr/bin/rustc".to_owned(), PathBuf::from("/usr/bin"));
    for (origin, bin) in std::iter::once(distribution).chain(rustup_toolchains()) {
        match examine(&origin, &bin) {
            Ok(toolchain) => return Ok(toolchain),
            Err(reason) => refused.push(format!("{origin}: {reason:#}")),
        }
    }
    Err(NotFound(refused))
}

/// Names and `bin` folders of rustup's toolchains; none where rustup is not installed.
fn rustup_toolchains() -> Vec<(String, PathBuf)> {
    let Ok(list) = output(Command::new("rustup").args(["toolchain", "list", "--verbose"])) else {
        return Vec::new();
    };
    list.lines()
        .filter_map(|line| {
            let name = line.split_whitespace().next()?;
            let folder = line.split_whitespace().next_back().filter(|f| f.starts_with('/'))?;
            Some((format!("rustup toolchain {name}"), Path::new(folder).join("bin")))
        })
        .collect()
}

fn examine(origin: &str, bin: &Path) -> Result<Toolchain> {
    let (cargo, rustc) = (bin.join("cargo"), bin.join("rustc"));
    for program in [&cargo, &rustc] {
        if !program.is_file() {
            bail!("no {}", program.display());
        }
    }
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(&rustc);
        without_cargo_environment(&mut command);
        output(command.args(arguments))
    };
    let version = ask(&["--version", "--verbose"])?;
    let major = llvm_major(&version).context("its LLVM version is not told by `rustc -vV`")?;
    if major != LLVM_MAJOR {
        bail!("it has LLVM {major}, bpf-linker needs LLVM {LLVM_MAJOR}");
    }
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
    let core = sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if !core.is_file() {
        bail!("it is without the sources of `core` (rust-src)");
    }
    let llvm = llvm_library(&sysroot)
        .with_context(|| format!("its libLLVM {LLVM_MAJOR} was not found as a shared library"))?;
    Ok(Toolchain { origin: origin.to_owned(), cargo, rustc, llvm })
}

fn llvm_major(version: &str) -> Option<u32> {
    let text = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    text.split('.').next()?.trim().parse().ok()
}

/// A toolchain brings its LLVM along in `lib`; a distribution keeps it where all libraries are.
fn llvm_library(sysroot: &Path) -> Option<PathBuf> {
    let prefixes = [format!("libLLVM.so.{LLVM_MAJOR}"), format!("libLLVM-{LLVM_MAJOR}")];
    let multiarch = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
    [sysroot.join("lib"), sysroot.join(multiarch), sysroot.join("lib64")].iter().find_map(
        |folder| {
            let entries = folder.read_dir().ok()?;
            entries.flatten().map(|entry| entry.path()).find(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                prefixes.iter().any(|prefix| name.starts_with(prefix)) && is_elf(path)
            })
        },
    )
}

/// Beside the library there is a linker script of a similar name, which cannot be loaded.
fn is_elf(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_version_is_read_from_the_compilers_own_words() {
        let text = "rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(text), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }
}

//! `cargo xtask ci`: every gate that a change has to pass, cheapest first.

use anyhow::{Context, Result};

use crate::{
    build::HOST_PACKAGES,
    command::{cargo, output, run},
    ebpf, packages, setup, test,
};

pub(crate) fn ci() -> Result<()> {
    let tools = setup::run()?;
    run(cargo().args(["fmt", "--all", "--check"])).context("run `cargo fmt --all`")?;
    // The daemons embed the object, so even looking at them needs it.
    ebpf::build(&tools)?;
    ebpf::judge_budget()?;
    packages::ensure(&[packages::BPF_CLIPPY])?;
    run(ebpf::clippy(&tools).args(["--", "-Dwarnings"]))
        .context("clippy on the kernel programs")?;
    run(cargo().arg("clippy").args(HOST_PACKAGES).args(["--all-targets", "--", "-Dwarnings"]))
        .context("clippy")?;
    run(cargo()
        .arg("doc")
        .args(HOST_PACKAGES)
        .args(["--no-deps", "--document-private-items"])
        // Who reads the private items can follow links to them.
        .env("RUSTDOCFLAGS", "-Dwarnings -Arustdoc::private_intra_doc_links"))
    .context("rustdoc")?;
    deny()?;
    test::test(None)
}

/// Licences, sources and duplicates of what we depend on; and known holes, where the database of
/// them can be fetched.
fn deny() -> Result<()> {
    let installed = output(cargo().args(["deny", "--version"])).is_ok();
    if !installed {
        eprintln!("ci: installing cargo-deny: it checks what we depend on (some minutes)");
        run(cargo().args(["install", "cargo-deny", "--locked"]))
            .context("cargo-deny could not be installed from the crate registry")?;
    }
    run(cargo().args(["deny", "--all-features", "check", "bans", "licenses", "sources"]))
        .context("cargo deny")?;
    if run(cargo().args(["deny", "fetch", "db"])).is_err() {
        eprintln!("ci: advisories are NOT checked: their database could not be fetched");
        return Ok(());
    }
    run(cargo().args(["deny", "--all-features", "check", "advisories"])).context("cargo deny")
}

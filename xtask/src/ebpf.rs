//! `cargo xtask build-ebpf`: the kernel programs, as one object that the daemons embed.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{
    budget,
    command::{run, without_cargo_environment, workspace},
    setup::Tools,
};

const TARGET: &str = "bpfel-unknown-none";

/// Compiler and linker flags of the kernel programs; the only place for them.
///
/// `--btf` needs debug information. `v3` (kernel 5.1 and later) has 32-bit registers and all
/// jumps, so that bounds survive in forms the verifier understands.
///
/// More of the linker's options go in as `-Clink-arg=--…` (`bpf-linker --help`).
const FLAGS: [&str; 4] = ["-Cdebuginfo=2", "-Cpanic=abort", "-Ctarget-cpu=v3", "-Clink-arg=--btf"];

/// Of `cargo xtask build-ebpf`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Make what the verifier counts now the budget, in net-ebpf/budget.toml
    #[arg(long)]
    accept: bool,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Where the daemons' build scripts look for the object.
pub(crate) fn object() -> PathBuf {
    workspace().join("target/bpf/xylem.o")
}

/// Builds the object and replaces the copy at [`object`] only if it became another, so that what
/// embeds it is not built again for nothing.
pub(crate) fn build(tools: &Tools) -> Result<()> {
    let target_folder = workspace().join("target/bpf");
    let mut cargo = for_bpf(tools, Command::new(&tools.toolchain.cargo), "build");
    run(&mut cargo).context("the kernel programs do not build")?;

    let built = target_folder.join(TARGET).join("release/xylem");
    let new = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let object = object();
    if fs::read(&object).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let partial = target_folder.join("xylem.o.partial");
    fs::write(&partial, &new)
        .and_then(|()| fs::rename(&partial, &object))
        .with_context(|| format!("cannot write {}", object.display()))
}

/// As [`build`]; then prints what the verifier makes of each program.
///
/// # Errors
/// Also if a program exceeds its budget, with the object in place all the same.
pub(crate) fn build_and_tell(tools: &Tools, options: &Options) -> Result<()> {
    build(tools)?;
    let report = budget::check(options.accept)?;
    match options.output {
        Output::Json => {
            let lines = report.as_ref().map_or(&[][..], |report| &report.lines);
            println!("{}", serde_json::to_string_pretty(lines)?);
        }
        Output::Table => {
            if let Some(report) = &report {
                print!("{}", report.table());
            }
        }
    }
    report.map_or(Ok(()), |report| report.judge())
}

/// For who wants to know only of programs that exceed their budget.
///
/// # Errors
/// One does.
pub(crate) fn judge_budget() -> Result<()> {
    budget::check(false)?.map_or(Ok(()), |report| report.judge())
}

/// Clippy of the compiler that builds the programs; its lints apply to `net-ebpf` only.
///
/// Called directly, since cargo would look for it among rustup's programs first.
pub(crate) fn clippy(tools: &Tools) -> Command {
    let program = tools.toolchain.cargo.with_file_name("cargo-clippy");
    let mut command = for_bpf(tools, Command::new(program), "clippy");
    command.env("CARGO", &tools.toolchain.cargo);
    command
}

/// Completes a cargo command on `net-ebpf` with its own compiler. The target folder is its own
/// too, since files of another compiler would make cargo build everything again at each turn.
fn for_bpf(tools: &Tools, mut command: Command, subcommand: &str) -> Command {
    without_cargo_environment(&mut command);
    // aya-ebpf knows the registers of the machine whose kernel runs the programs by this.
    let architecture = format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH);
    let flags: Vec<_> = FLAGS.iter().copied().chain([architecture.as_str()]).collect();
    let mut path = vec![tools.linker.program.with_file_name("")];
    path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    command
        .current_dir(workspace())
        .env("RUSTC", &tools.toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env("PATH", env::join_paths(path).expect("came apart at the separators"))
        .env("LD_LIBRARY_PATH", &tools.linker.library_path)
        .args([subcommand, "--release", "-Zbuild-std=core", "--target", TARGET])
        .args(["--package", "net-ebpf", "--target-dir", "target/bpf"]);
    command
}

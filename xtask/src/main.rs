//! Every developer command of Xylem: `cargo xtask help` lists them.
//!
//! Each command first makes sure, by itself, that what it needs is there ([`setup`]), so that a
//! fresh machine needs no preparation and no two commands in a certain order.

mod budget;
mod build;
mod ci;
mod command;
mod ebpf;
mod linker;
mod packages;
mod program;
mod residue;
mod setup;
mod test;
mod toolchain;
mod verifier;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::build::Profile;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Xylem")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Find or install what the other commands need; says what it does and why
    Setup,
    /// Build the kernel programs into target/bpf/xylem.o, and tell what the verifier makes of them
    BuildEbpf(ebpf::Options),
    /// Build everything and show the platform at work on this machine; needs root
    #[command(disable_help_flag = true)]
    Demo {
        /// Options of the demo; `--check` asserts, tears down and ends; `--help` has them all
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Build everything and run every test, or one suite; needs root
    Test {
        #[arg(value_enum)]
        suite: Option<test::Suite>,
    },
    /// Build everything and measure: `net` is the data path; needs root
    #[command(disable_help_flag = true)]
    Bench {
        /// What to measure, and how; `--help` has it all
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Every gate that a change has to pass: format, lints, docs, dependencies, tests
    Ci,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Setup => setup::run().map(drop),
        Task::BuildEbpf(options) => {
            setup::run().and_then(|tools| ebpf::build_and_tell(&tools, &options))
        }
        Task::Bench { options } => {
            // Without them the rest can be measured; the bench says what to leave out.
            if let Err(error) = packages::ensure(&packages::CONTENDERS) {
                eprintln!("bench: {error:#}");
            }
            program::become_program("xylem-bench", Profile::Release, &options)
        }
        Task::Demo { options } => program::become_program("xylem-demo", Profile::Dev, &options),
        Task::Test { suite } => test::test(suite),
        Task::Ci => ci::ci(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

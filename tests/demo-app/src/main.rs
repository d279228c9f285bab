//! The application of the demo and of the cluster suite.
//!
//! `serve` answers every connection with its instance's name; `dial` opens one connection after
//! another and counts who answered. Each is the whole image of a container: a static binary that
//! is its own process 1.

mod dial;
mod serve;

use std::{fs, io, net::SocketAddr, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use nix::sys::signal::{SigHandler, Signal, signal};

#[derive(Debug, Parser)]
#[command(about = "Says who answered")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer HTTP requests and plain lines with the name of this instance
    Serve {
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// Instead of $HOSTNAME or the host name
        #[arg(long)]
        name: Option<String>,
    },
    /// Open connections and print who answered how often
    Dial {
        /// Address and port of a service
        target: SocketAddr,
        /// Connections in a round
        #[arg(long, default_value_t = 30)]
        count: u32,
        /// Round after round
        #[arg(long)]
        forever: bool,
        /// Seconds between two rounds
        #[arg(long, default_value_t = 2)]
        every: u64,
    },
}

fn main() -> ExitCode {
    if let Err(error) = end_on_sigterm().and_then(|()| run(Cli::parse().command)) {
        eprintln!("demo-app: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn run(command: Command) -> io::Result<()> {
    match command {
        Command::Serve { port, name } => serve::serve(port, &name.map_or_else(own_name, Ok)?),
        Command::Dial { target, count, forever, every } => {
            let pause = forever.then_some(Duration::from_secs(every));
            dial::dial(target, count, pause)
        }
    }
}

fn own_name() -> io::Result<String> {
    if let Ok(name) = std::env::var("HOSTNAME") {
        return Ok(name);
    }
    Ok(fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
}

/// The kernel ignores signals to a process 1 that has no handler for them.
fn end_on_sigterm() -> io::Result<()> {
    extern "C" fn end(_: i32) {
        // SAFETY: _exit is async-signal-safe; nothing here is worth unwinding.
        unsafe { nix::libc::_exit(0) }
    }
    for wanted in [Signal::SIGTERM, Signal::SIGINT] {
        // SAFETY: the handler calls nothing but _exit.
        unsafe { signal(wanted, SigHandler::Handler(end)) }?;
    }
    Ok(())
}

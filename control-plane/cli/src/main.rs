//! `xylem`: what operators type.
//!
//! `noun verb`. Results go to stdout, through an `impl Write` so that they can be tested;
//! progress, questions and errors go to stderr. `xylem net …` reads the pinned BPF maps of this
//! machine and needs no daemon; everything else asks the root's REST API.

mod app;
mod client;
mod cluster;
mod completion;
mod config;
mod confirm;
mod failure;
mod format;
mod login;
mod net;
mod node;
mod output;
mod paint;
mod progress;
mod service;
mod table;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    client::Client,
    config::{Config, RootUrl},
    output::Format,
};

/// Operate a Xylem edge platform
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    after_help = "Examples:
  xylem login --root http://10.0.0.1:10000 --user Admin
  xylem app create shop.json --deploy --wait
  xylem service scale web 3 --wait
  xylem service inspect web
  xylem net flows --service web"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// The root to talk to; by default that of the last login, else http://127.0.0.1:10000
    #[arg(long, global = true, value_name = "URL", env = "XYLEM_ROOT_URL")]
    root: Option<RootUrl>,
    #[arg(
        long,
        short,
        global = true,
        value_name = "FORMAT",
        env = "XYLEM_OUTPUT",
        value_enum,
        default_value_t
    )]
    output: Format,
    /// Where sessions are kept; by default ~/.config/xylem/config.toml
    #[arg(long, global = true, value_name = "FILE", env = "XYLEM_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Root(RootCommand),
    /// The data path of this machine, read from the kernel
    Net(net::NetArgs),
    /// Print a completion script
    Completion(completion::CompletionArgs),
}

/// What the root is asked for.
#[derive(Debug, Subcommand)]
enum RootCommand {
    /// Open a session with a root
    Login(login::LoginArgs),
    /// Applications
    #[command(subcommand)]
    App(app::AppCommand),
    /// Services and their instances
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Clusters
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Workers
    #[command(subcommand)]
    Node(node::NodeCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = io::BufWriter::new(io::stdout().lock());
    let done = run(cli, &mut out).and_then(|()| Ok(out.flush()?));
    failure::exit_code(done)
}

fn run(Cli { global, command }: Cli, out: &mut impl Write) -> anyhow::Result<()> {
    match command {
        Command::Completion(args) => Ok(completion::run::<Cli>(&args, out)?),
        Command::Net(args) => net::run(args, global.output, out),
        Command::Root(command) => {
            let client = Client::new(Config::load(global.config)?, global.root)?;
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(ask_root(
                client,
                command,
                global.output,
                out,
            ))
        }
    }
}

async fn ask_root(
    client: Client,
    command: RootCommand,
    format: Format,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    match command {
        RootCommand::Login(args) => login::run(client, args).await,
        RootCommand::App(command) => app::run(client, command, format, out).await,
        RootCommand::Service(command) => service::run(client, command, format, out).await,
        RootCommand::Cluster(command) => cluster::run(client, command, format, out).await,
        RootCommand::Node(command) => node::run(client, command, format, out).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_data_path_has_examples_that_can_be_typed() {
        let mut command = Cli::command();
        command.build();
        let net = command.find_subcommand("net").unwrap();
        let commands = net.get_subcommands().filter(|command| command.get_name() != "help");
        for command in commands.chain([net]) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples = help.lines().filter_map(|line| line.strip_prefix("  xylem "));
            let examples: Vec<_> = examples.map(|line| line.split(" |").next().unwrap()).collect();
            assert!(!examples.is_empty(), "{}: {help}", command.get_name());
            for example in examples {
                let words = ["xylem"].into_iter().chain(example.split(' '));
                Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{example}: {error}"));
            }
        }
    }
}

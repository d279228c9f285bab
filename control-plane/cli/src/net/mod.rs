//! `xylem net …`: the data path of this machine, read from its pinned maps. It works with every
//! daemon dead, since the maps outlive them.

mod drops;
mod endpoints;
mod flow_ends;
mod flow_filter;
mod flows;
mod instances;
mod nodes;
mod read;
mod services;
mod snapshot;

#[cfg(test)]
mod tests;

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand};
use net_maps::PinnedMaps;

use self::{
    flow_filter::{Filter, Order},
    snapshot::Snapshot,
};
use crate::output::Format;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem net services
  xylem net flows --service shop.prod.web.front --proto tcp --sort idle --limit 20
  xylem net flows --src 10.18.0.64/26 --output json
  xylem net drops --bpffs /sys/fs/bpf/worker-2

These read the kernel's maps and need root; no daemon needs to run.")]
pub(crate) struct NetArgs {
    /// Where the net manager of this worker pins its maps
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "XYLEM_BPFFS",
        visible_alias = "bpffs-root",
        default_value = "/sys/fs/bpf/xylem"
    )]
    bpffs: PathBuf,
    #[command(subcommand)]
    command: NetCommand,
}

#[derive(Debug, Subcommand)]
enum NetCommand {
    /// The translation table: which instances a service IP leads to
    Services,
    /// The instances that this node knows, its own and those of other nodes
    Instances,
    /// The flow table: who talks to which instance
    Flows(FlowsArgs),
    /// This node and those with whom it exchanges tunnel packets
    Nodes,
    /// The instances that are attached to this node's data path
    Endpoints,
    /// How many packets were dropped, and why
    Drops(DropsArgs),
}

#[derive(Args, Debug)]
struct FlowsArgs {
    #[command(flatten)]
    filter: Filter,
    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    sort: Order,
    /// Show no more than this
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

#[derive(Args, Debug)]
struct DropsArgs {
    /// Also the reasons that never occurred
    #[arg(long)]
    all: bool,
}

/// # Errors
/// When there are no maps, they are of another layout or may not be read, or the writer fails.
pub(crate) fn run(args: NetArgs, format: Format, out: &mut impl Write) -> anyhow::Result<()> {
    let maps = PinnedMaps::open(&args.bpffs)?;
    match args.command {
        NetCommand::Services => {
            let mut snapshot = Snapshot::read(&maps)?;
            snapshot.read_tables(&maps)?;
            services::render(out, format, &services::views(&snapshot))?;
        }
        NetCommand::Instances => {
            let mut snapshot = Snapshot::read(&maps)?;
            snapshot.read_instance_traffic(&maps)?;
            instances::render(out, format, &instances::views(&snapshot))?;
        }
        NetCommand::Flows(FlowsArgs { filter, sort, limit }) => {
            let snapshot = Snapshot { flows: maps.flows()?, ..Snapshot::read(&maps)? };
            flows::render(out, format, &flows::views(&snapshot, &filter, sort, limit))?;
        }
        NetCommand::Nodes => {
            let snapshot = Snapshot { peers: maps.peers()?, ..Snapshot::read(&maps)? };
            nodes::render(out, format, &nodes::views(&snapshot))?;
        }
        NetCommand::Endpoints => {
            let snapshot = Snapshot { endpoints: maps.endpoints()?, ..Snapshot::read(&maps)? };
            endpoints::render(out, format, &endpoints::views(&snapshot))?;
        }
        NetCommand::Drops(DropsArgs { all }) => {
            let snapshot = Snapshot { drops: maps.drops()?, ..Snapshot::default() };
            drops::render(out, format, &drops::views(&snapshot, all))?;
        }
    }
    Ok(())
}

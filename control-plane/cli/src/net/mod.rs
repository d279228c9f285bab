//! `xylem net …`: the data path of this machine, read from its pinned maps. It works with every
//! daemon dead, since the maps outlive them.

mod doctor;
mod drops;
mod endpoints;
mod events;
mod explain;
mod flow_ends;
mod flow_filter;
mod flow_row;
mod flows;
mod instances;
mod nodes;
mod published;
mod read;
mod services;
mod snapshot;
mod watch;

#[cfg(test)]
mod tests;

use std::{io::Write, path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use net_maps::{MapsError, OpenError, PinnedMaps};

use self::{
    drops::Samples,
    events::Told,
    flow_filter::{Filter, Order},
    flows::Flows,
    snapshot::Snapshot,
};
use crate::{
    output::{self, Format},
    paint::Paint,
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem net services
  xylem net flows --service shop.prod.web.front --proto tcp --sort idle --limit 20
  xylem net flows --state opening --watch
  xylem net flows --src 10.18.0.64/26 --output json
  xylem net explain web.0 10.30.0.7:80
  xylem net events --follow --kind dropped
  xylem net doctor
  xylem net drops --bpffs /sys/fs/bpf/worker-2

These read the kernel's maps and need root; no daemon needs to run. They end with 0 when done, 1 when
that failed, and 2 when used wrongly.")]
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
    #[command(after_help = "Examples:
  xylem net services
  xylem net services --output json | jq -r '.[] | select(.backends == []) | .address'

Addresses are here once an instance of this node has dialled them; `xylem service inspect` has all.")]
    Services,
    /// The instances that this node knows, its own and those of other nodes
    #[command(after_help = "Examples:
  xylem net instances
  xylem net instances --output json | jq -r '.[] | select(.node == \"local\") | .service'")]
    Instances,
    /// The flow table: who talks to which instance
    Flows(FlowsArgs),
    /// This node and those with whom it exchanges tunnel packets
    #[command(after_help = "Examples:
  xylem net nodes
  xylem net nodes --output json | jq -r '.[] | select(.state != \"up\") | .tunnel'")]
    Nodes,
    /// The instances that are attached to this node's data path
    #[command(after_help = "Examples:
  xylem net endpoints
  xylem net endpoints --output json | jq -r '.[].namespace_ip'")]
    Endpoints,
    /// The ports of this node that lead to an instance
    #[command(after_help = "Examples:
  xylem net published
  xylem net published --output json | jq -r '.[] | select(.is_current | not) | .port'")]
    Published,
    /// How many packets were dropped, and why
    Drops(DropsArgs),
    /// Flows as they open and close, and drops, as they happen
    Events(events::EventsArgs),
    /// What the data path would do with a packet, step by step, without doing it
    Explain(explain::ExplainArgs),
    /// What the kernel and the data path are like, what was chosen, and why; fails if something is
    /// missing
    #[command(after_help = "Examples:
  xylem net doctor
  xylem net doctor --output json | jq -r '.[] | select(.todo) | [.feature, .todo] | @tsv'

It ends with 1 if something is missing that the data path cannot work without; warnings do not count.")]
    Doctor,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem net flows --service web --proto tcp --sort idle --limit 20
  xylem net flows --state opening --watch
  xylem net flows --watch 5 --output json | jq -c '.[] | [.client, .sent_bytes]'

The state is opening until both sides have answered each other, then established; closing after a
TCP FIN, reset after a TCP RST. The peer `outside` is a host that is no instance.")]
struct FlowsArgs {
    #[command(flatten)]
    filter: Filter,
    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    sort: Order,
    /// Show no more than this; on a terminal that is watched, 30 by default
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Show them again every so many seconds; JSON is one line each time
    #[arg(long, value_name = "SECS", num_args = 0..=1, default_missing_value = "2")]
    watch: Option<u32>,
}

impl FlowsArgs {
    /// The flows to be shown; of the rest, nothing is kept.
    fn choose<'a>(
        &self,
        maps: &PinnedMaps,
        snapshot: &'a Snapshot,
        limit: Option<usize>,
    ) -> Result<Flows<'a>, MapsError> {
        Flows::choose(snapshot, &self.filter, self.sort, limit, |each| {
            maps.for_each_flow(|key, flow| {
                each(&key, &flow);
                Ok(())
            })
        })
    }
}

/// Flows that a watched terminal shows.
const WATCHED: usize = 30;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem net drops
  xylem net drops --sample 10
  xylem net drops --all --output json")]
struct DropsArgs {
    /// Also the reasons that never occurred; each has its explanation
    #[arg(long)]
    all: bool,
    /// Watch for so many seconds, and show the last packets that were dropped for each reason
    #[arg(long, value_name = "SECS")]
    sample: Option<u64>,
}

/// # Errors
/// When there are no maps, they are of another layout or may not be read, or the writer fails.
pub(crate) fn run(args: NetArgs, format: Format, out: &mut impl Write) -> anyhow::Result<()> {
    let paint = Paint::for_stdout();
    let bpffs = args.bpffs;
    if let NetCommand::Doctor = args.command {
        return doctor::run(&bpffs, format, paint, out);
    }
    let maps = PinnedMaps::open(&bpffs).map_err(with_advice)?;
    match args.command {
        NetCommand::Doctor => {}
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
        NetCommand::Flows(args) => flows(&args, &maps, format, out)?,
        NetCommand::Nodes => {
            let snapshot = Snapshot { peers: maps.peers()?, ..Snapshot::read(&maps)? };
            nodes::render(out, format, &nodes::views(&snapshot))?;
        }
        NetCommand::Endpoints => {
            let snapshot = Snapshot { endpoints: maps.endpoints()?, ..Snapshot::read(&maps)? };
            endpoints::render(out, format, &endpoints::views(&snapshot))?;
        }
        NetCommand::Published => {
            let snapshot = Snapshot { published: maps.published()?, ..Snapshot::read(&maps)? };
            published::render(out, format, &published::views(&snapshot))?;
        }
        NetCommand::Drops(DropsArgs { all, sample }) => {
            let mut samples = Samples::default();
            if let Some(seconds) = sample {
                events::watch(&bpffs, Some(Duration::from_secs(seconds)), out, |told, _| {
                    // Of each reason the last packet is enough.
                    if let Told::Event(event) = told {
                        samples.add(event);
                    }
                    Ok(())
                })?;
            }
            let snapshot = Snapshot { drops: maps.drops()?, ..Snapshot::default() };
            drops::render(out, format, &drops::views(&snapshot, &samples, all))?;
        }
        NetCommand::Events(args) => events::run(&args, &bpffs, format, paint, out)?,
        NetCommand::Explain(args) => explain::run(&args, maps, format, paint, out)?,
    }
    Ok(())
}

/// What to do about maps that cannot be opened, where the error does not say.
fn with_advice(error: OpenError) -> anyhow::Error {
    let is_broken = matches!(error, OpenError::Map { .. } | OpenError::Unreadable { .. });
    let error = anyhow::Error::from(error);
    if is_broken {
        error.context(
            "the data path is incomplete or of another build; `xylem net doctor` says more, and a \
             restart of the net manager repairs it or says what to do",
        )
    } else {
        error
    }
}

fn flows(
    args: &FlowsArgs,
    maps: &PinnedMaps,
    format: Format,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let Some(seconds) = args.watch else {
        let snapshot = Snapshot::read(maps)?;
        return Ok(args.choose(maps, &snapshot, args.limit)?.render(out, format)?);
    };
    let limit = args.limit.or(watch::redraws(format).then_some(WATCHED));
    let interval = Duration::from_secs(u64::from(seconds.max(1)));
    watch::every(interval, format, out, |shown| {
        let snapshot = Snapshot::read(maps)?;
        let flows = args.choose(maps, &snapshot, limit)?;
        match format {
            Format::Table => flows.render(shown, format)?,
            Format::Json => output::json_line_each(shown, flows.views())?,
        }
        Ok(())
    })
}

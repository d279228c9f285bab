//! `xylem node cordon`, `uncordon` and `drain`

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use tokio::time::{Instant, sleep};
use xylem_types::{
    node::Availability,
    rest::{AvailabilityChange, DrainProgress, Node},
};

use crate::{
    client::{Client, ClientError},
    progress::Progress,
};

const POLL_INTERVAL: Duration = Duration::from_millis(300);
/// A year: more is a slip of the keyboard.
const GRACE_MAX_SECS: u64 = 365 * 24 * 3600;

#[derive(Args, Debug)]
pub(crate) struct NodeArgs {
    /// Id of the worker, or its name if unique
    node: String,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem node drain rack4 --wait
  xylem node drain rack4 --grace 300
  xylem node uncordon rack4")]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// How long a replaced instance goes on with the flows that it has; by default as its cluster
    /// is configured
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=GRACE_MAX_SECS))]
    grace: Option<u64>,
    /// Wait until nothing is left on the worker
    #[arg(long, short)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "wait")]
    timeout: u64,
}

/// # Errors
/// When the root cannot be reached or refuses, or several workers have the name.
pub(super) async fn set(
    client: &mut Client,
    args: &NodeArgs,
    availability: Availability,
) -> anyhow::Result<()> {
    let change = AvailabilityChange { availability, drain_grace_ms: None };
    let node = put(client, args, &change).await?;
    writeln!(io::stderr(), "{} is {}", name(&node), told(&node))?;
    Ok(())
}

/// # Errors
/// As for [`set`], and when it was waited for and something is left.
pub(super) async fn drain(client: &mut Client, args: &DrainArgs) -> anyhow::Result<()> {
    let change = AvailabilityChange {
        availability: Availability::Draining,
        drain_grace_ms: args.grace.map(|secs| secs * 1000),
    };
    let node = put(client, &args.node, &change).await?;
    if !args.wait {
        writeln!(io::stderr(), "{} is {}", name(&node), told(&node))?;
        return Ok(());
    }
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut progress = Progress::start();
    let mut last = node;
    loop {
        let state = explained(&last);
        if last.drain.as_ref().is_none_or(DrainProgress::is_done) {
            break;
        }
        progress.say(format!("{}: {state}", name(&last)));
        if Instant::now() >= deadline {
            bail!("{}: not after {} s: {state}", name(&last), args.timeout);
        }
        sleep(POLL_INTERVAL).await;
        match nodes(client).await {
            Ok(nodes) => {
                let is_it = |node: &Node| node.room.worker_id == last.room.worker_id;
                // A worker that was lost meanwhile is not listed; it may come back.
                last = nodes.into_iter().find(is_it).unwrap_or(last);
            }
            Err(error) if error.is_transient() => progress.say(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    drop(progress);
    if last.availability != Availability::Draining {
        bail!("{} is {}: somebody has ended the draining", name(&last), told(&last));
    }
    writeln!(io::stderr(), "{} is {}", name(&last), told(&last))?;
    Ok(())
}

/// The worker's state in a word or two.
pub(super) fn told(node: &Node) -> String {
    match (node.availability, &node.drain) {
        (Availability::Active, _) => "active".to_owned(),
        (Availability::Cordoned, _) => "cordoned".to_owned(),
        (Availability::Draining, Some(progress)) if progress.is_done() => "drained".to_owned(),
        (Availability::Draining, progress) => {
            let left = progress.as_ref().map_or(0, |p| p.left + p.draining);
            format!("draining, {left} left")
        }
    }
}

fn explained(node: &Node) -> String {
    let blocked = node.drain.as_ref().map(|progress| progress.blocked.join("; "));
    match blocked.filter(|blocked| !blocked.is_empty()) {
        Some(blocked) => format!("{}; {blocked}", told(node)),
        None => told(node),
    }
}

fn name(node: &Node) -> &str {
    if node.room.name.is_empty() { &node.room.worker_id } else { &node.room.name }
}

async fn nodes(client: &mut Client) -> Result<Vec<Node>, ClientError> {
    client.get(&["api", "nodes", ""]).await
}

async fn put(
    client: &mut Client,
    args: &NodeArgs,
    change: &AvailabilityChange,
) -> anyhow::Result<Node> {
    let id = find(&nodes(client).await?, &args.node)?;
    let json = serde_json::to_vec(change)?;
    Ok(client.put(&["api", "nodes", &id, "availability"], json).await?)
}

/// The id of the worker of that id or name. One that is away is not listed, and only its id leads
/// to it: the root knows.
fn find(nodes: &[Node], wanted: &str) -> anyhow::Result<String> {
    let ids: Vec<&str> = nodes
        .iter()
        .map(|node| &node.room)
        .filter(|room| room.worker_id == wanted || room.name == wanted)
        .map(|room| room.worker_id.as_str())
        .collect();
    match ids.as_slice() {
        [] => Ok(wanted.to_owned()),
        [id] => Ok((*id).to_owned()),
        ids if ids.contains(&wanted) => Ok(wanted.to_owned()),
        ids => bail!("several workers are called {wanted}, take an id: {}", ids.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use xylem_types::session::WorkerRoom;

    use super::*;

    fn node(id: &str, name: &str) -> Node {
        let room = WorkerRoom { worker_id: id.into(), name: name.into(), ..WorkerRoom::default() };
        Node { room, ..Node::default() }
    }

    #[test]
    fn a_worker_is_found_by_id_and_by_a_name_that_is_its_alone() {
        let nodes =
            [node("w1", "rack"), node("w2", "rack"), node("w3", "other"), node("rack", "x")];
        for (wanted, id) in [("w2", "w2"), ("other", "w3"), ("away", "away"), ("rack", "rack")] {
            assert_eq!(find(&nodes, wanted).unwrap(), id);
        }
        let error = find(&nodes[..3], "rack").unwrap_err().to_string();
        assert!(error.contains("w1, w2"), "{error}");
    }

    #[test]
    fn what_blocks_is_said() {
        let mut node = node("w1", "rack");
        node.availability = Availability::Draining;
        let blocked = vec!["instance 3 finds no place".to_owned()];
        node.drain = Some(DrainProgress { left: 1, draining: 1, blocked });
        assert_eq!(explained(&node), "draining, 2 left; instance 3 finds no place");
        node.drain = Some(DrainProgress::default());
        assert_eq!(explained(&node), "drained");
    }
}

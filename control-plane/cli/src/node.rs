//! `xylem node …`

mod availability;

use std::io;

use clap::{Args, Subcommand};
use xylem_types::{node::Availability, rest::Node};

use crate::{
    client::Client,
    output::{self, Format},
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// The workers of all connected clusters
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Give a worker no new instances; those that it has stay
    Cordon(availability::NodeArgs),
    /// Let a worker take instances again; a draining ends
    Uncordon(availability::NodeArgs),
    /// Replace the instances of a worker by others elsewhere, one by one, and give it no new ones
    Drain(availability::DrainArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those of this cluster, by name or id
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<String>,
}

/// # Errors
/// When the root cannot be reached or refuses, or the writer fails.
pub(crate) async fn run(
    mut client: Client,
    command: NodeCommand,
    format: Format,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    match command {
        NodeCommand::List(ListArgs { cluster }) => {
            let mut nodes: Vec<Node> = client.get(&["api", "nodes", ""]).await?;
            if let Some(cluster) = cluster {
                nodes.retain(|node| node.cluster_name == cluster || node.cluster_id == cluster);
            }
            nodes.sort_by(|a, b| key(a).cmp(&key(b)));
            Ok(render(out, format, &nodes)?)
        }
        NodeCommand::Cordon(args) => {
            availability::set(&mut client, &args, Availability::Cordoned).await
        }
        NodeCommand::Uncordon(args) => {
            availability::set(&mut client, &args, Availability::Active).await
        }
        NodeCommand::Drain(args) => availability::drain(&mut client, &args).await,
    }
}

/// Workers of one machine have one name, so the id decides.
fn key(node: &Node) -> (&str, &str, &str) {
    (&node.cluster_name, &node.room.name, &node.room.worker_id)
}

fn render(out: &mut impl io::Write, format: Format, nodes: &[Node]) -> io::Result<()> {
    output::list(out, format, nodes, |nodes| {
        let mut table = Table::new([
            "ID",
            "NAME",
            "CLUSTER",
            "STATE",
            "NODE-IP",
            "TUNNEL-PORT",
            "SUBNET",
            "ARCH",
            "FREE-VCPUS",
            "CPU",
            "FREE-MEMORY",
            "RUNTIMES",
        ])
        .right_aligned(&[5, 8, 9, 10]);
        for node in nodes {
            let room = &node.room;
            table.row([
                room.worker_id.clone(),
                room.name.clone(),
                node.cluster_name.clone(),
                availability::told(node),
                node.host_ip.map_or(String::new(), |ip| ip.to_string()),
                node.host_port.map_or(String::new(), |port| port.to_string()),
                node.subnet.map_or(String::new(), subnet),
                room.architecture.clone(),
                format!("{:.1}", room.free_vcpus),
                format!("{:.0}%", room.cpu_percent),
                format!("{:.0} MB", room.free_memory),
                room.virtualization.join(","),
            ]);
        }
        table
    })
}

fn subnet(network: std::net::Ipv4Addr) -> String {
    format!("{network}/{}", xylem_types::address::WORKER_SUBNET_PREFIX)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use xylem_types::{rest::DrainProgress, session::WorkerRoom};

    use super::*;

    #[test]
    fn the_table_shows_where_workers_are_and_their_room() {
        let nodes = [
            Node {
                cluster_id: "c1".into(),
                cluster_name: "munich".into(),
                room: WorkerRoom {
                    worker_id: "w1".into(),
                    name: "rack4".into(),
                    free_vcpus: 3.5,
                    free_memory: 900.0,
                    cpu_percent: 12.6,
                    architecture: "amd64".into(),
                    virtualization: vec!["docker".into()],
                    ..WorkerRoom::default()
                },
                host_ip: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 11))),
                host_port: Some(50103),
                subnet: Some(Ipv4Addr::new(10, 18, 0, 64)),
                ..Node::default()
            },
            Node {
                cluster_name: "munich".into(),
                availability: Availability::Draining,
                drain: Some(DrainProgress { left: 2, ..DrainProgress::default() }),
                ..Node::default()
            },
        ];
        let mut out = Vec::new();
        render(&mut out, Format::Table, &nodes).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
ID   NAME    CLUSTER   STATE              NODE-IP      TUNNEL-PORT   SUBNET          ARCH    FREE-VCPUS   CPU   FREE-MEMORY   RUNTIMES
w1   rack4   munich    active             192.0.2.11         50103   10.18.0.64/26   amd64          3.5   13%        900 MB   docker
-    -       munich    draining, 2 left   -                      -   -               -              0.0    0%          0 MB   -
"
        );
    }
}

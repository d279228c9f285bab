//! `xylem cluster …`

use std::io;

use clap::{Args, Subcommand};
use xylem_types::rest::Cluster;

use crate::{
    client::Client,
    output::{self, Format},
    table::Table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// The clusters that the root knows
    #[command(visible_alias = "ls")]
    List(ListArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those that can be given work now
    #[arg(long)]
    active: bool,
}

/// # Errors
/// When the root cannot be reached or refuses, or the writer fails.
pub(crate) async fn run(
    mut client: Client,
    command: ClusterCommand,
    format: Format,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    match command {
        ClusterCommand::List(ListArgs { active }) => {
            let mut clusters: Vec<Cluster> = match active {
                true => client.get(&["api", "clusters", "active"]).await?,
                false => client.get(&["api", "clusters", ""]).await?,
            };
            clusters.sort_by(|a, b| a.cluster_name.cmp(&b.cluster_name));
            Ok(render(out, format, &clusters)?)
        }
    }
}

fn render(out: &mut impl io::Write, format: Format, clusters: &[Cluster]) -> io::Result<()> {
    output::list(out, format, clusters, |clusters| {
        let mut table = Table::new([
            "ID",
            "NAME",
            "LOCATION",
            "STATE",
            "NODES",
            "VCPUS",
            "CPU",
            "FREE-MEMORY",
            "RUNTIMES",
            "ADDRESS",
        ])
        .right_aligned(&[4, 5, 6, 7]);
        for cluster in clusters {
            table.row([
                cluster.id.clone(),
                cluster.cluster_name.clone(),
                cluster.cluster_location.clone(),
                state(cluster).to_owned(),
                cluster.active_nodes.to_string(),
                cluster.vcpus.to_string(),
                format!("{:.0}%", cluster.cpu_percent),
                format!("{:.0} MB", cluster.memory),
                cluster.virtualization.join(","),
                cluster.ip.clone(),
            ]);
        }
        table
    })
}

fn state(cluster: &Cluster) -> &'static str {
    match (cluster.active, cluster.connected) {
        (true, _) => "active",
        (false, true) => "silent",
        (false, false) => "disconnected",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters() -> Vec<Cluster> {
        vec![
            Cluster {
                id: "c1".into(),
                cluster_name: "munich".into(),
                cluster_location: "48.1,11.6,1000".into(),
                ip: "10.0.0.7".into(),
                active: true,
                connected: true,
                active_nodes: 3,
                vcpus: 12,
                cpu_percent: 7.4,
                memory: 10_240.6,
                virtualization: vec!["docker".into(), "unikernel".into()],
                ..Cluster::default()
            },
            Cluster { id: "c2".into(), cluster_name: "oslo".into(), ..Cluster::default() },
        ]
    }

    fn rendered(format: Format, clusters: &[Cluster]) -> String {
        let mut out = Vec::new();
        render(&mut out, format, clusters).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_shows_room_and_state() {
        assert_eq!(
            rendered(Format::Table, &clusters()),
            "\
ID   NAME     LOCATION         STATE          NODES   VCPUS   CPU   FREE-MEMORY   RUNTIMES           ADDRESS
c1   munich   48.1,11.6,1000   active             3      12    7%      10241 MB   docker,unikernel   10.0.0.7
c2   oslo     -                disconnected       0       0    0%          0 MB   -                  -
"
        );
    }

    #[test]
    fn no_clusters_are_an_empty_list_in_json() {
        assert_eq!(rendered(Format::Json, &[]), "[]\n");
    }
}

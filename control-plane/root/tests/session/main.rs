//! The session between cluster and root over real sockets, seen from both its ends and from REST.

mod handshake;
mod instances;
mod nodes;
mod routes;
#[path = "../support/mod.rs"]
mod support;

use support::{FakeCluster, TestRoot, room, sla, wait_for};
use xylem_types::mqtt::TableQuery;

fn by_name(sname: &str) -> TableQuery {
    TableQuery { sname: sname.to_owned(), sip: String::new() }
}

fn by_ip(sip: impl ToString) -> TableQuery {
    TableQuery { sname: String::new(), sip: sip.to_string() }
}

/// A root, a cluster with one worker `w1` of eight CPUs, and a service.
async fn one_of_each() -> (TestRoot, FakeCluster, String) {
    let root = TestRoot::start().await;
    let cluster = FakeCluster::ready(root.address, "munich", vec![room("w1", 8.0)]).await;
    let service = root.create(sla("shop", &["web"])).await.remove(0);
    wait_for("the cluster to be active", async || {
        let active = root.get("/api/clusters/active").await;
        (active.as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    (root, cluster, service)
}

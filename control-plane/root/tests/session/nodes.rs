//! Clusters and their workers.

use axum::http::{Method, StatusCode};
use serde_json::json;
use xylem_types::{
    instance::InstanceStatus::Running,
    session::{Drain, FromCluster, FromRoot, SubnetResult},
};

use crate::{
    by_name, one_of_each,
    support::{FakeCluster, TestRoot, observed, peer, room, sla, wait_for},
};

#[tokio::test]
async fn a_worker_has_one_subnet_for_ever() {
    let root = TestRoot::start().await;
    let subnet = async |cluster: &mut FakeCluster, worker: &str| {
        cluster.send(FromCluster::Subnet { worker_id: worker.to_owned() }).await;
        loop {
            if let FromRoot::Subnet { worker_id, result } = cluster.next().await {
                assert_eq!(worker_id, worker);
                let SubnetResult::Granted { v4, v6 } = result else { panic!("{result:?}") };
                break (v4.to_string(), v6.to_string());
            }
        }
    };
    let (mut munich, _) = FakeCluster::connect(root.address, "munich").await;
    let first = subnet(&mut munich, "w1").await;
    assert_eq!(first, ("10.18.0.0".to_owned(), "fc00::".to_owned()));
    assert_eq!(subnet(&mut munich, "w2").await, ("10.18.0.64".into(), "fc00::100".into()));
    let root = root.restart().await;
    // The worker has moved to another cluster.
    let (mut paris, _) = FakeCluster::connect(root.address, "paris").await;
    assert_eq!(subnet(&mut paris, "w1").await, first);
    paris.send(FromCluster::SubnetRelease { worker_id: "w1".to_owned() }).await;
    assert_eq!(subnet(&mut paris, "w3").await.0, "10.18.0.128");
}

#[tokio::test]
async fn clusters_and_workers_are_listed_as_clients_decode_them() {
    let (root, mut cluster, _) = one_of_each().await;
    cluster.send(FromCluster::Workers { workers: vec![peer("w1", 1)] }).await;
    cluster.query(by_name("wait until that has arrived")).await;
    let clusters = root.get("/api/clusters/").await;
    let shown = &clusters[0];
    assert_eq!(shown["_id"], cluster.id.as_str());
    assert_eq!(
        (&shown["cluster_name"], &shown["candidate_name"]),
        (&json!("munich"), &json!("munich"))
    );
    assert_eq!(shown["cluster_location"], "48.1,11.6,1000");
    assert_eq!((&shown["active"], &shown["active_nodes"]), (&json!(true), &json!(1)));
    assert_eq!((&shown["vcpus"], &shown["memory_in_mb"]), (&json!(8), &json!(2048)));
    assert_eq!((&shown["cpu_percent"], &shown["ip"]), (&json!(12.5), &json!("127.0.0.1")));
    assert!(shown["last_modified_timestamp"].as_f64().unwrap() > 1.6e9);

    let nodes = root.get("/api/nodes").await;
    assert_eq!(nodes[0]["worker_id"], "id of w1");
    assert_eq!(nodes[0]["cluster_name"], "munich");
    assert_eq!((&nodes[0]["free_vcpus"], &nodes[0]["total_vcpus"]), (&json!(8.0), &json!(8.0)));
    assert_eq!(
        (&nodes[0]["host_ip"], &nodes[0]["subnet"]),
        (&json!("192.0.2.1"), &json!("10.18.1.0"))
    );

    drop(cluster);
    wait_for("the cluster to be gone", async || {
        (root.get("/api/clusters/active").await == json!([])).then_some(())
    })
    .await;
    assert_eq!(root.get("/api/clusters/").await[0]["active"], false);
    assert_eq!(root.get("/api/nodes/").await, json!([]));
}

/// The next list of workers that take nothing new.
async fn next_cordoned(cluster: &mut FakeCluster) -> Vec<String> {
    loop {
        if let FromRoot::Cordoned { workers } = cluster.next().await {
            return workers.into_iter().collect();
        }
    }
}

#[tokio::test]
async fn a_cordoned_worker_gets_nothing_new_and_its_cluster_is_told() {
    let (root, mut cluster, service) = one_of_each().await;
    let path = "/api/nodes/id%20of%20w1/availability";
    let cordoned = json!({ "availability": "cordoned" });
    let (status, node) = root.call(Method::PUT, path, Some(cordoned)).await;
    assert_eq!((status, &node["availability"]), (StatusCode::OK, &json!("cordoned")), "{node}");
    assert_eq!(next_cordoned(&mut cluster).await, ["id of w1"]);
    let number = root.scale_up(&service).await;
    let waiting = root.instance(&service, number).await;
    assert!(waiting.status_detail.contains("cordoned"), "{waiting:?}");

    // The cluster comes back, and so does the root.
    drop(cluster);
    let root = root.restart().await;
    let mut cluster = FakeCluster::dial(root.address, "munich").await;
    let FromRoot::Welcome { .. } = cluster.next().await else { panic!("no welcome") };
    let FromRoot::Desired { cordoned, .. } = cluster.next().await else { panic!("no desired") };
    assert_eq!(cordoned.into_iter().collect::<Vec<_>>(), ["id of w1"]);
    cluster.snapshot(Vec::new()).await;
    cluster.resources(vec![room("w1", 8.0)]).await;
    cluster.query(by_name("wait until that has arrived")).await;
    assert_eq!(root.get("/api/nodes").await[0]["availability"], "cordoned");

    let active = json!({ "availability": "active" });
    let (status, _) = root.call(Method::PUT, path, Some(active)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(next_cordoned(&mut cluster).await, Vec::<String>::new());
    assert_eq!(cluster.next_deploy().await.command.instance_number, number);
}

#[tokio::test]
async fn a_drained_worker_s_instance_is_stopped_once_another_runs() {
    let root = TestRoot::start().await;
    let rooms = || vec![room("w1", 8.0), room("w2", 4.0)];
    let mut cluster = FakeCluster::ready(root.address, "munich", rooms()).await;
    let service = root.create(sla("shop", &["web"])).await.remove(0);
    cluster.query(by_name("wait until that has arrived")).await;
    let old = root.scale_up(&service).await;
    let placement = cluster.next_deploy().await;
    cluster.report(observed(&placement, Running, "w1")).await;
    root.instance_is(&service, old, "running", |i| i.status == Running).await;

    let draining = json!({ "availability": "draining", "drain_grace_ms": 4000 });
    let path = "/api/nodes/id%20of%20w1/availability/";
    let (status, node) = root.call(Method::PUT, path, Some(draining)).await;
    assert_eq!(status, StatusCode::OK, "{node}");
    assert_eq!(node["drain"], json!({ "left": 1, "draining": 0, "blocked": [] }));
    let placement = cluster.next_deploy().await;
    let new = placement.command.instance_number;
    assert_eq!(root.instance(&service, new).await.replaces, Some(old));
    cluster.report(observed(&placement, Running, "w2")).await;
    let stopped = loop {
        if let FromRoot::Undeploy { key, drain, drain_grace_ms, .. } = cluster.next().await {
            break (key.instance_number, drain, drain_grace_ms);
        }
    };
    assert_eq!(stopped, (old, Drain::Always, Some(4000)));
    let drain = &root.get("/api/nodes").await[0]["drain"];
    assert_eq!((&drain["left"], &drain["draining"]), (&json!(0), &json!(1)));
    assert_eq!(root.instance(&service, new).await.replaces, None);
}

#[tokio::test]
async fn who_may_not_or_asks_for_nonsense_changes_no_worker() {
    let (root, _cluster, _) = one_of_each().await;
    let path = "/api/nodes/id%20of%20w1/availability";
    let draining = json!({ "availability": "draining" });
    let account = json!({ "name": "eve", "password": "eve", "roles": ["Application_Provider"] });
    root.post("/api/auth/register", Some(account)).await;
    let eve = root.login("eve", "eve").await;
    let (status, _) = root.call_as(&eve, Method::PUT, path, Some(draining.clone())).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let nobody = "/api/nodes/nobody/availability";
    let (status, _) = root.call(Method::PUT, nobody, Some(draining)).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    for body in [
        json!({ "availability": "asleep" }),
        json!({ "availability": "cordoned", "drain_grace_ms": 1 }),
        json!([]),
    ] {
        let (status, answer) = root.call(Method::PUT, path, Some(body.clone())).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}: {answer}");
    }
    assert_eq!(root.get("/api/nodes").await[0]["availability"], "active");
}

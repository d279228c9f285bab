//! How a session begins, begins again and ends.

use tokio_tungstenite::tungstenite::Message;
use xylem_types::{
    instance::InstanceStatus::{Running, Undeployed},
    session::{FromCluster, FromRoot},
};

use crate::{
    by_name, one_of_each,
    support::{FakeCluster, TestRoot, observed, room},
};

#[tokio::test]
async fn a_session_resumes_by_comparison_after_any_break() {
    let (root, mut cluster, service) = one_of_each().await;
    for _ in 0..3 {
        root.scale_up(&service).await;
    }
    let mut running = Vec::new();
    for _ in 0..3 {
        let placement = cluster.next_deploy().await;
        cluster.report(observed(&placement, Running, "w1")).await;
        running.push(placement);
    }
    root.instance_is(&service, 2, "the last to run", |i| i.status == Running).await;
    let id = cluster.id.clone();

    // The cluster is away while one instance is removed and the root starts anew.
    drop(cluster);
    root.delete(&format!("/api/service/{service}/instance/1")).await;
    let root = root.restart().await;
    let (mut cluster, desired) = FakeCluster::connect(root.address, "munich").await;
    assert_eq!(cluster.id, id, "the same name is the same cluster");
    assert_eq!(desired, [running[0].clone(), running[2].clone()]);
    assert_eq!(root.instance(&service, 1).await.status, Undeployed, "not confirmed yet");

    // It has lost the third one meanwhile.
    cluster.snapshot(vec![observed(&running[0], Running, "w1")]).await;
    assert_eq!(cluster.next_deploy().await, running[2], "what is missing is wanted again");
    let instances = root.service(&service).await.instance_list;
    let states: Vec<_> = instances.iter().map(|i| (i.instance_number, i.status.as_str())).collect();
    assert_eq!(states, [(0, "RUNNING"), (2, "CLUSTER_SCHEDULED")]);
}

#[tokio::test]
async fn who_does_not_speak_the_protocol_is_refused_with_the_reason() {
    let root = TestRoot::start().await;
    let refused = async |mut cluster: FakeCluster| {
        let Some(FromRoot::Refused { reason }) = cluster.try_next().await else {
            panic!("not refused")
        };
        assert_eq!(cluster.try_next().await, None, "the session is closed");
        reason
    };
    let mut other = FakeCluster::dial_silently(root.address).await;
    other
        .send(FromCluster::Hello {
            version: 99,
            cluster_name: "munich".to_owned(),
            cluster_location: String::new(),
        })
        .await;
    assert!(refused(other).await.contains("version 99"));
    let nameless = FakeCluster::dial(root.address, " ").await;
    assert!(refused(nameless).await.contains("name"));
    let mut hasty = FakeCluster::dial_silently(root.address).await;
    hasty.resources(Vec::new()).await;
    assert!(refused(hasty).await.contains("hello"));

    for frame in [Message::text("{\"type\":\"unheard\"}"), Message::binary(vec![0; 4])] {
        let (mut cluster, _) = FakeCluster::connect(root.address, "munich").await;
        cluster.send_raw(frame).await;
        while cluster.try_next().await.is_some() {}
    }
    assert!(root.get("/api/clusters").await.as_array().unwrap().len() == 1);
}

#[tokio::test]
async fn a_new_session_of_a_cluster_ends_the_one_before() {
    let (root, mut old, service) = one_of_each().await;
    let (mut new, _) = FakeCluster::connect(root.address, "munich").await;
    assert_eq!(new.id, old.id);
    loop {
        match old.try_next().await {
            Some(FromRoot::Refused { reason }) => assert!(reason.contains("rename"), "{reason}"),
            Some(_) => {}
            None => break,
        }
    }
    new.snapshot(Vec::new()).await;
    new.resources(vec![room("w1", 1.0)]).await;
    new.query(by_name("wait until that has arrived")).await;
    root.scale_up(&service).await;
    new.next_deploy().await;
}

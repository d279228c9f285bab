//! Instances, from the wish to have one until it is gone.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::json;
use xylem_types::{
    instance::InstanceStatus::{
        Completed, Creating, Failed, NoWorkerCapacity, NodeScheduled, Running, Undeployed,
    },
    session::{FromRoot, InstanceKey},
};

use crate::{
    by_name, one_of_each,
    support::{FakeCluster, TestRoot, observed, room, sla, wait_for},
};

#[tokio::test]
async fn a_deployed_instance_is_shown_with_its_worker() {
    let (root, mut cluster, _) = one_of_each().await;
    let mut wanted = sla("site", &["web"]);
    wanted["applications"][0]["microservices"][0]["port"] = json!("8080:80;53/udp");
    let service = root.create(wanted).await.remove(0);
    let number = root.scale_up(&service).await;
    let placement = cluster.next_deploy().await;
    let command = &placement.command;
    assert_eq!((placement.job_id.as_str(), command.instance_number), (service.as_str(), number));
    assert_eq!(command.generation, 1);
    assert_eq!(command.job_name, "site.test.web.test");
    assert_eq!(command.image, "docker.io/library/nginx:latest");
    assert_eq!(
        (command.vcpus, command.memory, command.port.as_str()),
        (1.0, 100, "8080:80;53/udp")
    );
    let instance = root.instance(&service, number).await;
    assert_eq!(instance.status.as_str(), "CLUSTER_SCHEDULED");
    assert_eq!((instance.cluster_id, instance.cluster_name), (cluster.id.clone(), "munich".into()));

    for status in [NodeScheduled, Creating, Running] {
        cluster.report(observed(&placement, status.clone(), "w1")).await;
        root.instance_is(&service, number, "the status", |i| i.status == status).await;
    }
    let instance = root.instance(&service, number).await;
    assert_eq!((instance.host_ip.as_str(), instance.host_port), ("192.0.2.1", 50_103));
    assert_eq!((instance.worker_id.as_str(), instance.worker_name.as_str()), ("id of w1", "w1"));
    assert_eq!(instance.namespace_ip.unwrap().to_string(), "10.18.1.2");
    assert_eq!((instance.cpu_percent.as_str(), instance.disk.as_str()), ("1.5", "1024"));
    assert_eq!(instance.cpu_history.len(), 3);
    assert_eq!(instance.logs, "hello");
    assert_eq!(root.service(&service).await.status, Running);
}

#[tokio::test]
async fn a_failure_is_shown_with_its_cause() {
    let (root, mut cluster, service) = one_of_each().await;
    root.scale_up(&service).await;
    let placement = cluster.next_deploy().await;
    let mut report = observed(&placement, Failed, "w1");
    report.status_detail = "no image of that name at registry.invalid".to_owned();
    cluster.report(report).await;
    let instance = root.instance_is(&service, 0, "a failure", |i| i.status == Failed).await;
    assert_eq!(instance.status_detail, "no image of that name at registry.invalid");
}

#[tokio::test]
async fn a_report_of_an_older_generation_changes_nothing_and_is_answered() {
    let (root, mut cluster, service) = one_of_each().await;
    root.scale_up(&service).await;
    let first = cluster.next_deploy().await;
    // The cluster placed it anew, on another worker.
    let mut second = first.clone();
    second.command.generation = 2;
    cluster.report(observed(&second, Running, "w2")).await;
    root.instance_is(&service, 0, "generation 2", |i| i.generation == 2).await;

    cluster.report(observed(&first, Running, "w1")).await;
    let (key, generation) = cluster.next_undeploy().await;
    assert_eq!((key.instance_number, generation), (0, 1));
    let instance = root.instance(&service, 0).await;
    assert_eq!((instance.generation, instance.worker_name.as_str()), (2, "w2"));
}

#[tokio::test]
async fn an_instance_that_nobody_wants_is_told_to_stop() {
    let (root, mut cluster, service) = one_of_each().await;
    root.scale_up(&service).await;
    let mut unknown = observed(&cluster.next_deploy().await, Running, "w1");
    unknown.key = InstanceKey { job_id: "never heard of".to_owned(), instance_number: 3 };
    unknown.generation = 9;
    cluster.report(unknown.clone()).await;
    assert_eq!(cluster.next_undeploy().await, (unknown.key, 9));
}

#[tokio::test]
async fn a_refused_instance_goes_to_the_next_cluster_and_back_when_there_is_room() {
    let (root, mut munich, service) = one_of_each().await;
    let mut paris = FakeCluster::ready(root.address, "paris", vec![room("p1", 2.0)]).await;
    paris.query(by_name("wait until the resources have arrived")).await;
    root.scale_up(&service).await;

    // Munich has more room, so it is asked first.
    let first = munich.next_deploy().await;
    let mut refusal = observed(&first, NoWorkerCapacity, "");
    refusal.status_detail = "w1: 0.50 CPUs free".to_owned();
    munich.report(refusal).await;
    let (key, generation) = munich.next_undeploy().await;
    assert_eq!((key.instance_number, generation), (0, 1), "it shall not keep trying");
    let second = paris.next_deploy().await;
    assert_eq!(second.command.generation, 2);

    paris.report(observed(&second, NoWorkerCapacity, "")).await;
    let waiting = root
        .instance_is(&service, 0, "all to have refused", |i| i.status == NoWorkerCapacity)
        .await;
    assert_eq!(waiting.cluster_id, paris.id, "which goes on looking for a place");
    assert!(waiting.status_detail.contains("munich: w1: 0.50 CPUs free"), "{waiting:?}");
    assert!(waiting.status_detail.contains("paris: NO_WORKER_CAPACITY"), "{waiting:?}");

    let third = wait_for("munich to be asked again", async || {
        munich.resources(vec![room("w1", 8.0)]).await;
        let messages = munich.within(Duration::from_millis(50)).await;
        messages.into_iter().find_map(|message| match message {
            FromRoot::Deploy(placement) => Some(*placement),
            _ => None,
        })
    })
    .await;
    assert_eq!(third.command.generation, 3);
    assert_eq!(paris.next_undeploy().await.1, 2);
    munich.report(observed(&third, Running, "w1")).await;
    root.instance_is(&service, 0, "it to run", |i| i.status == Running).await;
}

#[tokio::test]
async fn what_waits_is_placed_when_room_appears_and_no_sooner() {
    let root = TestRoot::start().await;
    let service = root.create(sla("shop", &["web"])).await.remove(0);
    for _ in 0..3 {
        root.scale_up(&service).await;
    }
    let mut cluster = FakeCluster::ready(root.address, "munich", vec![room("w1", 2.0)]).await;
    cluster.next_deploy().await;
    cluster.next_deploy().await;
    let waiting =
        root.instance_is(&service, 2, "a reason", |i| i.status_detail.contains("vcpus")).await;
    assert_eq!(waiting.status.as_str(), "NoActiveClusterWithCapacity");
    assert_eq!(waiting.status_detail, "munich: w1: 1 vcpus needed, 0.00 free");
    cluster.resources(vec![room("w1", 3.0)]).await;
    assert_eq!(cluster.next_deploy().await.command.instance_number, 2);
}

#[tokio::test]
async fn a_direct_constraint_names_cluster_and_worker() {
    let (root, _munich, _) = one_of_each().await;
    let mut paris = FakeCluster::ready(root.address, "paris", vec![room("p1", 2.0)]).await;
    paris.query(by_name("wait until the resources have arrived")).await;
    let mut wanted = sla("direct", &["web"]);
    wanted["applications"][0]["microservices"][0]["constraints"] =
        json!([{ "type": "direct", "cluster": "paris", "node": "p1;p2" }]);
    let service = root.create(wanted).await.remove(0);
    root.scale_up(&service).await;
    assert_eq!(paris.next_deploy().await.allowed_nodes, ["p1", "p2"]);
    paris.resources(vec![room("p1", 0.5)]).await;
    paris.query(by_name("wait until that has arrived")).await;
    root.scale_up(&service).await;
    let full = root
        .instance_is(&service, 1, "a refusal", |i| i.status.as_str() == "TargetClusterNoCapacity")
        .await;
    assert!(full.status_detail.contains("p1"), "{full:?}");
    drop(paris);
    let path = "/api/clusters/active";
    wait_for("paris to be gone", async || {
        (root.get(path).await.as_array().unwrap().len() == 1).then_some(())
    })
    .await;
    root.scale_up(&service).await;
    assert_eq!(root.instance(&service, 2).await.status.as_str(), "TargetClusterNotActive");
}

#[tokio::test]
async fn a_removed_instance_stays_until_its_cluster_has_confirmed() {
    let (root, mut cluster, service) = one_of_each().await;
    root.scale_up(&service).await;
    let placement = cluster.next_deploy().await;
    cluster.report(observed(&placement, Running, "w1")).await;
    let running = root.instance_is(&service, 0, "it to run", |i| i.status == Running).await;

    root.delete(&format!("/api/service/{service}/instance/0")).await;
    assert_eq!(cluster.next_undeploy().await.1, 1);
    let tombstone = root.instance(&service, 0).await;
    assert_eq!(tombstone.status, Undeployed);
    assert!(tombstone.status_detail.contains("confirm"), "{tombstone:?}");

    cluster.report(observed(&placement, Undeployed, "w1")).await;
    wait_for("it to be gone", async || {
        root.service(&service).await.instance_list.is_empty().then_some(())
    })
    .await;
    root.scale_up(&service).await;
    let next = root.instance(&service, 1).await;
    assert_ne!(next.instance_ip, running.instance_ip, "an address rests before it is used again");
}

#[tokio::test]
async fn deleting_an_application_stops_its_instances_and_frees_its_name() {
    let (root, mut cluster, service) = one_of_each().await;
    root.scale_up(&service).await;
    let placement = cluster.next_deploy().await;
    cluster.report(observed(&placement, Running, "w1")).await;
    root.instance_is(&service, 0, "it to run", |i| i.status == Running).await;
    let id = root.get("/api/applications").await[0]["_id"].clone();
    root.delete(&format!("/api/application/{}", id.as_str().unwrap())).await;
    let (key, _) = cluster.next_undeploy().await;
    assert_eq!(key.job_id, service);
    let (status, _) = root.call(Method::GET, &format!("/api/service/{service}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    // While the old instance 0 may still run, no worker shall get another of that name.
    let again = root.create(sla("shop", &["web"])).await.remove(0);
    assert_eq!(root.scale_up(&again).await, 1);
    cluster.report(observed(&placement, Undeployed, "w1")).await;
    assert!(cluster.query(by_name("shop.test.web.test")).await.instance_list.is_empty());
    let metrics = root.get("/metrics").await;
    assert!(metrics.as_str().unwrap().contains("service_ips 5\n"), "{metrics}");
}

#[tokio::test]
async fn what_completed_is_not_started_again() {
    let (root, mut cluster, service) = one_of_each().await;
    root.scale_up(&service).await;
    let placement = cluster.next_deploy().await;
    cluster.report(observed(&placement, Completed, "w1")).await;
    root.instance_is(&service, 0, "completion", |i| i.status == Completed).await;
    drop(cluster);
    let (mut cluster, desired) = FakeCluster::connect(root.address, "munich").await;
    assert_eq!(desired, []);
    cluster.snapshot(Vec::new()).await;
    cluster.resources(vec![room("w1", 8.0)]).await;
    let after = cluster.within(Duration::from_millis(100)).await;
    assert!(!after.iter().any(|m| matches!(m, FromRoot::Deploy(_))), "{after:?}");
    assert_eq!(root.instance(&service, 0).await.status, Completed);
    root.delete(&format!("/api/service/{service}/instance/-1")).await;
    assert!(root.service(&service).await.instance_list.is_empty(), "nobody has to confirm");
}

#[tokio::test]
async fn a_port_of_a_node_is_promised_once() {
    let root = TestRoot::start().await;
    let rooms = vec![room("w1", 8.0), room("w2", 8.0)];
    let mut cluster = FakeCluster::ready(root.address, "munich", rooms.clone()).await;
    let mut wanted = sla("shop", &["web"]);
    wanted["applications"][0]["microservices"][0]["port"] = json!("8080:80;53:53/udp");
    let service = root.create(wanted).await.remove(0);
    for _ in 0..2 {
        root.scale_up(&service).await;
        cluster.next_deploy().await;
    }
    root.scale_up(&service).await;
    let refused = root.instance(&service, 2).await;
    assert_eq!(refused.status.as_str(), "NoActiveClusterWithCapacity");
    assert!(
        refused.status_detail.contains("w1: node port 53/udp, 8080/tcp is published"),
        "{refused:?}"
    );
    // The cluster reports what is taken, and then that one has left.
    let mut taken = rooms;
    taken[0].node_ports.insert("8080/tcp".to_owned().try_into().unwrap());
    cluster.resources(taken.clone()).await;
    cluster.query(by_name("wait until that has arrived")).await;
    assert_eq!(root.instance(&service, 2).await.status, refused.status);
}

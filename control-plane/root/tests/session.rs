//! The session between cluster and root over real sockets, seen from both its ends and from REST.

mod support;

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::json;
use support::{FakeCluster, TestRoot, observed, peer, room, sla, wait_for};
use tokio_tungstenite::tungstenite::Message;
use xylem_types::{
    instance::InstanceStatus::{
        Completed, Creating, Failed, NoWorkerCapacity, NodeScheduled, Running, Undeployed,
    },
    mqtt::{IpType, TableQuery, UpdateKind},
    session::{Drain, FromCluster, FromRoot, InstanceKey, SubnetResult},
};

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
async fn a_table_query_answers_by_name_and_by_every_address() {
    let (root, mut cluster, service) = one_of_each().await;
    root.scale_up(&service).await;
    let placement = cluster.next_deploy().await;
    let job = root.service(&service).await;

    let empty = cluster.query(by_ip(job.rr_ip)).await;
    assert_eq!(empty.app_name, "shop.test.web.test");
    assert!(empty.instance_list.is_empty());
    assert_eq!(empty.service_ip[0].address, Some(job.rr_ip));

    cluster.report(observed(&placement, Running, "w1")).await;
    let instance = root.instance_is(&service, 0, "it to run", |i| i.status == Running).await;
    let (ip, ip_v6) = (instance.instance_ip.unwrap(), instance.instance_ip_v6.unwrap());
    for query in [
        by_name("shop.test.web.test"),
        by_ip(job.rr_ip),
        by_ip(job.rr_ip_v6.unwrap()),
        by_ip(ip),
        by_ip(ip_v6),
    ] {
        let answer = cluster.query(query.clone()).await;
        assert_eq!(answer.app_name, "shop.test.web.test");
        assert_eq!(answer.query_key, query.sname + &query.sip);
        let [entry] = answer.instance_list.as_slice() else { panic!("{answer:?}") };
        assert_eq!((entry.instance_number, entry.namespace_ip.as_str()), (0, "10.18.1.2"));
        assert_eq!((entry.host_ip.as_str(), entry.host_port), ("192.0.2.1", 50_103));
        let addresses: Vec<_> = entry.service_ip.iter().map(|a| (a.ip_type, a.address)).collect();
        let of_service = |place: usize| job.service_ip_list[place].address;
        assert_eq!(
            addresses,
            [
                (IpType::RoundRobin, Some(job.rr_ip)),
                (IpType::Closest, of_service(1)),
                (IpType::Underutilized, of_service(2)),
                (IpType::Affinity, of_service(3)),
                (IpType::Instance, Some(ip)),
            ]
        );
        assert_eq!(answer.service_ip, job.service_ip_list);
        assert_eq!((entry.draining, entry.cpu_percent), (false, Some(1.5)));
    }
    for address in &job.service_ip_list {
        for ip in [address.address.unwrap().to_string(), address.address_v6.unwrap().to_string()] {
            assert_eq!(cluster.query(by_ip(&ip)).await.app_name, "shop.test.web.test", "{ip}");
        }
    }
    for query in [by_name("no.such.service.here"), by_ip("10.30.200.1"), by_ip("nonsense")] {
        let answer = cluster.query(query.clone()).await;
        assert_eq!((answer.app_name.as_str(), answer.query_key), ("", query.sname + &query.sip));
    }
}

#[tokio::test]
async fn who_holds_an_interest_hears_of_changes_and_nobody_else() {
    let (root, mut munich, service) = one_of_each().await;
    let mut paris = FakeCluster::ready(root.address, "paris", Vec::new()).await;
    let mut oslo = FakeCluster::ready(root.address, "oslo", Vec::new()).await;
    paris.query(by_name("shop.test.web.test")).await;
    let changed = |change| FromRoot::ServiceChanged {
        job_name: "shop.test.web.test".to_owned(),
        change,
        load: Vec::new(),
    };
    let next_change = async |cluster: &mut FakeCluster| loop {
        let message = cluster.next().await;
        // News of load come when they come.
        if matches!(&message, FromRoot::ServiceChanged { load, .. } if load.is_empty()) {
            break message;
        }
    };

    root.scale_up(&service).await;
    let placement = munich.next_deploy().await;
    munich.report(observed(&placement, Running, "w1")).await;
    assert_eq!(next_change(&mut paris).await, changed(UpdateKind::Deployment));
    // The same again is no change; another worker is.
    munich.report(observed(&placement, Running, "w1")).await;
    let mut moved = observed(&placement, Running, "w2");
    moved.host_ip = "192.0.2.2".to_owned();
    munich.report(moved).await;
    assert_eq!(next_change(&mut paris).await, changed(UpdateKind::Deployment));
    assert_eq!(
        paris.query(by_name("shop.test.web.test")).await.instance_list[0].host_ip,
        "192.0.2.2"
    );

    // An interest outlives a break of the session, and a root.
    drop(paris);
    let root = root.restart().await;
    let (mut paris, _) = FakeCluster::connect(root.address, "paris").await;
    root.delete(&format!("/api/service/{service}/instance/0")).await;
    assert_eq!(next_change(&mut paris).await, changed(UpdateKind::Undeployment));
    let answer = paris.query(by_name("shop.test.web.test")).await;
    assert!(answer.instance_list[0].draining, "its cluster has yet to stop it: {answer:?}");

    paris.send(FromCluster::InterestRemove { job_name: "shop.test.web.test".to_owned() }).await;
    paris.query(by_name("wait until that has arrived")).await;
    root.scale_up(&service).await;
    let (mut munich, desired) = FakeCluster::connect(root.address, "munich").await;
    munich.snapshot(desired.iter().map(|p| observed(p, Running, "w1")).collect()).await;
    munich.resources(vec![room("w1", 8.0)]).await;
    let placement = munich.next_deploy().await;
    munich.report(observed(&placement, Running, "w1")).await;
    root.instance_is(&service, 1, "it to run", |i| i.status == Running).await;
    let heard = paris.within(Duration::from_millis(100)).await;
    assert!(!heard.iter().any(|m| matches!(m, FromRoot::ServiceChanged { .. })), "{heard:?}");
    assert_eq!(oslo.within(Duration::from_millis(10)).await.len(), 1, "its peers, none");
}

#[tokio::test]
async fn an_instance_that_is_removed_drains_until_its_cluster_has_confirmed() {
    let (root, mut munich, service) = one_of_each().await;
    let mut paris = FakeCluster::ready(root.address, "paris", Vec::new()).await;
    paris.query(by_name("shop.test.web.test")).await;
    let mut placements = Vec::new();
    for number in 0..2 {
        root.scale_up(&service).await;
        let placement = munich.next_deploy().await;
        munich.report(observed(&placement, Running, "w1")).await;
        root.instance_is(&service, number, "it to run", |i| i.status == Running).await;
        placements.push(placement);
    }
    let next_undeploy = async |cluster: &mut FakeCluster| loop {
        if let FromRoot::Undeploy { key, drain, .. } = cluster.next().await {
            break (key.instance_number, drain);
        }
    };
    root.delete(&format!("/api/service/{service}/instance/0")).await;
    assert_eq!(next_undeploy(&mut munich).await, (0, Drain::Always));
    let draining = async |cluster: &mut FakeCluster| -> Vec<(u32, bool)> {
        let answer = cluster.query(by_name("shop.test.web.test")).await;
        answer.instance_list.iter().map(|i| (i.instance_number, i.draining)).collect()
    };
    assert_eq!(draining(&mut paris).await, [(0, true), (1, false)]);
    let mut report = observed(&placements[0], Running, "w1");
    report.status_detail = "draining".to_owned();
    munich.report(report).await;
    root.instance_is(&service, 0, "what its cluster says", |i| i.status_detail == "draining").await;
    munich.report(observed(&placements[0], Undeployed, "w1")).await;
    wait_for("it to be gone", async || (draining(&mut paris).await.len() == 1).then_some(())).await;

    // The whole service goes, and another cluster dials it: it drains, and is known until then.
    let application = root.get("/api/applications").await[0]["_id"].clone();
    root.delete(&format!("/api/application/{}", application.as_str().unwrap())).await;
    assert_eq!(next_undeploy(&mut munich).await, (1, Drain::Always));
    let query = by_name("wait until what was sent has arrived");
    paris.send(FromCluster::TableQuery { request_id: 8, query }).await;
    loop {
        match paris.next().await {
            FromRoot::TableAnswer { request_id: 8, .. } => break,
            FromRoot::ServiceChanged { load, .. } if load.is_empty() => {
                panic!("it would ask, and forget the service")
            }
            _ => {}
        }
    }
    munich.report(observed(&placements[1], Undeployed, "w1")).await;
    loop {
        if let FromRoot::ServiceChanged { change, load, .. } = paris.next().await
            && load.is_empty()
        {
            assert_eq!(change, UpdateKind::Undeployment);
            break;
        }
    }
    assert_eq!(paris.query(by_name("shop.test.web.test")).await.app_name, "");

    // Nobody elsewhere dials this one.
    let service = root.create(sla("quiet", &["web"])).await.remove(0);
    root.scale_up(&service).await;
    let placement = munich.next_deploy().await;
    munich.report(observed(&placement, Running, "w1")).await;
    root.instance_is(&service, 0, "it to run", |i| i.status == Running).await;
    root.delete(&format!("/api/service/{service}/instance/-1")).await;
    assert_eq!(next_undeploy(&mut munich).await, (0, Drain::IfDialled));
}

#[tokio::test]
async fn what_instances_use_is_told_to_clusters_that_dial_them() {
    let (root, mut munich, service) = one_of_each().await;
    let mut paris = FakeCluster::ready(root.address, "paris", Vec::new()).await;
    root.scale_up(&service).await;
    let placement = munich.next_deploy().await;
    let mut report = observed(&placement, Running, "w1");
    munich.report(report.clone()).await;
    root.instance_is(&service, 0, "it to run", |i| i.status == Running).await;
    assert_eq!(
        paris.query(by_name("shop.test.web.test")).await.instance_list[0].cpu_percent,
        Some(1.5)
    );
    report.cpu_percent = 90.0;
    munich.report(report).await;
    let load = loop {
        if let FromRoot::ServiceChanged { load, .. } = paris.next().await
            && load.first().is_some_and(|load| load.cpu_percent > 2.0)
        {
            break load;
        }
    };
    assert_eq!((load.len(), load[0].instance_number, load[0].cpu_percent), (1, 0, 90.0));
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

#[tokio::test]
async fn workers_that_exchange_packets_across_clusters_are_peers() {
    let (root, mut munich, service) = one_of_each().await;
    munich.send(FromCluster::Workers { workers: vec![peer("w2", 2), peer("w1", 1)] }).await;
    let mut paris = FakeCluster::ready(root.address, "paris", Vec::new()).await;
    paris.send(FromCluster::Workers { workers: vec![peer("p1", 11), peer("p2", 12)] }).await;
    root.scale_up(&service).await;
    let placement = munich.next_deploy().await;
    munich.report(observed(&placement, Running, "w1")).await;
    root.instance_is(&service, 0, "it to run", |i| i.status == Running).await;

    paris.query(by_name("shop.test.web.test")).await;
    assert_eq!(paris.next_peers().await, [peer("w1", 1)], "only who runs it");
    assert_eq!(munich.next_peers().await, [peer("p1", 11), peer("p2", 12)], "all may dial it");

    // A root that starts must not withdraw the workers of a cluster that is not back yet.
    let root = root.restart().await;
    let (mut munich, desired) = FakeCluster::connect(root.address, "munich").await;
    munich.snapshot(vec![observed(&desired[0], Running, "w1")]).await;
    assert_eq!(munich.next_peers().await, [peer("p1", 11), peer("p2", 12)]);

    let (mut paris, _) = FakeCluster::connect(root.address, "paris").await;
    paris.send(FromCluster::InterestRemove { job_name: "shop.test.web.test".to_owned() }).await;
    loop {
        if let FromRoot::Peers { peers } = munich.next().await {
            assert_eq!(peers, []);
            break;
        }
    }
}

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

//! What clusters are told of services, and of one another's workers.

use std::time::Duration;

use xylem_types::{
    instance::InstanceStatus::{Running, Undeployed},
    mqtt::{IpType, UpdateKind},
    session::{Drain, FromCluster, FromRoot},
};

use crate::{
    by_ip, by_name, one_of_each,
    support::{FakeCluster, observed, peer, room, sla, wait_for},
};

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

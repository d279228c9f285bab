//! Addresses and ports that are wanted, given and refused.

use std::collections::BTreeSet;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use xylem_store::{StoreError, Table};

use crate::{
    fields,
    support::{TestRoot, sla},
};

#[tokio::test]
async fn an_address_that_a_service_wants_is_not_given_to_one_before_it() {
    let root = TestRoot::start().await;
    let mut wanted = sla("shop", &["a", "b"]);
    wanted["applications"][0]["microservices"][1]["addresses"] = json!({ "rr_ip": "10.30.0.1" });
    let services = root.create(wanted).await;
    let first = root.service(&services[0]).await;
    assert_eq!(
        (first.service_name.as_str(), first.rr_ip.to_string()),
        ("a", "10.30.0.2".to_owned())
    );
}

#[tokio::test]
async fn the_service_ip_of_each_policy_can_be_wanted_once() {
    let root = TestRoot::start().await;
    let wanted = json!({
        "rr_ip": "10.30.1.1", "closest_ip": "10.30.1.2", "underutilized_ip": "10.30.1.3",
        "affinity_ip": "10.30.1.4", "rr_ip_v6": "fdff:2000::11", "closest_ip_v6": "fdff:1000::12",
        "underutilized_ip_v6": "fdff:3000::13", "affinity_ip_v6": "fdff:4000::14",
    });
    let with = |name: &str, addresses: serde_json::Value| {
        let mut sla = sla(name, &["web"]);
        sla["applications"][0]["microservices"][0]["addresses"] = addresses;
        sla
    };
    let service = root.create(with("first", wanted.clone())).await.remove(0);
    let got: Vec<_> = root
        .service(&service)
        .await
        .service_ip_list
        .iter()
        .map(|a| (a.address.unwrap().to_string(), a.address_v6.unwrap().to_string()))
        .collect();
    let text = |v4: &str, v6: &str| (v4.to_owned(), v6.to_owned());
    assert_eq!(
        got,
        [
            text("10.30.1.1", "fdff:2000::11"),
            text("10.30.1.2", "fdff:1000::12"),
            text("10.30.1.3", "fdff:3000::13"),
            text("10.30.1.4", "fdff:4000::14"),
        ]
    );

    // All that are taken are named, also where another policy has it.
    let mut clash = wanted.clone();
    clash["rr_ip"] = json!("10.30.1.4");
    clash["closest_ip"] = json!("10.30.1.200");
    clash["affinity_ip"] = json!("10.30.1.201");
    let (status, answer) =
        root.call(Method::POST, "/api/application/", Some(with("second", clash))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let path = "applications[0].microservices[0].addresses.";
    let refused: Vec<_> = fields(&answer).iter().map(|f| f.replace(path, "")).collect();
    assert_eq!(
        refused,
        [
            "rr_ip",
            "rr_ip_v6",
            "closest_ip_v6",
            "underutilized_ip",
            "underutilized_ip_v6",
            "affinity_ip_v6",
        ]
    );

    // They outlive a restart, and are free again once the service is deleted.
    let root = root.restart().await;
    let again: Vec<_> = root.service(&service).await.service_ip_list;
    assert_eq!(again[3].address.unwrap().to_string(), "10.30.1.4");
    root.delete(&format!("/api/service/{service}")).await;
    root.create(with("third", wanted)).await;
}

#[tokio::test]
async fn instances_get_the_addresses_that_are_wanted_for_them() {
    let root = TestRoot::start().await;
    let with = |name: &str, ranges: serde_json::Value| {
        let mut sla = sla(name, &["web"]);
        sla["applications"][0]["microservices"][0]["addresses"] = json!({ "instances": ranges });
        sla
    };
    let ranges = json!([
        { "from": 1, "to": 2, "start": "10.30.5.1" },
        { "from": 0, "to": 0, "start": "fdff::77" },
    ]);
    let service = root.create(with("first", ranges.clone())).await.remove(0);
    for _ in 0..4 {
        root.scale_up(&service).await;
    }
    let got: Vec<_> = root
        .service(&service)
        .await
        .instance_list
        .iter()
        .map(|i| (i.instance_ip.unwrap().to_string(), i.instance_ip_v6.unwrap().to_string()))
        .collect();
    assert_eq!(got[0], ("10.30.0.5".to_owned(), "fdff::77".to_owned()));
    assert_eq!((got[1].0.as_str(), got[2].0.as_str()), ("10.30.5.1", "10.30.5.2"));
    assert_eq!(got[3].0, "10.30.0.6");

    // They are the service's before there is an instance, and for as long as there is one.
    root.delete(&format!("/api/service/{service}/instance/-1")).await;
    root.delete(&format!("/api/service/{service}")).await;
    let second = root.create(with("second", ranges.clone())).await.remove(0);
    let (status, answer) =
        root.call(Method::POST, "/api/application/", Some(with("third", ranges.clone()))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let path = "applications[0].microservices[0].addresses.instances";
    assert_eq!(fields(&answer), [format!("{path}[0].start"), format!("{path}[1].start")]);
    assert_eq!(answer["errors"][0]["reason"], "10.30.5.1, of instance 1, is taken");
    root.delete(&format!("/api/service/{second}")).await;
    root.create(with("third", ranges)).await;
}

#[tokio::test]
async fn a_port_that_cannot_be_published_is_refused_with_the_reason() {
    let root = TestRoot::start().await;
    for (port, reason) in [
        ("http:80", "\"http:80\": \"http\" is no port, which is a number from 1 to 65535"),
        ("80/icmp", "\"80/icmp\": protocol \"icmp\" is unknown, it must be tcp or udp"),
        ("80:1;80:2", "\"80:2\": port 80/tcp of the node is given twice"),
    ] {
        let mut wanted = sla("shop", &["web"]);
        wanted["applications"][0]["microservices"][0]["port"] = json!(port);
        let (status, answer) = root.call(Method::POST, "/api/application", Some(wanted)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{port}");
        assert_eq!(fields(&answer), ["applications[0].microservices[0].port"]);
        assert_eq!(answer["errors"][0]["reason"], reason);
    }
    let mut wanted = sla("shop", &["web"]);
    let port = "8080:80/tcp;53:53/udp;9000";
    wanted["applications"][0]["microservices"][0]["port"] = json!(port);
    let service = root.create(wanted).await.remove(0);
    assert_eq!(root.service(&service).await.sla.port, port);
}

#[tokio::test]
async fn a_service_ip_outside_the_range_is_refused_with_the_reason() {
    let root = TestRoot::start().await;
    for ip in ["10.31.0.1", "10.30.0.0", "10.30.255.255", "256.1.1.1"] {
        let mut wanted = sla("shop", &["web"]);
        wanted["applications"][0]["microservices"][0]["addresses"] = json!({ "rr_ip": ip });
        let (status, answer) = root.call(Method::POST, "/api/application", Some(wanted)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{ip}");
        assert_eq!(fields(&answer), ["applications[0].microservices[0].addresses.rr_ip"]);
        assert!(answer["errors"][0]["reason"].as_str().unwrap().contains(ip), "{answer}");
    }
    let mut wanted = sla("shop", &["web"]);
    wanted["applications"][0]["microservices"][0]["addresses"] = json!({ "rr_ip": "10.30.9.9" });
    let services = root.create(wanted).await;
    assert_eq!(root.service(&services[0]).await.rr_ip.to_string(), "10.30.9.9");
}

#[tokio::test]
async fn services_of_an_older_root_get_the_service_ips_that_they_lack() {
    let root = TestRoot::start().await;
    let mut wanted = sla("shop", &["web", "db"]);
    wanted["applications"][0]["microservices"][0]["addresses"] =
        json!({ "affinity_ip": "10.30.9.9" });
    let services = root.create(wanted).await;
    let before: Vec<_> =
        [root.service(&services[0]).await.rr_ip, root.service(&services[1]).await.rr_ip].into();
    let round_robin: Vec<_> =
        before.iter().map(|ip| format!("{:032x}", u128::from(ip.to_bits()))).collect();
    let root = root
        .restart_after(|store| {
            // As a root wrote it that knew round robin only.
            store.transact_blocking(|tx| {
                let jobs: Table<Value> = Table::new("services");
                for (key, mut job) in tx.scan(jobs, "")? {
                    job.as_object_mut().unwrap().remove("service_ip_list");
                    tx.put(jobs, &key, &job)?;
                }
                for name in ["service_ips", "closest_v6", "underutilized_v6", "affinity_v6"] {
                    let leases: Table<Value> = Table::new(name);
                    for (key, _) in tx.scan(leases, "")? {
                        if !round_robin.contains(&key) {
                            tx.delete(leases, &key)?;
                        }
                    }
                }
                Ok::<_, StoreError>(())
            })
        })
        .await;

    let mut all = BTreeSet::new();
    for (service, rr_ip) in services.iter().zip(&before) {
        let job = root.service(service).await;
        assert_eq!(job.rr_ip, *rr_ip, "what they had they keep");
        assert_eq!(job.service_ip_list[0].address, Some(*rr_ip));
        assert_eq!(job.service_ip_list.len(), 4);
        all.extend(job.service_ip_list.iter().map(|address| address.address.unwrap()));
        for address in &job.service_ip_list {
            assert!(address.ip_type.range_v6().contains(&address.address_v6.unwrap()));
        }
    }
    assert_eq!(all.len(), 8, "nobody has another's: {all:?}");
    let wanted = root.service(&services[0]).await.service_ip_list[3].address.unwrap();
    assert_eq!(wanted.to_string(), "10.30.9.9", "what the user wanted all along");
    let after = root.get("/api/services").await;
    let root = root.restart().await;
    assert_eq!(root.get("/api/services").await, after, "they keep these");
    for service in &services {
        root.delete(&format!("/api/service/{service}")).await;
    }
    let metrics = root.get("/metrics").await;
    assert!(metrics.as_str().unwrap().contains("\nxylem_root_service_ips 0\n"), "{metrics}");
}

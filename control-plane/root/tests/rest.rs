//! The REST API, called in-process on a root with a real store.

mod support;

use std::collections::BTreeSet;

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use support::{PASSWORD, TestRoot, sla};
use xylem_store::{StoreError, Table};

fn fields(answer: &Value) -> Vec<&str> {
    answer["errors"].as_array().unwrap().iter().map(|e| e["field"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn every_call_but_login_takes_a_token() {
    let root = TestRoot::start().await;
    for (method, path) in [
        (Method::GET, "/api/applications/"),
        (Method::POST, "/api/application/"),
        (Method::GET, "/api/services/"),
        (Method::GET, "/api/clusters/active"),
        (Method::GET, "/api/nodes/"),
        (Method::PUT, "/api/nodes/x/availability"),
        (Method::POST, "/api/auth/refresh"),
        (Method::POST, "/api/auth/register"),
        (Method::DELETE, "/api/service/x/instance/-1"),
    ] {
        for token in ["", "nonsense", "a.b.c"] {
            let (status, answer) = root.call_as(token, method.clone(), path, None).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}");
            assert!(answer["message"].is_string(), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_wrong_name_password_or_organization_is_refused() {
    let root = TestRoot::start().await;
    for body in [
        json!({ "username": "Admin", "password": "Admin" }),
        json!({ "username": "nobody", "password": PASSWORD }),
        json!({ "username": "Admin", "password": PASSWORD, "organization_name": "other" }),
    ] {
        let (status, _) = root.call_as("", Method::POST, "/api/auth/login", Some(body)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let (status, _) = root.call_as("", Method::POST, "/api/auth/login", Some(json!({}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_refresh_token_gives_an_access_token_and_nothing_else() {
    let root = TestRoot::start().await;
    let body = json!({ "username": "Admin", "password": PASSWORD, "organization_name": "root" });
    let (_, answer) = root.call_as("", Method::POST, "/api/auth/login", Some(body)).await;
    let refresh = answer["refresh_token"].as_str().unwrap();
    let (status, _) = root.call_as(refresh, Method::GET, "/api/clusters", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, answer) = root.call_as(refresh, Method::POST, "/api/auth/refresh", None).await;
    assert_eq!(status, StatusCode::OK);
    let access = answer["token"].as_str().unwrap();
    let (status, _) = root.call_as(access, Method::GET, "/api/clusters", None).await;
    assert_eq!(status, StatusCode::OK);
    let (status, _) = root.call_as(access, Method::POST, "/api/auth/refresh", None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_application_is_shown_as_oakestras_clients_decode_it() {
    let root = TestRoot::start().await;
    let services = root.create(sla("shop", &["web", "db"])).await;
    let all = root.get("/api/applications").await;
    let application = &all[0];
    assert_eq!(application["_id"], application["applicationID"]);
    assert_eq!(application["applicationID"].as_str().unwrap().len(), 24);
    assert_eq!(application["application_desc"], "for tests");
    assert_eq!(application["microservices"], json!(services));

    root.scale_up(&services[0]).await;
    let job = root.get(&format!("/api/service/{}", services[0])).await;
    assert_eq!(job["_id"], job["microserviceID"]);
    assert_eq!(job["applicationID"], application["applicationID"]);
    assert_eq!(job["job_name"], "shop.test.web.test");
    assert_eq!(job["app_name"], "shop");
    assert_eq!(job["virtualization"], "docker");
    assert_eq!((&job["code"], &job["image"]), (&job["image"], &job["code"]));
    assert_eq!((&job["memory"], &job["vcpus"], &job["vgpus"]), (&json!(100), &json!(1), &json!(0)));
    assert_eq!(job["environment"], json!(["A=b"]));
    assert_eq!(job["RR_ip"], "10.30.0.1");
    assert_eq!(job["RR_ip_v6"], "fdff:2000::1");
    assert_eq!(
        job["service_ip_list"],
        json!([
            { "IpType": "RR", "Address": "10.30.0.1", "Address_v6": "fdff:2000::1" },
            { "IpType": "Closest", "Address": "10.30.0.2", "Address_v6": "fdff:1000::1" },
            { "IpType": "Underutilized", "Address": "10.30.0.3", "Address_v6": "fdff:3000::1" },
            { "IpType": "Affinity", "Address": "10.30.0.4", "Address_v6": "fdff:4000::1" },
        ])
    );
    let instance = &job["instance_list"][0];
    for text in ["cpu_percent", "memory_percent", "disk", "logs", "worker_id", "host_ip", "status"]
    {
        assert!(instance[text].is_string(), "{text}: {instance}");
    }
    for whole in ["instance_number", "host_port"] {
        assert!(instance[whole].is_u64(), "{whole}: {instance}");
    }
    assert!(instance["cpu_history"].is_array());

    let by_application = root
        .get(&format!("/api/services/{}", application["applicationID"].as_str().unwrap()))
        .await;
    assert_eq!(by_application.as_array().unwrap().len(), 2);
    assert_eq!(root.get("/api/services/").await, by_application);
}

#[tokio::test]
async fn an_invalid_descriptor_is_refused_with_every_field() {
    let root = TestRoot::start().await;
    let mut bad = sla("shop", &["web", "db"]);
    bad["applications"][0]["microservices"][1]["memory"] = json!(-5);
    bad["applications"][0]["microservices"][0]["code"] = json!("");
    bad["applications"][0]["application_name"] = json!("a b");
    let (status, answer) = root.call(Method::POST, "/api/application/", Some(bad)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        fields(&answer),
        [
            "applications[0].microservices[0].code",
            "applications[0].microservices[1].memory",
            "applications[0].application_name",
        ]
    );
    assert_eq!(answer["errors"][1]["reason"], "must not be negative");
    let (status, _) = root.call(Method::POST, "/api/application/", Some(json!([1]))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(root.get("/api/applications").await, json!([]));
}

#[tokio::test]
async fn what_is_refused_leaves_nothing_behind() {
    let root = TestRoot::start().await;
    root.create(sla("shop", &["web"])).await;

    // The name of the second application is taken.
    let mut two = sla("first", &["a", "b"]);
    let taken = sla("shop", &["c"])["applications"][0].clone();
    two["applications"].as_array_mut().unwrap().push(taken);
    let (status, answer) = root.call(Method::POST, "/api/application/", Some(two)).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(answer["message"], "application shop.test exists already");

    // The address that the last service wants is another application's.
    let mut clash = sla("second", &["a", "b"]);
    clash["applications"][0]["microservices"][1]["addresses"] = json!({ "rr_ip": "10.30.0.1" });
    let (status, answer) = root.call(Method::POST, "/api/application/", Some(clash)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(fields(&answer), ["applications[0].microservices[1].addresses.rr_ip"]);
    assert!(answer["errors"][0]["reason"].as_str().unwrap().contains("taken"));

    assert_eq!(root.get("/api/applications").await.as_array().unwrap().len(), 1);
    assert_eq!(root.get("/api/services").await.as_array().unwrap().len(), 1);
    let metrics = root.get("/metrics").await;
    assert!(metrics.as_str().unwrap().contains("\nxylem_root_service_ips 4\n"), "{metrics}");
}

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
async fn services_are_added_to_an_application_and_deleted() {
    let root = TestRoot::start().await;
    root.create(sla("shop", &["web"])).await;
    let id = root.get("/api/applications").await[0]["applicationID"].clone();
    let path = format!("/api/application/{}", id.as_str().unwrap());

    let mut more = sla("ignored", &["db", "cache"]);
    let (status, answer) = root.call(Method::POST, "/api/service/", Some(more.clone())).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(fields(&answer), ["applications[0].applicationID"]);

    more["applications"][0]["applicationID"] = id;
    let answer = root.post("/api/service/", Some(more.clone())).await;
    assert_eq!(answer["failed_services"], json!([]));
    assert_eq!(answer["deployed_services"][0]["service_name"], "db");
    assert_eq!(answer["deployed_services"][1]["status"], 200);
    let job_id = answer["job_id"].as_str().unwrap();
    assert_eq!(root.service(job_id).await.job_name, "shop.test.cache.test");
    let (status, _) = root.call(Method::POST, "/api/service/", Some(more)).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(root.get(&path).await["microservices"].as_array().unwrap().len(), 3);

    root.delete(&format!("/api/service/{job_id}/")).await;
    assert_eq!(root.get(&path).await["microservices"].as_array().unwrap().len(), 2);
    let (status, _) = root.call(Method::GET, &format!("/api/service/{job_id}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);

    root.delete(&path).await;
    assert_eq!(root.get("/api/services/").await, json!([]));
    root.create(sla("shop", &["web"])).await;
}

#[tokio::test]
async fn an_application_can_be_described_anew_and_renamed_while_it_is_empty() {
    let root = TestRoot::start().await;
    root.create(sla("shop", &["web"])).await;
    root.create(sla("empty", &[])).await;
    let all = root.get("/api/applications").await;
    let path_of = |name: &str| {
        let all = all.as_array().unwrap();
        let app = all.iter().find(|app| app["application_name"] == name).unwrap();
        format!("/api/application/{}", app["_id"].as_str().unwrap())
    };

    let update = json!({ "application_desc": "new", "application_name": "shop" });
    let (status, answer) = root.call(Method::PUT, &path_of("shop"), Some(update)).await;
    assert_eq!((status, &answer["application_desc"]), (StatusCode::OK, &json!("new")));

    let rename = |name: &str| Some(json!({ "application_name": name }));
    let (status, answer) = root.call(Method::PUT, &path_of("shop"), rename("store")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    let (status, _) = root.call(Method::PUT, &path_of("empty"), rename("shop")).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let (status, answer) = root.call(Method::PUT, &path_of("empty"), rename("store")).await;
    assert_eq!((status, &answer["application_name"]), (StatusCode::OK, &json!("store")));
}

#[tokio::test]
async fn what_belongs_to_somebody_else_is_not_there() {
    let root = TestRoot::start().await;
    let account = json!({ "name": "eve", "password": "eve", "roles": ["Application_Provider"] });
    root.post("/api/auth/register", Some(account.clone())).await;
    let (status, _) = root.call(Method::POST, "/api/auth/register", Some(account.clone())).await;
    assert_eq!(status, StatusCode::CONFLICT);
    let eve = root.login("eve", "eve").await;
    let (status, _) = root.call_as(&eve, Method::POST, "/api/auth/register", Some(account)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);

    let services = root.create(sla("shop", &["web"])).await;
    let application = root.get("/api/applications").await[0]["_id"].clone();
    let application = application.as_str().unwrap();
    root.scale_up(&services[0]).await;
    for (method, path) in [
        (Method::GET, format!("/api/application/{application}")),
        (Method::DELETE, format!("/api/application/{application}")),
        (Method::GET, format!("/api/services/{application}")),
        (Method::GET, format!("/api/service/{}", services[0])),
        (Method::DELETE, format!("/api/service/{}", services[0])),
        (Method::POST, format!("/api/service/{}/instance", services[0])),
        (Method::DELETE, format!("/api/service/{}/instance/0", services[0])),
        (Method::GET, "/api/application/none".to_owned()),
    ] {
        let (status, _) = root.call_as(&eve, method.clone(), &path, None).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    for path in ["/api/applications/", "/api/services/"] {
        let (status, answer) = root.call_as(&eve, Method::GET, path, None).await;
        assert_eq!((status, answer), (StatusCode::OK, json!([])), "{path}");
    }
    let (status, own) =
        root.call_as(&eve, Method::POST, "/api/application", Some(sla("mine", &["web"]))).await;
    assert_eq!((status, own.as_array().unwrap().len()), (StatusCode::OK, 1));
    let of_eve = format!("/api/applications/{}", own[0]["userId"].as_str().unwrap());
    assert_eq!(root.get(&of_eve).await, own, "an Admin sees them");
    let (status, seen) = root.call_as(&eve, Method::GET, &of_eve, None).await;
    assert_eq!((status, seen), (StatusCode::OK, own));
    let (status, _) = root.call_as(&eve, Method::GET, "/api/applications/other", None).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_password_can_be_changed_by_its_user() {
    let root = TestRoot::start().await;
    let change = |old: &str| Some(json!({ "oldPassword": old, "newPassword": "new" }));
    let (status, _) = root.call(Method::POST, "/api/user/Admin", change("wrong")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let (status, _) = root.call(Method::POST, "/api/user/other", change(PASSWORD)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    root.post("/api/user/Admin", change(PASSWORD)).await;
    root.login("Admin", "new").await;
}

#[tokio::test]
async fn without_a_cluster_an_instance_waits_and_says_so() {
    let root = TestRoot::start().await;
    let services = root.create(sla("shop", &["web"])).await;
    assert_eq!(root.scale_up(&services[0]).await, 0);
    assert_eq!(root.scale_up(&services[0]).await, 1);
    let job = root.service(&services[0]).await;
    assert_eq!(job.status.as_str(), "NoActiveClusterWithCapacity");
    assert_eq!(
        job.instance_list[1].status_detail,
        "no cluster is connected and reports its resources"
    );
    assert_eq!(job.instance_list[1].instance_ip.unwrap().to_string(), "10.30.0.6");

    let instance = |n: &str| format!("/api/service/{}/instance/{n}", services[0]);
    for (number, expected) in [
        ("7", StatusCode::NOT_FOUND),
        ("-2", StatusCode::UNPROCESSABLE_ENTITY),
        ("x", StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let (status, _) = root.call(Method::DELETE, &instance(number), None).await;
        assert_eq!(status, expected, "{number}");
    }
    root.delete(&instance("0")).await;
    let left = root.service(&services[0]).await.instance_list;
    assert_eq!(left.iter().map(|i| i.instance_number).collect::<Vec<_>>(), [1]);
    assert_eq!(root.scale_up(&services[0]).await, 2, "a number is not used again");
    root.delete(&instance("-1")).await;
    assert!(root.service(&services[0]).await.instance_list.is_empty());
}

#[tokio::test]
async fn a_direct_constraint_on_an_unknown_cluster_says_so() {
    let root = TestRoot::start().await;
    let mut direct = sla("shop", &["web"]);
    direct["applications"][0]["microservices"][0]["constraints"] =
        json!([{ "type": "direct", "cluster": "atlantis" }]);
    let services = root.create(direct).await;
    root.scale_up(&services[0]).await;
    let instance = root.instance(&services[0], 0).await;
    assert_eq!(instance.status.as_str(), "TargetClusterNotFound");
    assert!(instance.status_detail.contains("atlantis"));
}

#[tokio::test]
async fn a_restart_loses_nothing() {
    let root = TestRoot::start().await;
    let services = root.create(sla("shop", &["web", "db"])).await;
    root.scale_up(&services[0]).await;
    let before = root.get("/api/services").await;
    let root = root.restart().await;
    assert_eq!(root.get("/api/services").await, before);
    let later = root.create(sla("later", &["web"])).await;
    assert!(!services.contains(&later[0]));
    assert_eq!(root.service(&later[0]).await.rr_ip.to_string(), "10.30.0.10");
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

#[tokio::test]
async fn the_root_can_be_watched() {
    let root = TestRoot::start().await;
    let services = root.create(sla("shop", &["web"])).await;
    root.scale_up(&services[0]).await;
    let (status, health) = root.call_as("", Method::GET, "/health", None).await;
    assert_eq!((status, &health["status"]), (StatusCode::OK, &json!("ok")));
    let (status, metrics) = root.call_as("", Method::GET, "/metrics", None).await;
    assert_eq!(status, StatusCode::OK);
    let metrics = metrics.as_str().unwrap();
    for line in [
        "xylem_root_services 1",
        "xylem_root_service_ips 5",
        "xylem_root_instances{state=\"NoActiveClusterWithCapacity\"} 1",
        "xylem_root_clusters{state=\"active\"} 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in\n{metrics}");
    }
    let (status, answer) = root.call(Method::GET, "/api/nothing", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(answer["message"], "there is no /api/nothing here");
}

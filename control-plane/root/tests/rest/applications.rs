//! Applications, their services, and the root itself.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::{
    fields,
    support::{TestRoot, sla},
};

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

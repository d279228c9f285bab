//! What an operator does, with the real `xylem` and a real root.

mod support;

use std::os::unix::fs::PermissionsExt;

use support::Root;
use xylem_types::{
    instance::InstanceStatus,
    job::{Job, JobInstance},
    node::Availability,
    rest::{Application, Cluster, Node},
};

/// An application with one service of this image.
fn sla(name: &str, image: &str) -> String {
    format!(
        r#"{{
          "sla_version": "v2.0",
          "customerID": "Admin",
          "applications": [{{
            "application_name": "{name}",
            "application_namespace": "prod",
            "application_desc": "sells things",
            "microservices": [{{
              "microserviceID": "",
              "microservice_name": "web",
              "microservice_namespace": "front",
              "virtualization": "container",
              "code": "{image}",
              "memory": 64,
              "vcpus": 1
            }}]
          }}]
        }}"#
    )
}

fn numbers(instances: &[JobInstance]) -> Vec<u32> {
    instances.iter().map(|instance| instance.instance_number).collect()
}

#[test]
fn a_login_is_refused_or_kept_for_its_owner_alone() {
    let root = Root::start();
    assert!(root.xylem(&["app", "list"]).refused(1).contains("xylem login --root http://127"));

    let wrong = root.xylem(&["login", "--user", "Admin", "--password", "wrong"]);
    assert!(!wrong.refused(1).is_empty());
    assert!(!root.config_file().exists());

    let nobody_to_ask = root.xylem(&["login", "--user", "Admin"]);
    assert!(nobody_to_ask.refused(2).contains("--password-stdin"));

    root.xylem_with_input(&["login", "--user", "Admin", "--password-stdin"], "secret\n").ok();
    let mode = root.config_file().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(root.xylem(&["app", "list", "-o", "json"]).ok(), "[]\n");
}

#[test]
fn an_invalid_descriptor_is_refused_with_every_field() {
    let root = Root::logged_in();
    let file = root
        .file("bad.json", &sla("sh-op", "web:1").replace("64", "-1").replace("\"v2.0\"", "\"v9\""));
    let said = root.xylem(&["app", "create", &file]).refused(1);
    let fields: Vec<_> = said.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(fields.len(), 3, "{said}");
    for field in [
        "sla_version",
        "applications[0].application_name",
        "applications[0].microservices[0].memory",
    ] {
        assert!(fields.iter().any(|line| line.trim().starts_with(&format!("{field}: "))), "{said}");
    }
    assert!(root.xylem(&["app", "create", "/no/such/file"]).refused(1).contains("/no/such/file"));
    assert!(root.xylem_with_input(&["app", "create", "-"], "{").refused(1).contains("JSON"));
    assert_eq!(root.xylem(&["app", "list", "-o", "json"]).json::<Vec<Application>>(), []);
}

#[test]
fn an_application_is_created_shown_and_deleted() {
    let root = Root::logged_in();
    let file = root.file("shop.json", &sla("shop", "web:1"));
    let created: Vec<Application> = root.xylem(&["app", "create", &file, "-o", "json"]).json();
    assert_eq!(created.len(), 1);
    assert_eq!(created[0].application_name, "shop");
    assert!(root.xylem(&["app", "create", &file]).refused(1).contains("exists already"));

    let bakery = root.xylem_with_input(&["app", "create", "-"], &sla("bakery", "web:1")).ok();
    assert!(bakery.contains("bakery") && !bakery.contains("shop"), "{bakery}");

    let shown = root.xylem(&["app", "show", "shop.prod"]).ok();
    assert!(shown.contains("shop.prod.web.front") && shown.contains("sells things"), "{shown}");

    // `web` alone is in both.
    assert!(root.xylem(&["service", "inspect", "web"]).refused(1).contains("several services"));
    let job: Job = root.xylem(&["service", "inspect", "shop.prod.web.front", "-o", "json"]).json();
    assert_eq!(job.rr_ip.octets()[..2], [10, 30]);
    let inspected = root.xylem(&["service", "inspect", &job.id]).ok();
    assert_eq!(job.service_ip_list.len(), 4);
    for address in &job.service_ip_list {
        let (v4, v6) = (address.address.unwrap(), address.address_v6.unwrap());
        assert!(inspected.contains(&format!(" {v4}   {v6}\n")), "{inspected}");
    }
    let of_shop: Vec<Job> = root.xylem(&["service", "list", "--app", "shop", "-o", "json"]).json();
    assert_eq!(of_shop, [job]);

    assert!(root.xylem(&["app", "delete", "shop"]).refused(2).contains("--yes"));
    root.xylem(&["app", "delete", "shop", "--yes"]).ok();
    assert!(root.xylem(&["app", "show", "shop"]).refused(1).contains("no application"));
    assert!(root.xylem(&["service", "inspect", "web"]).ok().contains("bakery.prod.web.front"));
}

#[test]
fn a_service_is_deployed_scaled_and_undeployed() {
    let root = Root::logged_in();
    let _cluster = root.connect_cluster("munich");
    let file = root.file("shop.json", &sla("shop", "web:1"));

    let deployed = root.xylem(&["app", "create", &file, "--deploy", "--wait", "-o", "json"]);
    let instances: Vec<JobInstance> = deployed.json();
    assert_eq!(instances.len(), 1);
    assert_eq!(instances[0].status, InstanceStatus::Running);

    let table = root.xylem(&["service", "scale", "web", "3", "--wait"]).ok();
    assert_eq!(table.lines().count(), 4, "{table}");
    assert_eq!(table.matches(" RUNNING ").count(), 3, "{table}");
    assert_eq!(table.matches(" munich ").count(), 3, "{table}");
    assert_eq!(table.matches(" rack4 (0a1b2c3d) ").count(), 3, "{table}");

    assert_eq!(root.xylem(&["service", "logs", "web", "1"]).ok(), "hello of 1\n");
    let logs = root.xylem(&["service", "logs", "web"]).ok();
    assert_eq!(logs, "0 | hello of 0\n1 | hello of 1\n2 | hello of 2\n");

    root.xylem(&["service", "undeploy", "web", "--instance", "1", "--yes", "--wait"]).ok();
    let job: Job = root.xylem(&["service", "inspect", "web", "-o", "json"]).json();
    assert_eq!(numbers(&job.instance_list), [0, 2]);

    let fewer = root.xylem(&["service", "scale", "web", "1", "--wait", "-o", "json"]);
    let left: Vec<JobInstance> = fewer.json();
    assert_eq!(numbers(&left), [0]);

    assert!(root.xylem(&["service", "undeploy", "web"]).refused(2).contains("--yes"));
    assert!(
        root.xylem(&["service", "undeploy", "web", "--instance", "2", "-y"])
            .refused(1)
            .contains("no instance 2")
    );
    let job: Job = root.xylem(&["service", "inspect", "web", "-o", "json"]).json();
    assert_eq!(job.instance_list.len(), 1);

    root.xylem(&["service", "undeploy", "web", "--yes", "--wait"]).ok();
    let job: Job = root.xylem(&["service", "inspect", "web", "-o", "json"]).json();
    assert_eq!(job.instance_list, []);
}

#[test]
fn waiting_ends_with_the_cause_when_an_instance_fails() {
    let root = Root::logged_in();
    let _cluster = root.connect_cluster("munich");
    let file = root.file("shop.json", &sla("shop", "nowhere/missing:1"));
    root.xylem(&["app", "create", &file]).ok();

    let failed = root.xylem(&["service", "deploy", "web", "--wait", "--timeout", "20"]);
    assert!(failed.stdout.contains("FAILED"), "{failed:?}");
    let said = failed.refused(1);
    assert!(said.contains("cannot pull nowhere/missing:1: no such image"), "{said}");
}

#[test]
fn without_a_cluster_nothing_runs_and_the_status_says_why() {
    let root = Root::logged_in();
    let file = root.file("shop.json", &sla("shop", "web:1"));
    root.xylem(&["app", "create", &file]).ok();
    let said = root.xylem(&["service", "deploy", "web", "--wait", "--timeout", "1"]).refused(1);
    assert!(said.contains("instance 0"), "{said}");
    // Without --wait it is accepted, and runs when there is a cluster.
    root.xylem(&["service", "deploy", "web"]).ok();
    assert_eq!(root.xylem(&["cluster", "list", "-o", "json"]).json::<Vec<Cluster>>(), []);
    assert_eq!(root.xylem(&["node", "list", "-o", "json"]).ok(), "[]\n");
}

#[test]
fn clusters_and_their_workers_are_listed() {
    let root = Root::logged_in();
    let _cluster = root.connect_cluster("munich");
    let clusters = root.xylem(&["cluster", "list"]).ok();
    assert!(clusters.lines().nth(1).unwrap().contains("active"), "{clusters}");
    let nodes: Vec<Node> =
        root.xylem(&["node", "list", "--cluster", "munich", "-o", "json"]).json();
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].host_port, Some(50103));
    let table = root.xylem(&["node", "list"]).ok();
    assert!(table.contains("10.18.0.0/26"), "{table}");
    assert_eq!(root.xylem(&["node", "list", "--cluster", "oslo", "-o", "json"]).ok(), "[]\n");
}

#[test]
fn a_worker_is_cordoned_drained_and_taken_back() {
    let root = Root::logged_in();
    let _cluster = root.connect_cluster("munich");
    let state = || {
        let nodes: Vec<Node> = root.xylem(&["node", "list", "-o", "json"]).json();
        nodes[0].availability
    };
    root.xylem(&["node", "cordon", "rack4"]).ok();
    assert_eq!(state(), Availability::Cordoned);
    assert!(root.xylem(&["node", "list"]).ok().contains("cordoned"));
    root.xylem(&["node", "uncordon", "0a1b2c3d-0000"]).ok();
    assert_eq!(state(), Availability::Active);
    root.xylem(&["node", "drain", "rack4", "--grace", "5", "--wait", "--timeout", "20"]).ok();
    assert!(root.xylem(&["node", "list"]).ok().contains("drained"));
    let said = root.xylem(&["node", "drain", "rack5"]).refused(1);
    assert!(said.contains("no node rack5"), "{said}");
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let root = Root::start();
    root.xylem(&["service", "scale", "web", "many"]).refused(2);
    root.xylem(&["fly"]).refused(2);
    root.xylem(&["--root", "https://x", "app", "list"]).refused(2);
    let folder = root.file("empty", "");
    let nothing = root.xylem(&["net", "flows", "--bpffs", &format!("{folder}-not-there")]);
    assert!(nothing.refused(1).contains("start the net manager"));
    let incomplete = root.folder("incomplete");
    std::fs::create_dir(net_maps::layout_dir(&incomplete)).unwrap();
    let incomplete = incomplete.to_str().unwrap();
    let said = root.xylem(&["net", "flows", "--bpffs", incomplete]).refused(1);
    assert!(said.contains("xylem net doctor") && said.contains("config"), "{said}");
    assert!(root.xylem(&["completion", "bash"]).ok().contains("_xylem"));
    assert!(root.xylem(&["--help"]).ok().contains("Examples:"));
}

//! Where instances run, and who is believed about it.

use xylem_types::instance::InstanceStatus::{
    Completed, Creating, Dead, Failed, NodeScheduled, Running, Undeployed,
};

use super::*;
use crate::core::{RegistrationRefused, SessionRefused};

#[test]
fn a_burst_goes_to_all_workers_alike() {
    let mut bench = Bench::with_workers(&["a", "b", "c"]);
    for n in 0..6 {
        bench.deploy(web(n, 1));
    }
    let mut on: Vec<String> = bench.deploys().into_iter().map(|(worker, ..)| worker).collect();
    on.sort();
    assert_eq!(on, ["a", "a", "b", "b", "c", "c"]);
    assert_eq!(bench.status(0), "NODE_SCHEDULED");
}

#[test]
fn the_worker_s_reports_reach_the_root() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 7));
    bench.report("a", 0, 7, Creating);
    assert_eq!(bench.status(0), "CREATING");
    bench.attached("a", 0, "10.18.1.3");
    bench.report("a", 0, 7, Running);
    let observed = bench.observed(0).unwrap().clone();
    assert_eq!(observed.status, Running);
    assert_eq!(observed.generation, 7);
    assert_eq!(observed.worker_id.as_deref(), Some("a"));
    assert_eq!(observed.worker_name, "host-a");
    assert_eq!(observed.namespace_ip, Some([10, 18, 1, 3].into()));
    assert_eq!((observed.host_ip.as_str(), observed.host_port), ("192.0.2.1", 50103));

    bench.lists("a", &[(0, 7)]);
    bench.pass(secs(5), &["a"]);
    let observed = bench.observed(0).unwrap();
    assert_eq!((observed.cpu_percent, observed.logs.as_str()), (12.5, "hello"));
}

#[test]
fn what_a_worker_lists_runs_although_the_report_of_it_was_lost() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    bench.report("a", 0, 1, Creating);
    bench.lists("a", &[(0, 1)]);
    assert_eq!(bench.status(0), "RUNNING");
    bench.report("a", 0, 1, Failed);
    bench.lists("a", &[(0, 1)]);
    assert_eq!(bench.status(0), "FAILED", "what ended is not brought back by its last numbers");
}

#[test]
fn a_command_is_repeated_until_the_worker_reports() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    bench.pass(secs(10), &["a"]);
    assert!(bench.deploys().iter().filter(|d| **d == ("a".into(), 0, 1)).count() >= 3);
    bench.report("a", 0, 1, Creating);
    bench.pass(secs(10), &["a"]);
    assert_eq!(bench.deploys(), []);
}

#[test]
fn a_lost_worker_s_instance_is_placed_again_once_and_its_duplicate_removed() {
    let mut bench = Bench::with_workers(&["a", "b"]);
    bench.deploy(web(0, 1));
    let (first, ..) = bench.deploys().remove(0);
    bench.report(&first, 0, 1, Running);
    bench.root.clear();
    let other = if first == "a" { "b" } else { "a" };

    bench.pass(Duration::from_millis(4900), &[other]);
    assert_eq!(bench.status(0), "", "not yet");
    bench.pass(secs(6), &[other]);
    let statuses: Vec<_> = bench
        .root
        .iter()
        .filter_map(|m| match m {
            FromCluster::Instance(o) => Some((o.status.to_string(), o.status_detail.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(statuses[0].0, "FAILED");
    let name = format!("host-{first}");
    assert!(statuses[0].1.contains(&name), "{statuses:?}");
    assert_eq!(statuses[1].0, "NODE_SCHEDULED");
    assert!(bench.deploys().iter().all(|d| *d == (other.to_owned(), 0, 2)));
    bench.report(other, 0, 2, Running);
    bench.deletes();

    // It returns, and has kept its copy.
    bench.lists(&first, &[(0, 1)]);
    let deletes = bench.deletes();
    assert_eq!(deletes.len(), 1);
    assert_eq!(deletes[0].0, first);
    assert_eq!(deletes[0].1.generation, Some(1));
    assert_eq!(bench.observed(0).unwrap().worker_id.as_deref(), Some(other));
    bench.report(&first, 0, 1, Undeployed);
    assert_eq!(bench.status(0), "RUNNING");
    assert_eq!(bench.deletes(), []);
    assert_eq!(bench.cluster.tally().workers_lost, 1);
}

#[test]
fn a_worker_that_returns_before_there_was_another_place_keeps_its_instance() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    bench.report("a", 0, 1, Running);
    bench.pass(secs(12), &[]);
    assert_eq!(bench.status(0), "NO_WORKER_CAPACITY");
    let detail = &bench.observed(0).unwrap().status_detail;
    assert_eq!(detail, "worker host-a has been silent for more than 5 s; nobody is active");
    bench.deploys();
    bench.lists("a", &[(0, 1)]);
    bench.pass(secs(5), &["a"]);
    assert_eq!(bench.status(0), "RUNNING");
    assert_eq!(bench.observed(0).unwrap().generation, 1);
    assert_eq!(bench.deploys(), []);
    assert_eq!(bench.deletes(), []);
}

#[test]
fn reports_of_others_and_of_older_generations_are_refused() {
    let mut bench = Bench::with_workers(&["a", "b"]);
    bench.deploy(web(0, 5));
    let (mine, ..) = bench.deploys().remove(0);
    let other = if mine == "a" { "b" } else { "a" };

    bench.report(other, 0, 5, Running);
    bench.report(&mine, 0, 4, Running);
    bench.report(&mine, 9, 1, Running);
    bench.lists(other, &[(0, 6)]);
    let deletes: Vec<_> = bench
        .deletes()
        .into_iter()
        .map(|(worker, c)| (worker, c.instance_number, c.generation))
        .collect();
    assert_eq!(
        deletes,
        [
            (other.to_owned(), 0, Some(5)),
            (mine.clone(), 0, Some(4)),
            (mine.clone(), 9, Some(1)),
            (other.to_owned(), 0, Some(6)),
        ]
    );
    assert_eq!(bench.status(0), "NODE_SCHEDULED");
    assert_eq!(bench.cluster.tally().refused_reports, 4);

    // What is over needs no deletion.
    bench.report(other, 0, 5, Dead);
    bench.report(&mine, 0, 4, Undeployed);
    assert_eq!(bench.deletes(), []);
    assert_eq!(bench.status(0), "NODE_SCHEDULED");
}

#[test]
fn a_worker_without_generations_is_believed_about_what_is_placed_on_it() {
    let mut bench = Bench::with_workers(&[]);
    let node = Node {
        host: "old".into(),
        vcpus: 4,
        memory: 4000.0,
        virtualization: vec!["docker".into()],
        ..Node::default()
    };
    assert_eq!(bench.cluster.register(node, None, bench.now), Ok("old".to_owned()));
    bench.beat("old");
    bench.deploy(web(0, 3));
    bench.report("old", 0, 0, Running);
    assert_eq!(bench.status(0), "RUNNING");
    bench.lists("old", &[(0, 0), (1, 0)]);
    let deletes = bench.deletes();
    assert_eq!(deletes.len(), 1, "only the unknown one: {deletes:?}");
    assert_eq!(deletes[0].1.generation, None);
    assert_eq!(deletes[0].1.instance_number, 1);
}

#[test]
fn an_instance_that_ends_is_started_again_ever_more_slowly() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    let mut waits = Vec::new();
    for generation in 1..=8 {
        bench.report("a", 0, generation, Running);
        bench.report("a", 0, generation, Dead);
        assert_eq!(bench.status(0), "DEAD");
        let from = bench.now;
        bench.deploys();
        while bench.deploys().is_empty() {
            bench.pass(TICK, &["a"]);
        }
        waits.push((bench.now - from).as_secs());
        assert_eq!(bench.observed(0).unwrap().generation, generation + 1);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);

    bench.report("a", 0, 9, Running);
    bench.pass(secs(61), &["a"]);
    bench.report("a", 0, 9, Dead);
    assert!(bench.observed(0).unwrap().status_detail.ends_with("started again in 1 s"));
}

#[test]
fn a_failed_deployment_stays_failed_with_its_cause_until_the_root_asks_again() {
    let mut bench = Bench::with_workers(&["a", "b"]);
    bench.deploy(web(0, 1));
    let (worker, ..) = bench.deploys().remove(0);
    let report = InstanceReport {
        sname: WEB.into(),
        status: Failed,
        status_detail: "image oci:/images/web does not exist".into(),
        instance: 0,
        publicip: String::new(),
        generation: 1,
    };
    bench.says(&worker, FromWorker::Job(report));
    bench.pass(secs(120), &["a", "b"]);
    assert_eq!(bench.status(0), "FAILED");
    assert_eq!(bench.observed(0).unwrap().status_detail, "image oci:/images/web does not exist");
    assert_eq!(bench.deploys(), []);
    bench.deploy(web(0, 2));
    assert_eq!(bench.deploys().len(), 1);
    assert_eq!(bench.status(0), "NODE_SCHEDULED");
}

#[test]
fn a_one_shot_instance_is_not_started_again() {
    let mut bench = Bench::with_workers(&["a"]);
    for (number, end) in [(0, Completed), (1, Dead)] {
        let mut placement = web(number, 1);
        placement.command.one_shot = true;
        bench.deploy(placement);
        bench.report("a", number, 1, Running);
        bench.report("a", number, 1, end.clone());
        bench.deploys();
        bench.pass(secs(70), &["a"]);
        assert_eq!(bench.status(number), end.as_str());
        assert_eq!(bench.deploys(), []);
    }
}

#[test]
fn an_instance_that_its_worker_no_longer_lists_is_started_again() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    bench.deploy(web(1, 1));
    bench.report("a", 0, 1, Running);
    bench.report("a", 1, 1, Running);
    bench.lists("a", &[(0, 1), (1, 1)]);
    bench.deploys();
    for _ in 0..10 {
        bench.pass(secs(2), &["a"]);
        bench.lists("a", &[(0, 1)]);
    }
    assert_eq!(bench.deploys(), [("a".to_owned(), 1, 2)]);
    assert_eq!(bench.observed(0).unwrap().generation, 1);
}

#[test]
fn an_instance_is_gone_when_its_worker_says_so() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    bench.report("a", 0, 1, Running);
    bench.root_says(undeploy(0, 1));
    assert_eq!(bench.status(0), "RUNNING", "not gone yet");
    bench.pass(secs(10), &["a"]);
    assert!(bench.deletes().len() >= 3, "repeated until confirmed");
    bench.report("a", 0, 1, Undeployed);
    assert_eq!(bench.status(0), "UNDEPLOYED");
    bench.pass(secs(10), &["a"]);
    assert_eq!(bench.deletes(), []);
    assert!(bench.records.instances.is_empty());
}

#[test]
fn an_instance_is_gone_when_its_worker_lists_others_only() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    bench.report("a", 0, 1, Running);
    bench.root_says(undeploy(0, 1));
    for _ in 0..4 {
        bench.lists("a", &[]);
        bench.pass(secs(2), &["a"]);
    }
    assert_eq!(bench.status(0), "UNDEPLOYED");
}

#[test]
fn removing_what_is_not_there_is_confirmed_and_a_stale_removal_is_not_obeyed() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.root_says(undeploy(3, 1));
    assert_eq!(bench.status(3), "UNDEPLOYED");
    bench.deploy(web(0, 2));
    bench.root_says(undeploy(0, 1));
    bench.report("a", 0, 2, Running);
    assert_eq!(bench.status(0), "RUNNING");
    assert_eq!(bench.deletes(), []);
}

#[test]
fn what_a_lost_worker_ran_and_nobody_wants_is_removed_when_it_returns() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    bench.report("a", 0, 1, Running);
    bench.pass(secs(12), &[]);
    bench.root_says(undeploy(0, 1));
    assert_eq!(bench.status(0), "UNDEPLOYED");
    bench.restart();
    bench.deletes();
    bench.lists("a", &[(0, 1)]);
    assert!(!bench.deletes().is_empty());
    bench.report("a", 0, 1, Undeployed);
    assert!(bench.records.instances.is_empty());
}

#[test]
fn a_service_made_anew_under_the_same_name_replaces_the_old_copy() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 4));
    bench.report("a", 0, 4, Running);
    bench.root_says(undeploy(0, 4));
    let again = Placement { job_id: "job-web-2".into(), ..web(0, 1) };
    bench.deploys();
    bench.deploy(again);
    assert_eq!(bench.deploys(), [("a".to_owned(), 0, 5)]);
    bench.report("a", 0, 5, Running);
    assert_eq!(bench.status(0), "RUNNING");
    bench.deletes();
    bench.report("a", 0, 4, Running);
    assert_eq!(bench.deletes()[0].1.generation, Some(4));
    bench.report("a", 0, 4, Undeployed);
    assert_eq!(bench.status(0), "RUNNING");
}

#[test]
fn no_room_says_why_and_is_tried_again() {
    let mut bench = Bench::with_workers(&["a"]);
    let mut big = web(0, 1);
    big.command.vcpus = 5.0;
    bench.deploy(big);
    assert_eq!(bench.status(0), "NO_WORKER_CAPACITY");
    assert_eq!(bench.observed(0).unwrap().status_detail, "host-a: 5 vcpus needed, 4.00 free");
    let mut unikernel = web(1, 1);
    unikernel.command.virtualization = "unikernel".into();
    bench.deploy(unikernel);
    assert_eq!(bench.status(1), "NO_QUALIFIED_WORKER_FOUND");

    let node = Node {
        id: "large".into(),
        vcpus: 8,
        memory: 4000.0,
        virtualization: vec!["docker".into(), "unikernel".into()],
        ..Node::default()
    };
    bench.cluster.register(node, None, bench.now).unwrap();
    bench.deploys();
    bench.pass(secs(3), &["a"]);
    assert_eq!(bench.deploys(), [], "it would miss the command");
    bench.pass(secs(3), &["a", "large"]);
    let mut deploys = bench.deploys();
    deploys.sort();
    assert_eq!(deploys, [("large".to_owned(), 0, 1), ("large".to_owned(), 1, 1)]);
}

#[test]
fn a_restarted_cluster_goes_on_without_its_root() {
    let mut bench = Bench::with_workers(&["a", "b"]);
    for n in 0..2 {
        bench.deploy(web(n, 1));
    }
    for (worker, number, generation) in bench.deploys() {
        bench.report(&worker, number, generation, Running);
    }
    bench.restart();
    bench.mqtt.clear();
    // Nobody registers again, and nobody is lost for having had to reconnect.
    bench.pass(secs(8), &[]);
    assert_eq!(bench.cluster.tally().workers_lost, 0);
    bench.pass(secs(3), &["a"]);
    assert_eq!(bench.cluster.tally().workers_lost, 1);
    let deploys = bench.deploys();
    let moved: Vec<_> = deploys.iter().filter(|d| d.2 == 2).collect();
    assert_eq!(moved.len(), 1, "{deploys:?}");
    assert_eq!(moved[0].0, "a");
}

#[test]
fn workers_told_nothing_while_the_broker_was_away_are_told_again() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    bench.report("a", 0, 1, Running);
    bench.cluster.broker_lost();
    bench.pass(secs(60), &[]);
    assert_eq!(bench.cluster.tally().workers_lost, 0, "it could not be heard");
    bench.cluster.broker_connected(bench.now);
    bench.deploys();
    bench.pass(secs(1), &["a"]);
    assert_eq!(bench.deploys(), [("a".to_owned(), 0, 1)]);
}

#[test]
fn a_pause_of_the_cluster_itself_is_nobody_s_silence() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.pass(secs(20), &["a"]);
    bench.now += secs(3600);
    bench.cluster.tick(bench.now);
    assert_eq!(bench.cluster.tally().workers_lost, 0);
}

#[test]
fn desired_is_the_whole_truth() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    bench.deploy(web(1, 1));
    bench.report("a", 0, 1, Running);
    bench.report("a", 1, 1, Running);
    bench.cluster.root_gone();
    bench.root.clear();
    bench.mqtt.clear();
    bench.connect_root(vec![web(1, 1), web(2, 1)]);
    assert!(matches!(bench.root[0], FromCluster::Hello { .. }));
    let FromCluster::Snapshot { instances, .. } = &bench.root[1] else {
        panic!("{:?}", bench.root[1]);
    };
    let seen: Vec<_> =
        instances.iter().map(|o| (o.key.instance_number, o.status.clone())).collect();
    assert_eq!(seen, [(0, Running), (1, Running), (2, NodeScheduled)]);
    assert_eq!(bench.deploys(), [("a".to_owned(), 2, 1)]);
    assert_eq!(bench.deletes()[0].1.instance_number, 0);
}

#[test]
fn another_root_is_not_obeyed() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.deploy(web(0, 1));
    bench.report("a", 0, 1, Running);
    bench.cluster.root_gone();
    bench.cluster.root_connected();
    let refused = bench.cluster.from_root(FromRoot::Welcome { cluster_id: "c2".into() }, bench.now);
    assert!(matches!(refused, Err(SessionRefused::OtherRoot { .. })), "{refused:?}");
    // What it wants comes right behind.
    bench.root_says(desired(vec![]));
    assert!(!bench.cluster.root_listens());
    assert_eq!(bench.deletes(), []);
    assert_eq!(bench.records.instances[&key(0)].status, Running);
}

#[test]
fn a_worker_that_cannot_be_named_in_a_topic_is_refused() {
    let mut bench = Bench::new();
    let named = |id: &str| Node { id: id.into(), ..Node::default() };
    assert_eq!(
        bench.cluster.register(named(""), None, bench.now),
        Err(RegistrationRefused::NoIdentity)
    );
    for id in ["a/b", "+", "#", "a b", "a\n", &"x".repeat(200)] {
        let refused = bench.cluster.register(named(id), None, bench.now);
        assert!(matches!(refused, Err(RegistrationRefused::Identity { .. })), "{id}");
    }
}

#[test]
fn a_stranger_is_told_to_register() {
    let mut bench = Bench::new();
    bench.beat("nobody");
    let errors = bench.take(|body| match body {
        ToWorker::Error(error) => Some(error.message.clone()),
        _ => None,
    });
    assert_eq!(errors.len(), 1);
    assert!(errors[0].1.contains("register again"), "{errors:?}");
}

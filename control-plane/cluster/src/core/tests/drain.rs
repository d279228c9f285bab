//! Instances that are to be stopped end their flows first.

use xylem_types::instance::InstanceStatus::{Dead, Running, Undeployed};

use super::{
    network::{by_name, ready, run},
    *,
};

/// What a worker is told of the instances: number, whether it drains.
fn told(bench: &mut Bench, worker: &str) -> Vec<(u32, bool)> {
    bench.answers();
    bench.says(worker, by_name(WEB));
    let answer = bench.answers().remove(0).1;
    let dialable = answer.instance_list.iter().filter(|e| !e.namespace_ip.is_empty());
    dialable.map(|e| (e.instance_number, e.draining)).collect()
}

fn whole_service(number: u32, drain: Drain) -> FromRoot {
    drained(number, 1, drain)
}

#[test]
fn who_dials_it_hears_that_it_drains_and_the_deletion_follows_after_the_grace() {
    let mut bench = ready(&["a", "b"]);
    run(&mut bench, 0, &[0]);
    let on = run(&mut bench, 1, &[0, 1]);
    assert_eq!(told(&mut bench, "a"), [(0, false), (1, false)]);
    bench.updates();

    bench.root_says(undeploy(1, 1));
    assert_eq!(bench.updates(), [UpdateKind::Undeployment]);
    assert_eq!(bench.deletes(), []);
    assert_eq!(told(&mut bench, "b"), [(0, false), (1, true)]);
    let observed = bench.observed(1).unwrap();
    assert!(observed.status_detail.contains("draining"), "{observed:?}");
    // The root's word on it changes nothing, and neither does a second order.
    bench.root_says(changed(UpdateKind::Undeployment));
    let mut answer = web_answer(&[0, 1]);
    answer.instance_list[1].draining = true;
    bench.root_answers(&answer);
    bench.root_says(undeploy(1, 1));
    assert_eq!(bench.updates(), []);

    let almost = bench.cluster.settings.drain_grace - secs(1);
    bench.pass(almost, &["a", "b"]);
    assert_eq!(bench.deletes(), []);
    bench.pass(secs(2), &["a", "b"]);
    let deletes = bench.deletes();
    assert_eq!((deletes[0].0.as_str(), deletes[0].1.instance_number), (on.as_str(), 1));
    assert_eq!(bench.updates(), [UpdateKind::Undeployment]);
    assert_eq!(told(&mut bench, "b"), [(0, false)]);
    bench.report(&on, 1, 1, Undeployed);
    assert_eq!(bench.status(1), "UNDEPLOYED");
}

#[test]
fn the_root_may_say_for_how_long() {
    let mut bench = ready(&["a"]);
    run(&mut bench, 0, &[0]);
    let (key, job_name) = (key(0), WEB.into());
    bench.root_says(FromRoot::Undeploy {
        key,
        job_name,
        generation: 1,
        drain: Drain::Always,
        drain_grace_ms: Some(60_000),
    });
    bench.pass(secs(30), &["a"]);
    assert_eq!(bench.deletes(), []);
    bench.restart();
    bench.beat("a");
    bench.pass(secs(59), &["a"]);
    assert_eq!(bench.deletes(), []);
    bench.pass(secs(2), &["a"]);
    assert_eq!(bench.deletes().len(), 1);
}

#[test]
fn without_a_grace_it_is_stopped_at_once() {
    let mut bench = ready(&["a"]);
    bench.cluster.settings.drain_grace = Duration::ZERO;
    run(&mut bench, 0, &[0]);
    bench.root_says(undeploy(0, 1));
    assert_eq!(bench.deletes().len(), 1);
}

#[test]
fn what_was_never_attached_has_no_flows_to_end() {
    let mut bench = ready(&["a"]);
    bench.deploy(web(0, 1));
    bench.deploys();
    bench.root_says(undeploy(0, 1));
    assert_eq!(bench.deletes().len(), 1);
}

#[test]
fn a_whole_service_drains_only_when_somebody_dials_it() {
    for dialled in [false, true] {
        let mut bench = ready(&["a", "b"]);
        let on = run(&mut bench, 0, &[0]);
        let other = if on == "a" { "b" } else { "a" };
        // Who runs it always holds an interest.
        bench.says(&on, by_name(WEB));
        if dialled {
            bench.says(other, by_name(WEB));
        }
        bench.root_says(whole_service(0, Drain::IfDialled));
        assert_eq!(bench.deletes().is_empty(), dialled);
    }
    // Another cluster dials it, says the root.
    let mut bench = ready(&["a", "b"]);
    run(&mut bench, 0, &[0]);
    bench.root_says(whole_service(0, Drain::Always));
    assert_eq!(bench.deletes(), []);
}

#[test]
fn a_copy_that_should_not_be_is_stopped_at_once() {
    let mut bench = ready(&["a"]);
    run(&mut bench, 0, &[0]);
    bench.root_says(whole_service(0, Drain::Never));
    assert_eq!(bench.deletes().len(), 1);
    // Not so one that drains already: the root says it again of what it hears of.
    let mut bench = ready(&["a"]);
    run(&mut bench, 0, &[0]);
    bench.root_says(undeploy(0, 1));
    bench.root_says(whole_service(0, Drain::Never));
    assert_eq!(bench.deletes(), []);
}

#[test]
fn what_the_root_no_longer_wants_when_it_is_back_drains_as_well() {
    let mut bench = ready(&["a"]);
    run(&mut bench, 0, &[0]);
    bench.cluster.root_gone();
    bench.connect_root(vec![]);
    assert_eq!(bench.deletes(), []);
    assert_eq!(told(&mut bench, "a"), [(0, true)]);
    bench.pass(secs(11), &["a"]);
    assert_eq!(bench.deletes()[0].1.instance_number, 0);
}

#[test]
fn one_that_was_moved_to_another_cluster_is_dialled_there_while_ours_drains() {
    let mut bench = ready(&["a"]);
    run(&mut bench, 0, &[0]);
    bench.cluster.root_gone();
    bench.connect_root(vec![]);
    let mut answer = web_answer(&[0]);
    answer.instance_list[0].namespace_ip = "10.18.9.2".into();
    bench.root_answers(&answer);
    bench.answers();
    bench.says("a", by_name(WEB));
    let entry = bench.answers().remove(0).1.instance_list.remove(0);
    assert_eq!((entry.namespace_ip.as_str(), entry.draining), ("10.18.9.2", false));
}

#[test]
fn a_restart_in_the_middle_begins_the_grace_anew_and_forgets_nothing() {
    let mut bench = ready(&["a"]);
    run(&mut bench, 0, &[0]);
    bench.root_says(undeploy(0, 1));
    bench.pass(secs(6), &["a"]);
    assert_eq!(bench.deletes(), []);

    bench.restart();
    bench.beat("a");
    assert_eq!(bench.deploys(), [], "it is not wanted any more");
    assert_eq!(told(&mut bench, "a"), [(0, true)]);
    bench.lists("a", &[(0, 1)]);
    bench.report("a", 0, 1, Running);
    bench.pass(secs(9), &["a"]);
    assert_eq!(bench.deletes(), []);
    bench.pass(secs(2), &["a"]);
    assert_eq!(bench.deletes().len(), 1);
    bench.report("a", 0, 1, Undeployed);
    assert!(bench.records.instances.is_empty());
}

#[test]
fn one_that_ends_while_it_drains_is_not_started_again() {
    let mut bench = ready(&["a"]);
    run(&mut bench, 0, &[0]);
    bench.root_says(undeploy(0, 1));
    bench.report("a", 0, 1, Dead);
    assert_eq!(bench.deletes().len(), 1, "what is left of it");
    bench.pass(secs(3), &["a"]);
    assert_eq!(bench.deploys(), []);
}

#[test]
fn a_lost_worker_is_not_waited_for() {
    let mut bench = ready(&["a", "b"]);
    let on = run(&mut bench, 0, &[0]);
    let other = if on == "a" { "b" } else { "a" };
    bench.root_says(undeploy(0, 1));
    bench.root.clear();
    bench.pass(secs(6), &[other]);
    assert_eq!(bench.status(0), "UNDEPLOYED", "the root is told that it is gone");
    // It returns, with its copy.
    bench.lists(&on, &[(0, 1)]);
    assert!(bench.deletes().iter().any(|(worker, c)| *worker == on && c.instance_number == 0));
}

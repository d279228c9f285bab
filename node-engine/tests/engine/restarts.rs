//! The engine comes and goes; instances do not care.

use std::time::Duration;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use xylem_types::{instance::InstanceStatus, mqtt::DeployCommand};

use crate::support::{
    cluster::TestCluster,
    eventually,
    image::{Layout, Recipe},
    worker::{Worker, deployment},
};

const FOREVER: &[&str] = &["say=hello", "sleep"];

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_finds_its_instances_again() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let mut worker = Worker::start(&cluster);
    let web = deployment("web", &layout.name());
    cluster.deploy(&web).await;
    cluster.reported(&web, InstanceStatus::Running).await;
    let (pids, shims) = (worker.processes_of(&web), worker.shims());

    for round in 0..3 {
        if round == 1 {
            assert!(worker.stop_engine(), "SIGTERM is a good end");
        } else {
            worker.kill_engine();
        }
        assert_eq!((worker.processes_of(&web), worker.shims()), (pids.clone(), shims.clone()));
        cluster.forget_reports();
        worker.start_engine();
        cluster.reported(&web, InstanceStatus::Running).await;
        assert_eq!((worker.processes_of(&web), worker.shims()), (pids.clone(), shims.clone()));
    }
    assert_eq!(worker.net.look(|seen| (seen.attached.len(), seen.detached.len())), (1, 0));

    cluster.delete(&web).await;
    cluster.reported(&web, InstanceStatus::Undeployed).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_while_no_engine_ran_is_told_afterwards() {
    let recipe = Recipe::new(&["until=15", "exit=7"]);
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&recipe));
    let mut worker = Worker::start(&cluster);
    let web = deployment("web", &layout.name());
    cluster.deploy(&web).await;
    worker.printed(&web, "waiting").await;
    cluster.reported(&web, InstanceStatus::Running).await;
    worker.kill_engine();

    kill(Pid::from_raw(worker.processes_of(&web)[0]), Signal::SIGTERM).unwrap();
    eventually("the shim to write the end down and go", || {
        (worker.instance(&web).join("exit.json").exists() && worker.shims().is_empty())
            .then_some(())
    })
    .await;
    worker.start_engine();
    let report = cluster.reported(&web, InstanceStatus::Dead).await;
    assert_eq!(report.status_detail, "exited with code 7");
    cluster.delete(&web).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_shim_is_noticed_and_its_container_does_not_stay() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let mut worker = Worker::start(&cluster);
    let [seen, unseen] = [1, 2].map(|number| DeployCommand {
        instance_number: number,
        ..deployment("web", &layout.name())
    });
    for command in [&seen, &unseen] {
        cluster.deploy(command).await;
        cluster.reported(command, InstanceStatus::Running).await;
    }
    let shim_of = |command: &DeployCommand| {
        let life = std::fs::read_to_string(worker.instance(command).join("life")).unwrap();
        Pid::from_raw(life.parse().unwrap())
    };
    let (first, second) = (shim_of(&seen), shim_of(&unseen));
    kill(first, Signal::SIGKILL).unwrap();
    let report = cluster.reported(&seen, InstanceStatus::Dead).await;
    assert!(report.status_detail.contains("supervising process"), "{}", report.status_detail);
    eventually("the container to be gone", || worker.processes_of(&seen).is_empty().then_some(()))
        .await;

    worker.kill_engine();
    kill(second, Signal::SIGKILL).unwrap();
    eventually("the shim to be gone", || worker.shims().is_empty().then_some(())).await;
    worker.start_engine();
    cluster.reported(&unseen, InstanceStatus::Dead).await;
    for command in [&seen, &unseen] {
        cluster.delete(command).await;
    }
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_at_any_moment_of_deployments_finishes_them() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let mut worker = Worker::start(&cluster);
    cluster.worker_id().await;
    for round in 0..8 {
        let web = DeployCommand { generation: round + 1, ..deployment("web", &layout.name()) };
        cluster.deploy(&web).await;
        // Another moment each time, from "not heard yet" to "running".
        tokio::time::sleep(Duration::from_millis(round * 25)).await;
        worker.kill_engine();
        worker.start_engine();
        cluster.reported(&web, InstanceStatus::Running).await;
        assert_eq!(worker.processes_of(&web).len(), 1);
        assert_eq!(worker.shims().len(), 1);
    }
    let last = DeployCommand { generation: 8, ..deployment("web", &layout.name()) };
    cluster.delete(&last).await;
    cluster.reported(&last, InstanceStatus::Undeployed).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_killed_during_a_deletion_finishes_it() {
    let recipe = Recipe::new(&["until=15", "say=slow", "sleep"]);
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&recipe));
    let mut worker = Worker::start(&cluster);
    let web = deployment("web", &layout.name());
    cluster.deploy(&web).await;
    worker.printed(&web, "waiting").await;
    cluster.reported(&web, InstanceStatus::Running).await;
    cluster.delete(&web).await;
    worker.printed(&web, "slow").await;
    worker.kill_engine();
    worker.start_engine();
    cluster.reported(&web, InstanceStatus::Undeployed).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_removes_everything_but_not_under_a_running_engine() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let mut worker = Worker::start(&cluster);
    let all: Vec<_> = (0..3)
        .map(|n| DeployCommand { instance_number: n, ..deployment("web", &layout.name()) })
        .collect();
    for command in &all {
        cluster.deploy(command).await;
        cluster.reported(command, InstanceStatus::Running).await;
    }
    let refused = worker.try_purge();
    assert!(refused.contains("another engine works in"), "{refused}");
    assert_eq!(worker.shims().len(), 3);

    worker.kill_engine();
    assert_eq!(worker.try_purge(), "");
    assert_eq!(worker.leftovers(), Vec::<String>::new());
    assert!(!worker.state().join("content").exists());
    assert_eq!(worker.net.look(|seen| seen.detached.len()), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_found_also_when_the_control_groups_were_configured_anew() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let mut worker = Worker::start(&cluster);
    let [first, second] = [1, 2].map(|number| DeployCommand {
        instance_number: number,
        ..deployment("web", &layout.name())
    });
    cluster.deploy(&first).await;
    cluster.reported(&first, InstanceStatus::Running).await;
    let pids = worker.processes_of(&first);
    worker.kill_engine();
    // Something that no engine wrote down, too.
    std::fs::create_dir(worker.state().join("instances/unknown.0")).unwrap();

    let parent = format!("/xylem-moved-{}", std::process::id());
    worker.configure(&format!("--cgroup-parent={parent}"));
    worker.start_engine();
    cluster.deploy(&second).await;
    cluster.reported(&second, InstanceStatus::Running).await;
    assert_eq!(worker.processes_of(&first), pids);
    assert!(!worker.state().join("instances/unknown.0").exists());
    for command in [&first, &second] {
        cluster.delete(command).await;
        cluster.reported(command, InstanceStatus::Undeployed).await;
    }
    worker.nothing_left().await;
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));

    // The new parent goes with a purge; the old one is empty and goes here.
    worker.kill_engine();
    assert_eq!(worker.try_purge(), "");
    for group in worker.cgroups() {
        std::fs::remove_dir(group).unwrap();
    }
}

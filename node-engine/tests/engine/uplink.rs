//! Cluster, broker and net manager come and go.

use xylem_types::{
    instance::InstanceStatus,
    mqtt::{ControlError, DeployCommand, topic},
};

use crate::support::{
    cluster::TestCluster,
    eventually,
    image::{Layout, Recipe},
    worker::{Worker, deployment},
};

const FOREVER: &[&str] = &["say=hello", "sleep"];

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_registers_with_all_it_has_and_then_reports_what_changes() {
    let mut cluster = TestCluster::start().await;
    cluster.close().await;
    let mut worker = Worker::start_with(&cluster, &["--tunnel-port=50777"]);
    eventually("the engine to say that nobody answers", || {
        worker.log().contains("not registered, will retry").then_some(())
    })
    .await;
    cluster.open().await;
    let id = cluster.worker_id().await;
    let node = cluster.registrations()[0].clone();
    assert_eq!(node.id, std::fs::read_to_string(worker.state().join("id")).unwrap());
    assert_eq!((node.host.as_str(), node.ip.as_str()), ("test-worker", "127.0.0.1"));
    assert_eq!(
        (node.net_manager_port, node.virtualization.as_slice()),
        (50777, &["docker".to_owned()][..])
    );
    assert!(node.vcpus > 0 && node.memory > 0.0 && !node.architecture.is_empty(), "{node:?}");

    let information = cluster.information()[0].clone();
    assert!(information.memory > 0.0 && information.host.is_empty(), "{information:?}");
    let registered = eventually("the net manager to be told", || {
        worker.net.look(|seen| seen.registrations.first().cloned())
    })
    .await;
    assert_eq!(
        (registered.client_id.as_str(), registered.cluster_address.as_str()),
        (id.as_str(), "127.0.0.1")
    );
    assert_eq!(registered.mqtt_port, Some(cluster.broker.port()));

    worker.kill_engine();
    worker.start_engine();
    eventually("a second registration", || cluster.registrations().get(1).cloned()).await;
    assert_eq!(cluster.registrations()[1].id, id, "the same worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn states_are_told_again_after_the_broker_was_away_and_commands_are_not_lost() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let worker = Worker::start(&cluster);
    let [stays, goes, comes] = ["stays", "goes", "comes"].map(|n| deployment(n, &layout.name()));
    for command in [&stays, &goes] {
        cluster.deploy(command).await;
        cluster.reported(command, InstanceStatus::Running).await;
    }
    cluster.broker.cut();
    eventually("the engine to notice", || worker.log().contains("broker is away").then_some(()))
        .await;
    cluster.forget_reports();
    // The broker keeps commands for a worker that is away.
    cluster.deploy(&comes).await;
    let pid = worker.processes_of(&goes)[0];
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    eventually("the engine to see the end", || worker.log().contains("status=DEAD").then_some(()))
        .await;
    assert_eq!(cluster.reports(), []);

    cluster.broker.mend();
    cluster.reported(&stays, InstanceStatus::Running).await;
    cluster.reported(&goes, InstanceStatus::Dead).await;
    cluster.reported(&comes, InstanceStatus::Running).await;
    for command in [&stays, &goes, &comes] {
        cluster.delete(command).await;
        cluster.reported(command, InstanceStatus::Undeployed).await;
    }
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_waits_for_the_net_manager() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let mut worker = Worker::new(&cluster, &[]);
    worker.start_engine();
    let web = deployment("web", &layout.name());
    cluster.deploy(&web).await;
    eventually("what it waits for to be told", || {
        cluster.reports().into_iter().find(|report| {
            report.status == InstanceStatus::Creating
                && report.status_detail.contains("net manager does not answer at")
        })
    })
    .await;
    assert_eq!(worker.output(&web), "", "it does not run without its network");
    worker.net.open();
    cluster.reported(&web, InstanceStatus::Running).await;

    // A restarted net manager is told again who this worker is.
    worker.net.close().await;
    worker.net.look(|seen| seen.registrations.clear());
    worker.net.open();
    eventually("a new registration", || worker.net.look(|seen| seen.registrations.pop())).await;
    cluster.delete(&web).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_net_manager_that_refuses_or_stays_away_fails_the_deployment_with_its_reason() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let mut worker = Worker::start_with(&cluster, &["--attach-timeout-ms=300"]);
    worker.net.look(|seen| seen.refuse = Some("the worker's subnet is full".to_owned()));
    let full = deployment("full", &layout.name());
    cluster.deploy(&full).await;
    let report = cluster.reported(&full, InstanceStatus::Failed).await;
    assert_eq!(report.status_detail, "net manager refuses: the worker's subnet is full");

    worker.net.close().await;
    let away = deployment("away", &layout.name());
    cluster.deploy(&away).await;
    let report = cluster.reported(&away, InstanceStatus::Failed).await;
    assert!(
        report.status_detail.contains("net manager does not answer"),
        "{}",
        report.status_detail
    );
    for command in [&full, &away] {
        cluster.delete(command).await;
        cluster.reported(command, InstanceStatus::Undeployed).await;
    }
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn networking_can_be_off() {
    let recipe = Recipe::new(&["list=/sys/class/net", "read=/sys/class/net/lo/operstate", "sleep"]);
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&recipe));
    let worker = Worker::start_with(&cluster, &["--net-socket="]);
    let web = deployment("web", &layout.name());
    cluster.deploy(&web).await;
    cluster.reported(&web, InstanceStatus::Running).await;
    let output = worker.printed(&web, "operstate: ").await;
    assert!(output.contains("/sys/class/net: [lo]"), "{output}");
    assert!(!output.contains("operstate: down"), "loopback is up: {output}");
    cluster.delete(&web).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_survived_and_a_complaint_makes_the_worker_register_again() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let worker = Worker::start(&cluster);
    let id = cluster.worker_id().await;
    cluster.send(topic::control_deploy(&id), &"not a command").await;
    cluster.send(topic::control_delete(&id), &[1, 2, 3]).await;
    let evil = DeployCommand { job_name: "../../etc".into(), ..deployment("x", &layout.name()) };
    cluster.deploy(&evil).await;
    let before = cluster.registrations().len();
    cluster.send(topic::control_error(&id), &ControlError { message: "who are you?".into() }).await;
    eventually("another registration", || (cluster.registrations().len() > before).then_some(()))
        .await;

    let unikernel =
        DeployCommand { virtualization: "unikernel".into(), ..deployment("uni", &layout.name()) };
    cluster.deploy(&unikernel).await;
    let report = cluster.reported(&unikernel, InstanceStatus::Failed).await;
    assert!(report.status_detail.contains("unikernel"), "{}", report.status_detail);
    cluster.delete(&unikernel).await;
    worker.nothing_left().await;
}

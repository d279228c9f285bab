//! The life of instances: what they find when they start, how they end, what is left.

use xylem_types::{instance::InstanceStatus, mqtt::DeployCommand};

use crate::support::{
    cluster::TestCluster,
    eventually,
    image::{Layer, Layout, Recipe},
    worker::{Worker, deployment},
};

const FOREVER: &[&str] = &["say=hello", "sleep"];

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_attached_before_it_starts_and_leaves_nothing_when_deleted() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let worker = Worker::start(&cluster);
    let web = DeployCommand { port: "8080:80".into(), ..deployment("web", &layout.name()) };

    cluster.deploy(&web).await;
    let report = cluster.reported(&web, InstanceStatus::Running).await;
    assert_eq!(report.publicip, "127.0.0.1");
    worker.printed(&web, "hello").await;

    let attached = worker.net.look(|seen| seen.attached.clone());
    assert_eq!(attached.len(), 1);
    assert_eq!(attached[0].request.service_name, web.job_name);
    assert_eq!(attached[0].request.port_mappings, "8080:80");
    assert!(attached[0].own_namespace);
    assert_ne!(attached[0].command, "/program", "it ran before it was attached");
    let pid = attached[0].request.pid;
    assert_eq!(worker.processes_of(&web), [pid]);
    assert_eq!(
        std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap(),
        "/program\0say=hello\0sleep\0"
    );

    cluster.delete(&web).await;
    cluster.reported(&web, InstanceStatus::Undeployed).await;
    worker.nothing_left().await;
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    assert_eq!(worker.net.look(|seen| seen.detached.clone()), [format!("{}.0", web.job_name)]);
    use InstanceStatus::{Created, Creating, Running, Undeployed};
    assert_eq!(cluster.statuses(&web), [Creating, Created, Running, Undeployed]);
}

/// Deploys the image and waits for its end; returns the last report.
async fn ended(cluster: &TestCluster, command: &DeployCommand, status: InstanceStatus) -> String {
    cluster.deploy(command).await;
    cluster.reported(command, status).await.status_detail
}

#[tokio::test(flavor = "multi_thread")]
async fn how_an_instance_ended_is_told_and_nothing_but_that_is_left() {
    let (cluster, mut layout) = (TestCluster::start().await, Layout::new());
    for (tag, args) in [
        ("good", &["say=done", "exit=0"][..]),
        ("bad", &["say=oh no", "exit=3"]),
        ("killed", &["suicide=6", "sleep"]),
    ] {
        layout.add(tag, &Recipe::new(args));
    }
    let worker = Worker::start(&cluster);
    let image = |tag: &str| format!("{}:{tag}", layout.name());
    let one_shot = DeployCommand { one_shot: true, ..deployment("once", &image("good")) };
    let service = deployment("service", &image("good"));
    let bad = DeployCommand { one_shot: true, ..deployment("bad", &image("bad")) };
    let failing =
        DeployCommand { cmd: vec!["/missing".into()], ..deployment("none", &image("good")) };
    let wrong =
        DeployCommand { cmd: vec!["/etc/hosts".into()], ..deployment("text", &image("good")) };

    assert_eq!(ended(&cluster, &one_shot, InstanceStatus::Completed).await, "");
    assert_eq!(ended(&cluster, &service, InstanceStatus::Dead).await, "exited with code 0");
    assert_eq!(ended(&cluster, &bad, InstanceStatus::Dead).await, "exited with code 3");
    let last = eventually("the last output", || {
        let all = cluster.resources();
        let usages = all.iter().flat_map(|resources| &resources.services);
        usages.rev().find(|usage| usage.job_name == bad.job_name).map(|usage| usage.logs.clone())
    });
    assert_eq!(last.await, "oh no\n", "what it printed is known although it lived shortly");
    let detail = ended(&cluster, &failing, InstanceStatus::Failed).await;
    assert!(detail.contains("/missing"), "{detail}");
    let detail = ended(&cluster, &wrong, InstanceStatus::Failed).await;
    assert!(detail.contains("/etc/hosts") && detail.contains("permission"), "{detail}");

    // Only the records are left.
    for command in [&one_shot, &service, &bad, &failing, &wrong] {
        eventually("only the record to be left", || {
            let entries = std::fs::read_dir(worker.instance(command)).ok()?;
            let names: Vec<_> = entries.map(|entry| entry.unwrap().file_name()).collect();
            (names == ["record.json"]).then_some(())
        })
        .await;
        cluster.delete(command).await;
        cluster.reported(command, InstanceStatus::Undeployed).await;
    }
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_by_a_signal_is_told_by_name() {
    let recipe = Recipe::new(&["until=6", "sleep"]);
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&recipe));
    let worker = Worker::start(&cluster);
    let web = deployment("web", &layout.name());
    cluster.deploy(&web).await;
    worker.printed(&web, "waiting").await;
    let pid = worker.processes_of(&web)[0];
    let kill = |signal| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    };
    kill(nix::sys::signal::Signal::SIGKILL);
    let report = cluster.reported(&web, InstanceStatus::Dead).await;
    assert_eq!(report.status_detail, "killed by signal 9 (SIGKILL)");
    cluster.delete(&web).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_asked_to_end_and_killed_when_it_does_not() {
    let (cluster, mut layout) = (TestCluster::start().await, Layout::new());
    let polite = Recipe {
        stop_signal: Some("SIGQUIT".into()),
        ..Recipe::new(&["until=3", "say=bye", "write=/tmp-mark", "exit=0"])
    };
    layout.add("polite", &polite);
    layout.add("deaf", &Recipe::new(&["say=up", "sleep"]));
    // Handles the signal, and goes on.
    layout.add("rude", &Recipe::new(&["until=15", "say=never mind", "sleep"]));
    let worker = Worker::start(&cluster);
    let image = |tag: &str| format!("{}:{tag}", layout.name());

    let polite = deployment("polite", &image("polite"));
    cluster.deploy(&polite).await;
    worker.printed(&polite, "waiting").await;
    let started = std::time::Instant::now();
    cluster.delete(&polite).await;
    cluster.reported(&polite, InstanceStatus::Undeployed).await;
    assert!(started.elapsed() < std::time::Duration::from_millis(1900), "it ended by itself");

    let deaf = deployment("deaf", &image("deaf"));
    cluster.deploy(&deaf).await;
    worker.printed(&deaf, "up").await;
    let started = std::time::Instant::now();
    cluster.delete(&deaf).await;
    cluster.reported(&deaf, InstanceStatus::Undeployed).await;
    assert!(
        started.elapsed() < std::time::Duration::from_millis(1900),
        "the kernel drops a signal that the first process does not handle: no use in waiting"
    );

    let rude = deployment("rude", &image("rude"));
    cluster.deploy(&rude).await;
    worker.printed(&rude, "waiting").await;
    let started = std::time::Instant::now();
    cluster.delete(&rude).await;
    worker.printed(&rude, "never mind").await;
    cluster.reported(&rude, InstanceStatus::Undeployed).await;
    assert!(started.elapsed() >= std::time::Duration::from_secs(2), "the grace was given");
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_generation_replaces_an_older_one_and_not_the_other_way_round() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let worker = Worker::start(&cluster);
    let second = DeployCommand { generation: 2, ..deployment("web", &layout.name()) };
    cluster.deploy(&second).await;
    cluster.reported(&second, InstanceStatus::Running).await;
    let pids = worker.processes_of(&second);

    let first = DeployCommand { generation: 1, ..second.clone() };
    cluster.deploy(&first).await;
    cluster.deploy(&second).await;
    cluster.delete(&first).await;
    cluster.reported(&first, InstanceStatus::Undeployed).await;
    assert_eq!(worker.processes_of(&second), pids, "older and same commands change nothing");

    let third = DeployCommand {
        generation: 3,
        cmd: vec!["/program".into(), "say=third".into(), "sleep".into()],
        ..second.clone()
    };
    cluster.deploy(&third).await;
    cluster.reported(&third, InstanceStatus::Running).await;
    worker.printed(&third, "third").await;
    assert!(!worker.processes_of(&third).iter().any(|pid| pids.contains(pid)));
    assert_eq!(worker.net.look(|seen| (seen.attached.len(), seen.detached.len())), (2, 1));

    cluster.delete(&third).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_find_what_image_and_deployment_say() {
    let users = Layer::default()
        .file("etc/passwd", 0o644, b"root:x:0:0::/root:\nweb:x:101:102::/var/www:\n")
        .file("etc/group", 0o644, b"web:x:102:\nssl:x:50:web\n")
        .folder("srv/data", 0o755);
    let recipe = Recipe {
        env: vec!["FROM=image".into(), "BOTH=image".into()],
        user: "web".into(),
        cwd: "/srv/data".into(),
        ..Recipe::new(&[
            "env=FROM",
            "env=BOTH",
            "env=HOSTNAME",
            "env=HOME",
            "cwd",
            "read=/etc/hostname",
            "read=/etc/hosts",
            "read=/proc/self/status",
            "read=/proc/sys/kernel/hostname",
            "sleep",
        ])
    }
    .layer(users);
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&recipe));
    let worker = Worker::start(&cluster);
    let web = DeployCommand {
        instance_number: 4,
        environment: vec!["BOTH=deployment".into()],
        ..deployment("web", &layout.name())
    };
    cluster.deploy(&web).await;
    let output = worker.printed(&web, "/proc/sys/kernel/hostname: ").await;
    for expected in [
        "FROM=image\n",
        "BOTH=deployment\n",
        "HOSTNAME=instance-4\n",
        "HOME=/var/www\n",
        "cwd /srv/data\n",
        "/etc/hostname: instance-4\n",
        "10.18.0.1\tinstance-4",
        "Uid:\t101\t101\t101\t101\n",
        "Gid:\t102\t102\t102\t102\n",
        "Groups:\t50",
        "/proc/sys/kernel/hostname: instance-4\n",
    ] {
        assert!(output.contains(expected), "{expected:?} is not in:\n{output}");
    }
    cluster.delete(&web).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_instances_start_at_a_time_and_share_one_image() {
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&Recipe::new(FOREVER)));
    let worker = Worker::start(&cluster);
    // Warm: the image is there.
    for generation in 1..=3 {
        let first = DeployCommand { generation, ..deployment("first", &layout.name()) };
        cluster.deploy(&first).await;
        cluster.reported(&first, InstanceStatus::Running).await;
    }
    let warm = worker.times("status=CREATING", "status=RUNNING");
    println!("from command to running, ms: {warm:?}");
    cluster.delete(&DeployCommand { generation: 3, ..deployment("first", &layout.name()) }).await;
    let all: Vec<_> = (0..10)
        .map(|n| DeployCommand { instance_number: n, ..deployment("web", &layout.name()) })
        .collect();
    for command in &all {
        cluster.deploy(command).await;
    }
    for command in &all {
        cluster.reported(command, InstanceStatus::Running).await;
    }
    let layers = std::fs::read_dir(worker.state().join("content/layers")).unwrap();
    let folders = layers.filter(|entry| entry.as_ref().unwrap().path().is_dir()).count();
    assert_eq!(folders, 1, "the layer was unpacked once");
    let (engine, shims) = worker.private_memory();
    println!("private memory: engine {engine} KiB, shims {shims:?} KiB");
    assert!(shims.iter().all(|kib| *kib < 16 * 1024), "{shims:?}");
    for command in &all {
        cluster.delete(command).await;
    }
    for command in &all {
        cluster.reported(command, InstanceStatus::Undeployed).await;
    }
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_bounded_on_disk() {
    let (cluster, layout) =
        (TestCluster::start().await, Layout::of(&Recipe::new(&["flood=5000", "say=end", "sleep"])));
    let worker = Worker::start_with(&cluster, &["--instance-log-bytes-max=100000"]);
    let web = deployment("web", &layout.name());
    cluster.deploy(&web).await;
    worker.printed(&web, "end\n").await;
    let size = |name| std::fs::metadata(worker.instance(&web).join(name)).map_or(0, |m| m.len());
    assert!(size("log") + size("log.1") <= 100_000);
    eventually("the end of the output to be reported", || {
        let all = cluster.resources();
        all.last()?.services.first().filter(|usage| usage.logs.ends_with("end\n")).map(|usage| {
            assert_eq!(usage.logs.len(), 1024);
        })
    })
    .await;
    cluster.delete(&web).await;
    worker.nothing_left().await;
}

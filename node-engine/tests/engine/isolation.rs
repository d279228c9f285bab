//! What an instance may not do, and what it may not take.

use xylem_types::{instance::InstanceStatus, mqtt::DeployCommand};

use crate::support::{
    cluster::TestCluster,
    eventually,
    image::{Layout, Recipe},
    worker::{Worker, cgroup_mounts, deployment},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_the_usual_capabilities_and_no_way_to_more() {
    let recipe = Recipe::new(&[
        "read=/proc/self/status",
        "unshare=268435456", // a user namespace
        "mknod=/disk",
        "mknod=/dev/disk",
        "list=/sys/firmware",
        "write=/proc/sys/kernel/panic",
        "write=/sys/mark",
        "write=/mark",
        "list=/sys/class/net",
        "list=/proc/1/fd",
        "link=/proc/1/exe",
        "sleep",
    ]);
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&recipe));
    let worker = Worker::start(&cluster);
    let web = deployment("web", &layout.name());
    cluster.deploy(&web).await;
    let output = worker.printed(&web, "/proc/1/exe -> ").await;
    let guarded = cgroup_mounts().iter().any(|mount| mount.ends_with("devices"));
    // With mknod only where a control group guards devices.
    let capabilities = if guarded { "00000000a80425fb" } else { "00000000a00425fb" };
    for expected in [
        &format!("CapBnd:\t{capabilities}\n"),
        &format!("CapEff:\t{capabilities}\n"),
        "CapAmb:\t0000000000000000\n",
        "NoNewPrivs:\t1\n",
        "Seccomp:\t2\n",
        "unshare -1\n",
        "/sys/firmware: []\n",
        "write /proc/sys/kernel/panic: Err(ReadOnlyFilesystem)\n",
        "write /sys/mark: Err(ReadOnlyFilesystem)\n",
        "write /mark: Ok(())\n",
        "/sys/class/net: [lo]\n",
        "/proc/1/exe -> /program\n",
    ] {
        assert!(output.contains(expected), "{expected:?} is not in:\n{output}");
    }
    assert_eq!(output.matches(" open -1\n").count(), 2, "no device can be opened:\n{output}");
    let open = output.lines().find(|line| line.starts_with("/proc/1/fd: ")).unwrap();
    assert_eq!(open, "/proc/1/fd: [0 1 2 3]", "nothing of the shim's is open but this listing");
    cluster.delete(&web).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_runs_the_workers_own_program_finds_it_read_only() {
    // The first process is the worker's program until it runs the image's; /proc/self/exe is it.
    let recipe = Recipe {
        entrypoint: vec!["/proc/self/exe".into(), "--version".into()],
        ..Recipe::new(&[])
    };
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&recipe));
    let worker = Worker::start(&cluster);
    let web = deployment("web", &layout.name());
    cluster.deploy(&web).await;
    eventually("the end, in whatever way", || {
        cluster
            .reports()
            .iter()
            .any(|report| matches!(report.status, InstanceStatus::Dead | InstanceStatus::Failed))
            .then_some(())
    })
    .await;
    cluster.delete(&web).await;
    worker.nothing_left().await;

    // That would run, had the image a loader; the file that it would be is mounted read-only.
    let idle = Layout::of(&Recipe::new(&["say=up", "sleep"]));
    let web = deployment("idle", &idle.name());
    cluster.deploy(&web).await;
    worker.printed(&web, "up").await;
    for pid in worker.shims() {
        let exe = std::fs::File::open(format!("/proc/{pid}/exe")).unwrap();
        let flags = nix::sys::statvfs::fstatvfs(&exe).unwrap().flags();
        assert!(flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY), "{flags:?}");
    }
    cluster.delete(&web).await;
    worker.nothing_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_enforced() {
    let (cluster, mut layout) = (TestCluster::start().await, Layout::new());
    layout.add("greedy", &Recipe::new(&["say=up", "alloc=200", "sleep"]));
    layout.add("modest", &Recipe::new(&["alloc=20", "sleep"]));
    layout.add("forking", &Recipe::new(&["forks=100", "sleep"]));
    layout.add("busy", &Recipe::new(&["say=up", "spin"]));
    let worker = Worker::start_with(&cluster, &["--instance-processes-max=20"]);
    let image = |tag: &str| format!("{}:{tag}", layout.name());

    let greedy = DeployCommand { memory: 64, ..deployment("greedy", &image("greedy")) };
    cluster.deploy(&greedy).await;
    let report = cluster.reported(&greedy, InstanceStatus::Dead).await;
    assert!(report.status_detail.contains("signal 9"), "{}", report.status_detail);
    assert!(report.status_detail.contains("out of memory"), "{}", report.status_detail);

    let modest = DeployCommand { memory: 64, ..deployment("modest", &image("modest")) };
    cluster.deploy(&modest).await;
    worker.printed(&modest, "allocated 20").await;

    let forking = deployment("forking", &image("forking"));
    cluster.deploy(&forking).await;
    worker.printed(&forking, "forked 19\n").await;

    let busy = DeployCommand { vcpus: 0.25, ..deployment("busy", &image("busy")) };
    cluster.deploy(&busy).await;
    worker.printed(&busy, "up").await;
    let percent = eventually("CPU use to be reported", || {
        let all = cluster.resources();
        let usages = || all.iter().flat_map(|resources| &resources.services);
        let mine: Vec<f64> = usages()
            .filter(|usage| usage.job_name == busy.job_name)
            .map(|usage| usage.cpu_percent.parse().unwrap())
            .collect();
        // The first one or two cover no whole period.
        (mine.len() > 12).then(|| mine[2..].iter().sum::<f64>() / (mine.len() - 2) as f64)
    })
    .await;
    assert!((10.0..=40.0).contains(&percent), "a quarter of a CPU was allowed, {percent} % used");
    eventually("memory use to be reported", || {
        let all = cluster.resources();
        let usage = all.last()?.services.iter().find(|usage| usage.job_name == modest.job_name)?;
        usage.memory_percent.parse::<f64>().ok().filter(|percent| *percent > 0.05)
    })
    .await;

    for command in [&greedy, &modest, &forking, &busy] {
        cluster.delete(command).await;
    }
    worker.nothing_left().await;
}

//! The parts that the other suites are made of, tried on themselves. Needs root.

mod relay;

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use xylem_tests::{
    daemon, image::Image, netns::NETNS_FOLDER, process::Process, registry::Registry,
    topology::Topology, wait::wait_until,
};

const LIMIT: Duration = Duration::from_secs(10);

fn own_prefix(test: &str) -> String {
    format!("xyt{}-{test}", std::process::id())
}

#[test]
fn workers_reach_each_other_and_the_hub_through_the_router() {
    let net = Topology::isolated(&own_prefix("reach"), 2).unwrap();
    let [one, two] = &net.workers[..] else { panic!("two workers") };
    for (client, server) in [(one, two), (two, one), (one, &net.hub)] {
        let listener = server.netns.run(|| TcpListener::bind((server.address, 7000))).unwrap();
        let mut stream = client.netns.run(|| TcpStream::connect((server.address, 7000))).unwrap();
        let (mut accepted, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), client.address, "the router translates nothing");
        stream.write_all(b"hello").unwrap();
        let mut text = [0; 5];
        accepted.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
    }
}

#[test]
fn hub_is_reached_from_this_host_and_from_workers_by_one_address() {
    let net = Topology::reachable(&own_prefix("host"), 1, "xyt-support").unwrap();
    let address = (net.hub.address, 7000);
    let _listener = net.hub.netns.run(|| TcpListener::bind(address)).unwrap();
    TcpStream::connect(address).unwrap();
    net.workers[0].netns.run(|| TcpStream::connect(address)).unwrap();
}

#[test]
fn nothing_is_left_of_a_topology() {
    let prefix = own_prefix("gone");
    let net = Topology::isolated(&prefix, 1).unwrap();
    let named = |name: &str| Path::new(NETNS_FOLDER).join(format!("{prefix}-{name}"));
    assert!(named("worker1").exists());
    drop(net);
    for name in ["hub", "router", "worker1"] {
        assert!(!named(name).exists());
    }
}

#[test]
fn name_that_is_taken_is_refused_and_left_alone() {
    let prefix = own_prefix("taken");
    let _net = Topology::isolated(&prefix, 0).unwrap();
    let error = format!("{:#}", Topology::isolated(&prefix, 0).unwrap_err());
    assert!(error.contains(&format!("{prefix}-router")), "{error}");
    assert!(Path::new(NETNS_FOLDER).join(format!("{prefix}-hub")).exists());
}

#[test]
fn process_runs_in_its_host_and_ends_with_its_owner() {
    let folder = tempfile::tempdir().unwrap();
    let net = Topology::isolated(&own_prefix("proc"), 1).unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "readlink /proc/self/ns/net; exec sleep 1000"]);
    let process = Process::start("sleeper", command, Some(&net.workers[0].netns), &log).unwrap();
    let inside = net.workers[0].netns.run(|| fs::read_link("/proc/thread-self/ns/net")).unwrap();
    wait_until("the namespace in the log", LIMIT, || {
        process.log_tail(1) == inside.to_string_lossy()
    });
    let folder_of_process = Path::new("/proc").join(process.pid().to_string());
    assert!(folder_of_process.exists());
    drop(process);
    assert!(!folder_of_process.exists());
}

#[test]
fn process_that_ends_at_once_is_told_with_its_last_words() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "echo no such flag >&2; exit 2"]);
    let log = folder.path().join("log");
    let mut process = Process::start("broken", command, None, &log).unwrap();
    let error = process.wait_ready(LIMIT, || anyhow::bail!("not yet")).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("no such flag") && error.contains("exit status: 2"), "{error}");
}

#[test]
fn image_pushed_to_the_registry_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let net = Topology::isolated(&own_prefix("image"), 0).unwrap();
    let address = (net.hub.address, 5000);
    let registry = Registry::start(&net.hub.netns, address, folder.path()).unwrap();
    let image = Image::of_binary("sh", Path::new("/bin/sh")).unwrap();

    let reference = registry.add(&net.hub.netns, "tools/sh", "1", &image).unwrap();

    assert_eq!(reference, format!("{}:5000/tools/sh:1", net.hub.address));
    let tags = format!("http://{}:5000/v2/tools/sh/tags/list", net.hub.address);
    let mut answer = net.hub.netns.run(|| ureq::get(tags).call()).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    assert_eq!(text.trim(), r#"{"name":"tools/sh","tags":["1"]}"#);
}

/// `scripts/config` is for copying: every daemon takes its file as it is.
#[test]
fn example_configurations_are_accepted() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/config");
    let folder = tempfile::tempdir().unwrap();
    let prefix = own_prefix("conf");
    let net = Topology::isolated(&prefix, 0).unwrap();
    let start = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(daemon::program(&format!("xylem-{name}")));
        command.args(arguments).arg("--config").arg(examples.join(format!("{name}.toml")));
        let log = folder.path().join(format!("{name}.log"));
        Process::start(name, command, Some(&net.hub.netns), &log).unwrap()
    };
    let state = folder.path().join("state").display().to_string();

    for (name, port) in [("root", daemon::ROOT_PORT), ("cluster", daemon::CLUSTER_PORT)] {
        let mut daemon = start(name, &["--data-dir", &format!("{state}/{name}")]);
        let dial = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map(drop);
        daemon.wait_ready(LIMIT, || Ok(net.hub.netns.run(dial)?)).unwrap();
        daemon.stop().unwrap();
    }
    // What these two do for ever needs more than a configuration.
    let bpffs = format!("/sys/fs/bpf/{prefix}");
    for mut daemon in [
        start("net-manager", &["purge", "--bpffs-root", &bpffs]),
        start("node-engine", &["purge", "--state-dir", &format!("{state}/engine")]),
    ] {
        wait_until("the purge to end", LIMIT, || daemon.ended().unwrap().is_some());
        daemon.stop().unwrap();
    }
}

#[test]
fn loopback_is_up_in_a_new_host() {
    let net = Topology::isolated(&own_prefix("lo"), 0).unwrap();
    net.hub.netns.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
}

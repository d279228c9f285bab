//! What `xylem net` says of the real program over real maps, with no daemon there.

#[path = "../support/done.rs"]
mod done;
mod host;
mod large;

use std::{
    io::{BufRead, BufReader, Read},
    net::Ipv4Addr,
    process::Child,
};

use host::{CLIENT_NS, Host, SERVICE, WEB_NS, WEB_RR, on_a_new_host, wait_for};
use net_common::{Counter, DropReason, Flow, FlowKey, ProgramCounter, Traffic, config::features};
use net_maps::{ObserveError, Observer, PinnedMaps};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Explained {
    sender: Option<String>,
    steps: Vec<Step>,
    verdict: String,
    summary: String,
}

#[derive(Debug, Deserialize)]
struct Step {
    kind: String,
    text: String,
}

fn explain(host: &Host, arguments: &[&str]) -> Explained {
    host.xylem(&[&["--output", "json", "explain"], arguments].concat()).json()
}

fn kinds(explained: &Explained) -> Vec<&str> {
    explained.steps.iter().map(|step| step.kind.as_str()).collect()
}

/// All that a packet could change.
type State = (
    Vec<(FlowKey, Flow)>,
    Vec<(DropReason, Counter)>,
    Vec<(ProgramCounter, Counter)>,
    Vec<Traffic>,
);

fn state(maps: &PinnedMaps) -> State {
    let traffic = (0..8).flat_map(|index| {
        [maps.service_traffic(index).unwrap(), maps.instance_traffic(index).unwrap()]
    });
    (
        maps.flows().unwrap(),
        maps.drops().unwrap(),
        maps.program_counters().unwrap(),
        traffic.collect(),
    )
}

fn syn(to: Ipv4Addr, sport: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2; 6], [2; 6])
        .ipv4(CLIENT_NS.octets(), to.octets(), 64)
        .tcp(sport, 80, 1, 1_000)
        .syn()
        .write(&mut frame, &[])
        .unwrap();
    frame
}

#[test]
fn explain_names_every_step_and_changes_nothing() {
    on_a_new_host(|host| {
        let before = state(&host.maps);
        for _ in 0..3 {
            let local = explain(&host, &["client.0", "10.30.0.10:80"]);
            let wanted = ["no-flow", "sender", "service", "policy", "table", "chosen", "deliver"];
            assert_eq!(kinds(&local), wanted, "{local:?}");
            // The turn does not move on: it is always the same instance.
            assert_eq!(local.verdict, "delivered");
            assert_eq!(local.summary, format!("delivered on this node to {SERVICE}.0"));
            assert_eq!(local.sender.as_deref(), Some("shop.prod.client.front.0"));
            assert!(local.steps[2].text.contains(SERVICE), "{local:?}");
            assert!(local.steps[4].text.contains("instance 0 50%, instance 1 50%"), "{local:?}");
        }
        for (proto, dst) in [("udp", "web:53"), ("icmp", "web")] {
            let explained = explain(&host, &["10.18.0.2", dst, "--proto", proto]);
            assert_eq!(explained.verdict, "delivered", "{explained:?}");
        }
        let by_instance = explain(&host, &["web", "10.30.0.99:80"]);
        assert_eq!(by_instance.verdict, "parked", "nobody knows it: {by_instance:?}");
        let outside = explain(&host, &["client", "203.0.113.1:80"]);
        assert_eq!(outside.verdict, "dropped");
        assert!(outside.summary.starts_with("dropped, outside-overlay: "), "{outside:?}");
        assert_eq!(state(&host.maps), before, "something was counted or placed");

        let text = host.xylem(&["explain", "client", "web:80"]).ok();
        assert!(text.ends_with(&format!("=> delivered on this node to {SERVICE}.0\n")), "{text}");
        assert!(!text.contains('\x1b'), "colours in a pipe: {text:?}");
        let nobody = host.xylem(&["explain", "cellar", "web:80"]);
        assert!(nobody.refused(1).contains("xylem net endpoints"));
        host.xylem(&["explain", "client", "10.30.0.10"]).refused(2);
    });
}

#[test]
fn a_way_out_is_one_line_and_explained() {
    on_a_new_host(|mut host| {
        let config = host.maps.config().unwrap();
        let open = net_common::Config { masquerade_first: 40_000, masquerade_count: 100, ..config };
        host.maps.set_config(&open).unwrap();
        let explained = explain(&host, &["client", "203.0.113.1:80"]);
        assert_eq!(explained.verdict, "leaves-overlay", "{explained:?}");
        assert!(host.maps.flows().unwrap().is_empty(), "a port was taken");

        host.send_from_client(&syn(Ipv4Addr::new(203, 0, 113, 1), 40_004));
        let mut ping = Vec::new();
        etherparse::PacketBuilder::ethernet2([2; 6], [2; 6])
            .ipv4(CLIENT_NS.octets(), [203, 0, 113, 1], 64)
            .icmpv4_echo_request(77, 1)
            .write(&mut ping, b"ping")
            .unwrap();
        host.send_from_client(&ping);
        wait_for("two flows", || (host.maps.flows().unwrap().len() == 4).then_some(()));
        let shown = host.xylem(&["flows", "--sort", "client"]).ok();
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines.len(), 3, "one line a flow: {shown}");
        assert!(lines.iter().skip(1).all(|line| line.contains(" outside ")), "{shown}");
        assert!(lines[1].contains("10.18.0.2 id 77"), "{shown}");
        assert!(lines[2].contains("10.18.0.2:40004   203.0.113.1:80"), "{shown}");
    });
}

#[test]
fn explain_agrees_with_what_happens() {
    on_a_new_host(|host| {
        let first = explain(&host, &["client", "web:80"]);
        host.send_from_client(&syn(WEB_RR, 40_000));
        let flows = wait_for("flow", || {
            let flows = host.maps.flows().unwrap();
            (flows.len() == 2).then_some(flows)
        });
        let question = flows.iter().find(|(key, _)| key.origin == host.client_veth).unwrap();
        assert_eq!(question.1.dst, WEB_NS.into(), "{first:?}");
        // The next turn is the other's, on another node.
        let second = explain(&host, &["client", "web:80"]);
        assert_eq!(second.verdict, "tunnelled");
        let wanted = format!("sent through the tunnel to 192.0.2.2:50103 to {SERVICE}.1");
        assert_eq!(second.summary, wanted);
        // The packets of that flow go where it goes.
        let known = explain(&host, &["client", "web:80", "--source-port", "40000"]);
        assert_eq!(kinds(&known), ["flow-found", "deliver"], "{known:?}");

        let shown = host.xylem(&["flows", "--state", "opening"]).ok();
        assert!(shown.contains("10.18.0.2:40000") && shown.lines().count() == 2, "{shown}");
        assert_eq!(host.xylem(&["flows", "--state", "established"]).ok().lines().count(), 1);
    });
}

/// Reads lines of a child until it ends.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap)
}

fn is_observed(host: &Host) -> bool {
    host.maps.config().unwrap().features & features::OBSERVE != 0
}

#[test]
fn events_are_told_while_somebody_looks_and_to_one_at_a_time() {
    on_a_new_host(|mut host| {
        assert!(!is_observed(&host));
        let mut child = host.start(&["--output", "json", "events", "--follow"]);
        wait_for("observer", || is_observed(&host).then_some(()));
        let second = host.xylem(&["events", "--for", "1"]);
        assert!(second.refused(1).contains("one can at a time"));
        assert!(is_observed(&host), "who was refused has told the programs to be silent");

        // A net manager that writes its settings meanwhile does not undo it.
        let config = host.maps.config().unwrap();
        let own = net_common::Config { features: 1, ..config };
        host.maps.set_config(&own).unwrap();
        assert_eq!(host.maps.config().unwrap().features, 1 | features::OBSERVE);

        host.send_from_client(&syn(WEB_RR, 40_001));
        host.send_from_client(&syn(Ipv4Addr::new(203, 0, 113, 1), 40_002));
        let mut lines = lines(&mut child);
        let opened = lines.next().unwrap();
        assert!(opened.contains(r#""kind":"opened""#), "{opened}");
        assert!(opened.contains(&format!(r#""instance":"{SERVICE}.0""#)), "{opened}");
        assert!(opened.contains(r#""src":"10.18.0.2:40001""#), "{opened}");
        let dropped = lines.next().unwrap();
        assert!(dropped.contains(r#""reason":"outside-overlay""#), "{dropped}");

        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(host.maps.config().unwrap().features, 1, "only the bit is cleared");
    });
}

#[test]
fn events_that_found_the_ring_full_are_said_to_be_lost() {
    // The ring holds a megabyte of them.
    const EVENTS: u16 = 12_000;
    on_a_new_host(|host| {
        let mut child =
            host.start(&["--output", "json", "events", "--for", "20", "--kind", "opened"]);
        let pid = Pid::from_raw(child.id() as i32);
        wait_for("observer", || is_observed(&host).then_some(()));
        kill(pid, Signal::SIGSTOP).unwrap();
        let outside = Ipv4Addr::new(203, 0, 113, 1);
        host.send_each_from_client((0..EVENTS).map(|port| syn(outside, 20_000 + port)));
        kill(pid, Signal::SIGCONT).unwrap();
        let mut lines = lines(&mut child);
        let lost = lines.next().unwrap();
        assert!(lost.contains(r#""kind":"lost","overruns":1"#), "{lost}");
        let counters = host.maps.program_counters().unwrap();
        let counted = counters.iter().find(|(did, _)| *did == ProgramCounter::EventLost).unwrap();
        assert!((1..u64::from(EVENTS)).contains(&counted.1.packets), "{counted:?}");
        // There is room again, and nothing more is lost.
        host.send_from_client(&syn(WEB_RR, 40_001));
        let opened = lines.next().unwrap();
        assert!(opened.contains(r#""kind":"opened""#), "{opened}");
        kill(pid, Signal::SIGINT).unwrap();
        assert_eq!(lines.next(), None);
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn a_killed_observer_leaves_nothing_for_ever() {
    on_a_new_host(|mut host| {
        let mut child = host.start(&["events", "--follow"]);
        wait_for("observer", || is_observed(&host).then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_observed(&host), "nobody was there to clear it");
        let config = host.maps.config().unwrap();
        host.maps.set_config(&config).unwrap();
        assert!(!is_observed(&host), "the next writer clears it");
        host.xylem(&["events", "--for", "0"]).ok();
        assert!(!is_observed(&host));
    });
}

#[test]
fn drops_show_the_last_packets_and_events_can_be_filtered() {
    on_a_new_host(|host| {
        let mut child = host.start(&["drops", "--sample", "1"]);
        wait_for("observer", || is_observed(&host).then_some(()));
        host.send_from_client(&syn(Ipv4Addr::new(203, 0, 113, 1), 40_002));
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        let wanted = "last seen: tcp 10.18.0.2:40002 -> 203.0.113.1:80";
        assert!(text.contains("outside-overlay") && text.contains(wanted), "{text}");

        let mut child = host.start(&["events", "--for", "1", "--reason", "spoofed-source"]);
        wait_for("observer", || is_observed(&host).then_some(()));
        host.send_from_client(&syn(Ipv4Addr::new(203, 0, 113, 1), 40_003));
        assert_eq!(lines(&mut child).next(), None);
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn doctor_finds_what_is_missing() {
    on_a_new_host(|host| {
        #[derive(Deserialize)]
        struct Check {
            feature: String,
            status: String,
            found: String,
            todo: Option<String>,
        }
        let done = host.xylem(&["--output", "json", "doctor"]);
        // This node has no program on its uplink, which is the loopback interface.
        assert_eq!(done.code, 1, "{done:?}");
        assert!(done.stderr.contains("missing: uplink"), "{done:?}");
        let checks: Vec<Check> = serde_json::from_str(&done.stdout).unwrap();
        let of = |feature: &str| checks.iter().find(|check| check.feature == feature).unwrap();
        for feature in ["TCX links", "instances", "programs", "configuration", "layout"] {
            assert_eq!(of(feature).status, "ok", "{feature} in {}", done.stdout);
        }
        for feature in ["net manager", "instances' headroom"] {
            assert_eq!(of(feature).status, "warning", "{feature} in {}", done.stdout);
        }
        // As the kernel says of an interface that no driver moves packets for.
        assert_eq!(of("XDP in the driver").found, "no driver: none");
        assert!(of("uplink").todo.as_deref().unwrap().contains("net manager"));
    });
}

#[test]
fn one_observer_at_a_time_in_one_process_as_well() {
    on_a_new_host(|host| {
        let root = host.maps.dir().parent().unwrap();
        let first = Observer::start(root).unwrap();
        assert!(matches!(Observer::start(root), Err(ObserveError::Busy)));
        drop(first);
        drop(Observer::start(root).unwrap());
        assert!(!is_observed(&host));
    });
}

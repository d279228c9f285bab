//! `xylem net flows` of large flow tables: how long it takes, and how much memory.
//!
//! `XYLEM_TEST_FLOW_ENTRIES` makes the table larger than it is for everyday, and the figures are
//! printed with `--nocapture`.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::unix::process::CommandExt,
    time::{Duration, Instant},
};

use net_common::{
    Flow, FlowKey,
    flow::{
        flags::{CONFIRMED, REMOTE_CLIENT, REPLY},
        from_node,
    },
};
use nix::{
    libc,
    net::if_::if_nametoindex,
    sys::resource::{Resource, setrlimit},
};

use crate::host::{Host, WEB_NS, on_a_new_host_for};

const ENTRIES: u32 = 120_000;

/// Flows of clients on another node to the instance here, two entries each.
fn fill(host: &mut Host, flows: u32) {
    let web = if_nametoindex("xyweb").unwrap();
    let (client_port, web_port) = (1_000_u16.to_be(), 80_u16.to_be());
    for number in 0..flows {
        let [_, a, b, c] = number.to_be_bytes();
        let client = Ipv4Addr::new(10, a, b, c).into();
        let question = FlowKey {
            local: WEB_NS.into(),
            remote: client,
            local_port: web_port,
            remote_port: client_port,
            origin: from_node(1),
            proto: if number % 10 == 0 { 17 } else { 6 },
        };
        let to_web = Flow {
            src: client,
            dst: WEB_NS.into(),
            sport: client_port,
            dport: web_port,
            packets: 1,
            bytes: u64::from(number),
            instance: 2,
            flags: CONFIRMED | REMOTE_CLIENT,
            ..Flow::default()
        };
        let back = Flow {
            src: WEB_NS.into(),
            dst: client,
            sport: web_port,
            dport: client_port,
            node: 1,
            flags: CONFIRMED | REMOTE_CLIENT | REPLY,
            ..to_web
        };
        host.maps.set_flow(&question, &to_web).unwrap();
        host.maps.set_flow(&FlowKey { origin: web, ..question }, &back).unwrap();
    }
}

struct Measured {
    lines: usize,
    first: Vec<String>,
    took: Duration,
}

/// Runs a command, which fails if it wants more than `most` bytes of memory for its data.
fn measure(host: &Host, arguments: &[&str], most: u64) -> Measured {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let mut command = host.command(arguments);
    command.stdout(File::create(&path).unwrap());
    // SAFETY: one system call, which may be made between fork and exec.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(Resource::RLIMIT_DATA, most, most)?));
    }
    let started = Instant::now();
    #[expect(clippy::zombie_processes, reason = "it is waited for below")]
    let child = command.spawn().unwrap();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    let mut status = 0;
    // SAFETY: a child of this process that nobody else waits for, and room for what is written.
    let ended = unsafe { libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr()) };
    let took = started.elapsed();
    assert_eq!((ended, status), (child.id() as i32, 0), "{arguments:?} with {most} bytes");
    // This process counts until the child has become another program: only of a test that runs
    // alone is it the child's. SAFETY: written by `wait4`, and zeros before.
    let kilobytes = unsafe { usage.assume_init() }.ru_maxrss;
    let mut lines = BufReader::new(File::open(&path).unwrap()).lines().map(Result::unwrap);
    let first: Vec<_> = lines.by_ref().take(3).collect();
    let lines = first.len() + lines.count();
    println!("{arguments:?}: {lines} lines in {took:?}, at most {} MB", kilobytes / 1_000);
    Measured { lines, first, took }
}

#[test]
fn a_large_flow_table_is_shown_quickly_and_in_little_memory() {
    let entries = std::env::var("XYLEM_TEST_FLOW_ENTRIES");
    let entries = entries.map_or(ENTRIES, |text| text.parse().expect("a number of entries"));
    let flows = entries / 2;
    on_a_new_host_for(entries.max(ENTRIES), move |mut host| {
        fill(&mut host, flows);
        let shown = flows as usize;
        // A flow may cost 250 bytes, however many are shown; the rest is the program.
        let most = 10_000_000 + u64::from(flows) * 250;
        let of = |arguments: &[&str], lines| {
            let measured = measure(&host, arguments, most);
            assert_eq!(measured.lines, lines, "{arguments:?}: {:?}", measured.first);
            measured
        };
        let top = of(&["flows", "--limit", "3"], 4);
        let last = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + flows - 1);
        assert!(top.first[1].contains(&format!(" {last}:1000 ")), "{:?}", top.first);
        assert!(top.took < Duration::from_secs(20), "{:?}", top.took);
        of(&["flows", "--proto", "udp", "--limit", "3"], 4);
        of(&["flows", "--src", "10.0.0.7", "--sort", "idle"], 2);
        of(&["flows"], shown + 1);
        // Each flow has the fields that the first has, and brackets are around all of them.
        let json = ["flows", "--output", "json"];
        let one = of(&["flows", "--output", "json", "--limit", "1"], 18).lines - 2;
        of(&json, shown * one + 2);
    });
}

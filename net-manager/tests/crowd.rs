//! A look at a large flow table costs little. By itself, because the memory is that of the process.

mod support;

use std::time::Duration;

use net_manager::{
    core::expiry::{
        Timeouts,
        pace::{Pace, Seen},
    },
    kernel::{
        clock,
        sweep::{Stop, sweep},
    },
};
use support::{crowd::fill, on_a_new_host};

async fn sweep_a_crowd(host: support::Host, flows: u32) {
    let mut config = host.config();
    config.map_sizes.flows = flows * 2 + 4096;
    host.start_with(config.clone()).await.stop().await;
    let now = clock::now().as_nanos() as u64;
    fill(&host, flows, now);
    let entries = flows as usize * 2;

    let memory = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory();
    let seen = |removed| Some(Seen { entries, removed });
    let calm = Pace::new(seen(0), config.map_sizes.flows);
    let swept = sweep(&host.bpffs(), &config.timeouts, &calm, &Stop::default()).unwrap();
    // The kernel's account of it lags behind a little, in either direction.
    let more = memory().saturating_sub(before);
    eprintln!("{entries} that live: took {:?}, worked {:?}, {more} KB", swept.took, swept.worked);
    assert_eq!((swept.entries, swept.removed, swept.established), (entries, 0, entries));
    assert!(more < 16 * 1024, "{more} KB more at the highest");
    let least = Duration::from_secs(entries as u64 / 30_000);
    assert!(swept.took > least, "{:?}: it takes the CPU from others", swept.took);

    let timeouts = Timeouts { tcp: Duration::ZERO, ..config.timeouts };
    let busy = Pace::new(seen(entries), config.map_sizes.flows);
    let swept = sweep(&host.bpffs(), &timeouts, &busy, &Stop::default()).unwrap();
    // The kernel's account of it lags behind a little, in either direction.
    let more = memory().saturating_sub(before);
    eprintln!("{entries} that ended: took {:?}, worked {:?}, {more} KB", swept.took, swept.worked);
    assert_eq!((swept.removed, swept.established), (entries, 0));
    assert_eq!(host.maps().flows().unwrap().len(), 0);
    assert!(more < 16 * 1024, "{more} KB more at the highest");
}

#[test]
fn a_crowd_of_flows_is_looked_at_in_passing() {
    on_a_new_host(|host| sweep_a_crowd(host, 20_000));
}

#[test]
#[ignore = "takes 700 MB of kernel memory and two minutes; prints time and memory"]
fn a_million_flows_are_looked_at_in_passing() {
    on_a_new_host(|host| sweep_a_crowd(host, 1_000_000));
}

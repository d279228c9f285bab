//! Ended flows leave the flow table, living ones stay and are counted, and it costs little.

mod support;

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData};
use net_common::{
    Addr, Flow, FlowKey, Instance,
    flow::{OUTSIDE, flags, from_node},
};
use net_manager::{
    core::expiry::{
        Timeouts,
        pace::{Pace, Seen},
    },
    kernel::{
        clock,
        sweep::{Stop, SweepError, sweep},
    },
};
use net_maps::FlowTable;
use support::{NODE_ADDRESS, cluster::Cluster, on_a_new_host, process::Process, wait_for};

const WEB: &str = "shop.prod.web.prod";

#[test]
fn ended_flows_are_removed_and_living_ones_stay() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, [10, 30, 0, 2]), (1, [10, 30, 0, 3])]);
        let mut config = host.config();
        (config.timeouts.udp, config.timeouts.udp_opening) =
            (Duration::from_secs(2), Duration::from_secs(2));
        let manager = host.start_with(config).await;
        manager.register().await;
        let (client, server) = (Process::start().await, Process::start().await);
        manager.deploy(WEB, 0, &client).await;
        manager.deploy(WEB, 1, &server).await;
        let send = |port: u16| {
            move || {
                let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
                socket.send_to(b"hello", SocketAddr::from(([10, 30, 0, 3], 80))).unwrap();
            }
        };
        client.run(send(1000)).await;
        client.run(send(2000)).await;
        let ports = || -> Vec<u16> {
            let flows = host.maps().flows().unwrap();
            let client_side = flows.iter().filter(|(key, _)| key.remote_port == 80_u16.to_be());
            let mut ports: Vec<u16> =
                client_side.map(|(key, _)| u16::from_be(key.local_port)).collect();
            ports.sort_unstable();
            ports
        };
        assert_eq!(ports(), [1000, 2000]);
        // One goes on in one direction only, its answers' entry stays with it.
        let started = Instant::now();
        wait_for("end of the other", || async {
            client.run(send(2000)).await;
            if ports() == [2000] { Ok(()) } else { Err(format!("{:?}", ports())) }
        })
        .await;
        assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(host.maps().flows().unwrap().len(), 2, "both directions");

        // The instance goes, and its flows with it.
        manager.undeploy(WEB, 1).await;
        wait_for("end of all", || async {
            let left = host.maps().flows().unwrap().len();
            if left == 0 { Ok(()) } else { Err(format!("{left} entries")) }
        })
        .await;
        manager.stop().await;
    });
}

/// Flows to a host outside, both entries each, last seen then.
fn fill(host: &support::Host, flows: u32, last_seen_ns: u64) {
    let mut maps = host.maps();
    let (client, node) = (Addr::from(Ipv4Addr::new(10, 18, 0, 66)), Addr::from(NODE_ADDRESS));
    for n in 0..flows {
        let remote = Addr::from(Ipv4Addr::from(0x0b00_0000 + n / 4));
        let port = 1000 + (n % 4) as u16;
        let key = |local, origin| FlowKey {
            local,
            remote,
            local_port: port.to_be(),
            remote_port: 443_u16.to_be(),
            origin,
            proto: 6,
        };
        let common = Flow { last_seen_ns, flags: flags::CONFIRMED, ..Flow::default() };
        let (sport, dport) = (port.to_be(), 443_u16.to_be());
        let there = Flow { src: node, dst: remote, sport, dport, node: OUTSIDE, ..common };
        let back = Flow {
            src: remote,
            dst: client,
            sport: dport,
            dport: sport,
            ifindex: 7,
            flags: common.flags | flags::REPLY,
            ..common
        };
        maps.set_flow(&key(client, 7), &there).unwrap();
        maps.set_flow(&key(node, from_node(OUTSIDE)), &back).unwrap();
    }
}

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

#[test]
fn what_is_not_established_leaves_in_time_however_long_a_look_takes() {
    on_a_new_host(|host| async move {
        let mut config = host.config();
        config.map_sizes.flows = 400_000;
        host.start_with(config.clone()).await.stop().await;
        fill(&host, 150_000, clock::now().as_nanos() as u64);
        let stop = Stop::default();
        let calm = Pace::new(Some(Seen { entries: 300_000, removed: 0 }), 400_000);
        let (bpffs, timeouts, told) = (host.bpffs(), config.timeouts, stop.clone());
        let look = std::thread::spawn(move || sweep(&bpffs, &timeouts, &calm, &told));

        // The look at what is not established yet, at the start, has been long ago then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let path = net_maps::layout_dir(&host.bpffs()).join("opening");
        let map = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
        let mut opening: HashMap<_, FlowKey, Flow> = HashMap::try_from(map).unwrap();
        let key = FlowKey { proto: 6, local_port: 7, ..FlowKey::default() };
        opening.insert(key, Flow { last_seen_ns: 1, ..Flow::default() }, 0).unwrap();
        wait_for("end of what is half open", || async {
            match opening.get(&key, 0) {
                Ok(_) => Err("it is there".to_owned()),
                Err(_) => Ok(()),
            }
        })
        .await;
        assert!(!look.is_finished(), "it was to take longer");
        stop.stop();
        assert!(matches!(look.join().unwrap(), Err(SweepError::Stopped)));
    });
}

#[test]
fn flows_in_progress_are_counted_by_service_and_by_instance() {
    on_a_new_host(|host| async move {
        let config = host.config();
        host.start_with(config.clone()).await.stop().await;
        let mut maps = host.maps();
        let instance = Instance { generation: 3, state: 1, ..Instance::default() };
        maps.set_instance(5, &instance).unwrap();
        let now = clock::now().as_nanos() as u64;
        let mut entry = 0;
        let mut add = |service, instance, generation, flags| {
            entry += 1;
            let key = FlowKey { local_port: entry, proto: 6, ..FlowKey::default() };
            let flags = flags | flags::CONFIRMED;
            let flow =
                Flow { last_seen_ns: now, service, instance, generation, flags, ..Flow::default() };
            maps.set_flow(&key, &flow).unwrap();
        };
        add(9, 5, 3, 0);
        add(9, 5, 3, flags::REPLY);
        add(9, 5, 3, 0);
        add(10, 5, 3, flags::CLOSING);
        // Of an instance that has gone, and of one that there cannot be.
        add(11, 5, 2, 0);
        add(11, u32::MAX, 3, 0);
        // A slot that there cannot be.
        add(u32::MAX, 5, 3, 0);
        let pace = Pace::new(None, 4096);
        let swept = sweep(&host.bpffs(), &config.timeouts, &pace, &Stop::default()).unwrap();
        assert_eq!((swept.entries, swept.removed, swept.established), (7, 2, 5));
        assert_eq!(swept.in_use, [9, 10].into());
        assert_eq!(swept.flows_by_slot, [(9, 2)].into());
        assert_eq!(swept.flows_by_instance, [(5, 3)].into());
    });
}

#[test]
fn an_entry_that_was_used_since_it_was_read_stays() {
    on_a_new_host(|host| async move {
        host.start().await.stop().await;
        let mut maps = host.maps();
        let key = FlowKey { proto: 6, ..FlowKey::default() };
        let read = Flow { last_seen_ns: 7, ..Flow::default() };
        let used = Flow { last_seen_ns: 8, packets: 1, ..read };
        maps.set_flow(&key, &used).unwrap();
        let table = FlowTable::Established;
        assert!(!maps.remove_idle_flow(table, &key, &read).unwrap());
        assert_eq!(maps.flow(&key).unwrap(), Some(used));
        assert!(maps.remove_idle_flow(table, &key, &used).unwrap());
        assert_eq!(maps.flow(&key).unwrap(), None);
        assert!(!maps.remove_idle_flow(table, &key, &used).unwrap(), "it is gone");
    });
}

#[test]
fn a_sweep_ends_when_it_is_told_to() {
    on_a_new_host(|host| async move {
        host.start().await.stop().await;
        fill(&host, 100, 1);
        let (stop, pace) = (Stop::default(), Pace::new(None, 4096));
        stop.stop();
        let ended = sweep(&host.bpffs(), &host.config().timeouts, &pace, &stop).unwrap_err();
        assert!(matches!(ended, SweepError::Stopped), "{ended}");
    });
}

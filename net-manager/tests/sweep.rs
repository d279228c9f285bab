//! Ended flows leave the flow table, living ones stay and are counted, and it costs little.

mod support;

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData};
use net_common::{Flow, FlowKey, Instance, flow::flags};
use net_manager::{
    core::expiry::pace::{Pace, Seen},
    kernel::{
        clock,
        sweep::{Stop, SweepError, sweep},
    },
};
use net_maps::FlowTable;
use support::{cluster::Cluster, crowd::fill, on_a_new_host, process::Process, wait_for};

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

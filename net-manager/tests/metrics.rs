//! Every metric that is listed moves when that happens which it counts.

mod support;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use net_common::Service;
use net_manager::metrics::{
    METRICS,
    read::{Observed, read},
};
use net_maps::Name;
use support::{Host, cluster::Cluster, on_a_new_host, peer::Underlay, process::Process, wait_for};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use xylem_types::mqtt::IpType;

const LISTEN: &str = "127.0.0.1:10104";
const WEB: &str = "shop.prod.web.prod";
const WEB_RR: [u8; 4] = [10, 30, 0, 1];
const CART: &str = "shop.prod.cart.prod";
const FAR: &str = "shop.prod.far.prod";
const FAR_AFFINITY: [u8; 4] = [10, 30, 1, 4];
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const MUTE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);
const UNKNOWN: [u8; 4] = [10, 30, 9, 9];
const ELSEWHERE: [u8; 4] = [198, 51, 100, 1];

const MOVED: &str =
    "xylem_net_table_share_moved_ratio{service=\"shop.prod.far.prod\",policy=\"affinity\"}";

async fn scrape() -> String {
    let mut stream = TcpStream::connect(LISTEN).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("openmetrics"), "{reply}");
    body.to_owned()
}

/// The sum over all series of each metric; of a histogram, how many it has counted.
fn sums(text: &str) -> BTreeMap<&'static str, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let name = series.split('{').next().unwrap();
        let known = METRICS.iter().find(|known| {
            known.0 == name || name.strip_suffix("_count").is_some_and(|name| name == known.0)
        });
        if let Some((known, _)) = known {
            *sums.entry(*known).or_default() += value.parse::<f64>().unwrap();
        }
    }
    sums
}

async fn send(from: &Process, to: [u8; 4], port: u16) {
    from.run(move || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        socket.send_to(b"hello", SocketAddr::from((to, port))).unwrap();
    })
    .await;
}

#[test]
fn every_metric_moves() {
    on_a_new_host(|host| async move {
        let _counted = aya::sys::enable_stats(aya::sys::Stats::RunTime).unwrap();
        let underlay = Underlay::start(&[NEAR]).await;
        let _near = underlay.peer(NEAR, Duration::from_millis(1));
        let cluster = Cluster::start().await;
        cluster.declare(WEB, WEB_RR, &[(0, [10, 30, 0, 2])]);
        cluster.declare(CART, [10, 30, 0, 3], &[(0, [10, 30, 0, 4])]);
        let ips = [(0, [10, 30, 1, 10]), (1, [10, 30, 1, 11]), (2, [10, 30, 1, 12])];
        cluster.declare(FAR, [10, 30, 1, 1], &ips);
        cluster.set_address(FAR, IpType::Affinity, FAR_AFFINITY);
        cluster.place(FAR, 0, [10, 18, 7, 2], NEAR);
        // Nobody answers there: its probes are lost.
        cluster.place(FAR, 1, [10, 18, 8, 2], MUTE);

        let mut config = host.config();
        config.metrics_listen = Some(LISTEN.parse().unwrap());
        // A service with flows is not forgotten.
        config.timeouts.udp_opening = Duration::from_secs(2);
        let manager = host.start_with(config).await;
        let before = sums(&scrape().await);
        manager.register().await;
        let (client, server) = (Process::start().await, Process::start().await);
        manager.deploy(WEB, 0, &server).await;
        manager.deploy(CART, 0, &client).await;
        cluster.announce_peers(&[NEAR, MUTE]).await;

        let moved = BTreeSet::from(["xylem_net_map_capacity", "xylem_net_map_full_total"]);
        let moved = RefCell::new(moved);
        let mut rounds = 0;
        wait_for("change of every metric but one", || {
            rounds += 1;
            if rounds == 20 {
                cluster.place(FAR, 2, [10, 18, 9, 2], NEAR);
            }
            let (cluster, client, before, moved) = (&cluster, &client, &before, &moved);
            async move {
                cluster.announce_update(FAR).await;
                for (to, port) in [(WEB_RR, 80), (FAR_AFFINITY, 80), (ELSEWHERE, 53)] {
                    send(client, to, port).await;
                }
                let now = sums(&scrape().await);
                let mut moved = moved.borrow_mut();
                moved
                    .extend(now.iter().filter(|(n, v)| before.get(*n) != Some(v)).map(|(n, _)| *n));
                let still: Vec<_> = METRICS.iter().filter(|(n, _)| !moved.contains(n)).collect();
                if still.iter().all(|(name, _)| *name == "xylem_net_open_questions") {
                    Ok(())
                } else {
                    Err(format!("{still:?} do not move"))
                }
            }
        })
        .await;
        cluster.set_mute(true);
        wait_for("open question", || async {
            send(&client, UNKNOWN, 80).await;
            let open = sums(&scrape().await)["xylem_net_open_questions"];
            if open > 0.0 { Ok(()) } else { Err(format!("{open}")) }
        })
        .await;

        wait_for("end of the mute peer", || async {
            let text = scrape().await;
            let down = text.contains("xylem_net_peer_up{peer=\"192.0.2.77:50103\"} 0");
            if down { Ok(()) } else { Err(text) }
        })
        .await;
        let text = scrape().await;
        for series in [
            "xylem_net_map_capacity{map=\"flows\"} 4096",
            "xylem_net_drops_total{reason=\"outside-overlay\"}",
            "xylem_net_program_runs_total{program=\"from_instance\"}",
            "xylem_net_service_packets_total{service=\"shop.prod.far.prod\",policy=\"affinity\"",
            "xylem_net_instance_packets_total{service=\"shop.prod.web.prod\",instance=\"0\"",
            MOVED,
        ] {
            assert!(text.contains(series), "no {series} in {text}");
        }
        // Nobody dials it any more, and so it is forgotten, and all that was told of it.
        wait_for("end of the interest", || async {
            let text = scrape().await;
            if text.contains(FAR) { Err(text) } else { Ok(()) }
        })
        .await;
        manager.stop().await;
    });
}

#[test]
fn ten_thousand_services_are_read_in_a_moment() {
    on_a_new_host(|host: Host| async move {
        host.start().await.stop().await;
        let mut maps = host.maps();
        for n in 1..=10_000_u32 {
            let name = Name::try_from(format!("app{n}.prod.web.prod").as_str()).unwrap();
            maps.set_name(n, &name).unwrap();
            let service = Service { policy: 1, slot: n, instance: 0, _pad: 0 };
            maps.set_service(Ipv4Addr::from(0x0a1e_0000 + n).into(), &service).unwrap();
        }
        let started = Instant::now();
        let reading = read(&host.bpffs(), &[], Observed::default()).unwrap();
        let took = started.elapsed();
        let services = reading.maps.iter().find(|size| size.map == "services").unwrap();
        assert_eq!(services.entries, 10_000);
        eprintln!("read in {took:?}");
        assert!(took < Duration::from_secs(3), "{took:?}");
    });
}

#[test]
fn a_full_map_is_told() {
    on_a_new_host(|host: Host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, WEB_RR, &[(0, [10, 30, 0, 2])]);
        let mut config = host.config();
        config.metrics_listen = Some(LISTEN.parse().unwrap());
        config.map_sizes.services = 6;
        for n in 0..10 {
            cluster.declare(&format!("far{n}.prod.web.prod"), [10, 30, 1, n], &[]);
        }
        let manager = host.start_with(config).await;
        manager.register().await;
        let process = Process::start().await;
        manager.deploy(WEB, 0, &process).await;
        for n in 0..10 {
            send(&process, [10, 30, 1, n], 80).await;
        }
        wait_for("full map", || async {
            let full = sums(&scrape().await)["xylem_net_map_full_total"];
            if full > 0.0 { Ok(()) } else { Err(format!("{full}")) }
        })
        .await;
        manager.stop().await;
    });
}

#[test]
fn an_address_that_is_taken_is_told() {
    on_a_new_host(|host: Host| async move {
        let mut config = host.config();
        let _taken = std::net::TcpListener::bind(LISTEN).unwrap();
        config.metrics_listen = Some(LISTEN.parse().unwrap());
        let stop = tokio_util::sync::CancellationToken::new();
        let refusal = net_manager::daemon::start::run(config, stop).await.unwrap_err().to_string();
        assert!(refusal.contains(LISTEN) && refusal.contains("--metrics-listen"), "{refusal}");
    });
}

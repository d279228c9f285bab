use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use net_common::{Counter, DropReason, Policy, ProgramCounter, Traffic};
use net_maps::Name;

use super::{
    read::{MapSize, Observed, PeerState, Runs, Used},
    *,
};
use crate::core::translation::Moved;

fn name() -> Name {
    Name::try_from("shop.prod.web.prod").unwrap()
}

/// Something of everything; every number is another.
fn reading() -> Reading {
    let counter = |n| Counter { packets: n, bytes: n * 100 };
    let used = |n| Used {
        traffic: Traffic {
            egress: counter(n),
            ingress: counter(n + 1),
            new_flows: n + 2,
            last_used_ns: 1,
        },
        active_flows: n + 3,
    };
    Reading {
        services: BTreeMap::from([((name(), Policy::Affinity.into()), used(10))]),
        instances: BTreeMap::from([((name(), 7), used(20))]),
        drops: vec![(DropReason::Truncated, counter(30))],
        actions: vec![(ProgramCounter::Delivered, counter(31))],
        maps: vec![MapSize { map: "services", entries: 5, capacity: 20 }],
        peers: vec![PeerState {
            address: "192.0.2.7:50103".to_owned(),
            is_up: true,
            rtt: Some(Duration::from_micros(250)),
            loss: Some(0.25),
        }],
        runs: vec![Runs {
            program: "from_instance".to_owned(),
            time: Duration::from_millis(1500),
            count: 40,
        }],
        observed: Observed {
            connected: true,
            open_questions: 2,
            knowledge_ages: vec![(name(), Duration::from_millis(2500))],
            sweep_took: Duration::from_millis(750),
            moved: vec![(
                name(),
                Policy::Affinity,
                Moved { changes: 3, last_ratio: 0.125, sum_ratio: 0.5 },
            )],
            map_full: BTreeMap::from([("peers".to_owned(), 4)]),
            ..Observed::default()
        },
    }
}

fn text() -> String {
    let latencies = Latencies::default();
    latencies.sent_on(Duration::from_millis(3));
    latencies.answered(Duration::from_millis(4));
    encode(&reading(), &latencies)
}

#[test]
fn what_is_listed_is_exported_and_nothing_else() {
    let text = text();
    let mut exported = BTreeMap::<&str, Vec<&str>>::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|end| {
            let name = name.strip_suffix(end)?;
            text.contains(&format!("# TYPE {name} histogram")).then_some(name)
        });
        // No value here has a comma or an equals sign in it.
        let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
        let known = exported.entry(histogram.unwrap_or(name)).or_default();
        known.extend(labels);
        let mut seen = BTreeSet::new();
        known.retain(|label| seen.insert(*label));
    }
    let listed = METRICS.map(|(name, labels)| (name, labels.to_vec()));
    assert_eq!(exported, BTreeMap::from(listed));
    assert!(METRICS.is_sorted());
}

#[test]
fn every_number_is_where_it_belongs() {
    let text = text();
    for line in [
        r#"service_packets_total{service="shop.prod.web.prod",policy="affinity",direction="egress"} 10"#,
        r#"service_bytes_total{service="shop.prod.web.prod",policy="affinity",direction="ingress"} 1100"#,
        r#"service_new_flows_total{service="shop.prod.web.prod",policy="affinity"} 12"#,
        r#"service_active_flows{service="shop.prod.web.prod",policy="affinity"} 13"#,
        r#"instance_packets_total{service="shop.prod.web.prod",instance="7",direction="ingress"} 21"#,
        r#"instance_bytes_total{service="shop.prod.web.prod",instance="7",direction="egress"} 2000"#,
        r#"instance_new_flows_total{service="shop.prod.web.prod",instance="7"} 22"#,
        r#"instance_active_flows{service="shop.prod.web.prod",instance="7"} 23"#,
        r#"drops_total{reason="truncated"} 30"#,
        r#"drop_bytes_total{reason="truncated"} 3000"#,
        r#"program_packets_total{action="delivered"} 31"#,
        r#"program_bytes_total{action="delivered"} 3100"#,
        r#"program_run_seconds_total{program="from_instance"} 1.5"#,
        r#"program_runs_total{program="from_instance"} 40"#,
        r#"map_entries{map="services"} 5"#,
        r#"map_capacity{map="services"} 20"#,
        r#"map_pressure_ratio{map="services"} 0.25"#,
        r#"map_full_total{map="services"} 0"#,
        r#"map_full_total{map="peers"} 4"#,
        r#"flow_sweep_seconds 0.75"#,
        r#"peer_up{peer="192.0.2.7:50103"} 1"#,
        r#"peer_rtt_seconds{peer="192.0.2.7:50103"} 0.00025"#,
        r#"peer_loss_ratio{peer="192.0.2.7:50103"} 0.25"#,
        r#"knowledge_age_seconds{service="shop.prod.web.prod"} 2.5"#,
        "connected 1",
        "services 1",
        "open_questions 2",
        r#"table_changes_total{service="shop.prod.web.prod",policy="affinity"} 3"#,
        r#"table_share_moved_ratio{service="shop.prod.web.prod",policy="affinity"} 0.125"#,
        r#"table_share_moved_total{service="shop.prod.web.prod",policy="affinity"} 0.5"#,
        r#"miss_resolution_seconds_bucket{le="0.005"} 1"#,
        r#"miss_resolution_seconds_bucket{le="0.002"} 0"#,
        "miss_resolution_seconds_sum 0.003",
        "query_seconds_count 1",
    ] {
        let line = format!("xylem_net_{line}");
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
}

#[test]
fn help_says_from_which_header_on_bytes_are_counted() {
    let text = text();
    for (name, header) in [
        ("service_bytes", "from the IP header on"),
        ("instance_bytes", "from the IP header on"),
        ("drop_bytes", "from the Ethernet header on"),
        ("program_bytes", "from the Ethernet header on of what is passed"),
    ] {
        let start = format!("# HELP xylem_net_{name} ");
        let help = text.lines().find_map(|line| line.strip_prefix(start.as_str())).unwrap();
        assert!(help.contains(header), "{name}: {help}");
    }
}

#[test]
fn ten_thousand_services_are_shown_in_a_moment() {
    let mut reading = reading();
    let (_, used) = reading.services.pop_first().unwrap();
    for n in 0..10_000 {
        let name = Name::try_from(format!("app{n}.prod.web.prod").as_str()).unwrap();
        reading.services.insert((name, Policy::RoundRobin.into()), used);
        reading.instances.insert((name, 0), used);
        reading.observed.knowledge_ages.push((name, Duration::from_secs(1)));
    }
    let started = std::time::Instant::now();
    let text = encode(&reading, &Latencies::default());
    assert!(text.lines().count() > 130_000);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    eprintln!("{} bytes in {:?}", text.len(), started.elapsed());
}

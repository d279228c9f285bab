//! What is counted and measured, in the format that Prometheus reads.
//!
//! * [`latency`]: durations that are known only here, as histograms.
//! * [`read`]: what the kernel has counted.
//! * [`http`]: serves both.
//!
//! Labels are names of services, policies, instances, peers, maps, programs and reasons: as many
//! series as those maps have entries, and never one a flow. A service or an instance that nobody
//! has used yet has none.

pub mod http;
pub mod latency;
pub mod read;

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode as encode_text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use latency::Latencies;
use read::Reading;

/// Every metric, as its samples are called, with its labels; of a histogram without `_bucket`,
/// `_sum` and `_count`.
pub const METRICS: [(&str, &[&str]); 31] = [
    ("xylem_net_connected", &[]),
    ("xylem_net_drop_bytes_total", &["reason"]),
    ("xylem_net_drops_total", &["reason"]),
    ("xylem_net_flow_sweep_seconds", &[]),
    ("xylem_net_instance_active_flows", &["service", "instance"]),
    ("xylem_net_instance_bytes_total", &["service", "instance", "direction"]),
    ("xylem_net_instance_new_flows_total", &["service", "instance"]),
    ("xylem_net_instance_packets_total", &["service", "instance", "direction"]),
    ("xylem_net_knowledge_age_seconds", &["service"]),
    ("xylem_net_map_capacity", &["map"]),
    ("xylem_net_map_entries", &["map"]),
    ("xylem_net_map_full_total", &["map"]),
    ("xylem_net_map_pressure_ratio", &["map"]),
    ("xylem_net_miss_resolution_seconds", &["le"]),
    ("xylem_net_open_questions", &[]),
    ("xylem_net_peer_loss_ratio", &["peer"]),
    ("xylem_net_peer_rtt_seconds", &["peer"]),
    ("xylem_net_peer_up", &["peer"]),
    ("xylem_net_program_bytes_total", &["action"]),
    ("xylem_net_program_packets_total", &["action"]),
    ("xylem_net_program_run_seconds_total", &["program"]),
    ("xylem_net_program_runs_total", &["program"]),
    ("xylem_net_query_seconds", &["le"]),
    ("xylem_net_service_active_flows", &["service", "policy"]),
    ("xylem_net_service_bytes_total", &["service", "policy", "direction"]),
    ("xylem_net_service_new_flows_total", &["service", "policy"]),
    ("xylem_net_service_packets_total", &["service", "policy", "direction"]),
    ("xylem_net_services", &[]),
    ("xylem_net_table_changes_total", &["service", "policy"]),
    ("xylem_net_table_share_moved_ratio", &["service", "policy"]),
    ("xylem_net_table_share_moved_total", &["service", "policy"]),
];

type Counts<L> = Family<L, Counter<u64, AtomicU64>>;
type Sums<L> = Family<L, Counter<f64, AtomicU64>>;
type Levels<L> = Family<L, Gauge<u64, AtomicU64>>;
type Ratios<L> = Family<L, Gauge<f64, AtomicU64>>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfService {
    service: String,
    policy: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfServiceWay {
    service: String,
    policy: &'static str,
    direction: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfInstance {
    service: String,
    instance: u32,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfInstanceWay {
    service: String,
    instance: u32,
    direction: &'static str,
}

macro_rules! labels {
    ($($name:ident { $label:ident: $kind:ty })+) => {$(
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        struct $name {
            $label: $kind,
        }
    )+};
}
labels! {
    Reason { reason: &'static str }
    Action { action: &'static str }
    OfMap { map: String }
    Peer { peer: String }
    OfProgram { program: String }
    Known { service: String }
}

/// What the bytes of services and instances are of.
const OF_PACKETS: &str = "Bytes of these packets, from the IP header on; of what joined sockets send \
                          each other, without headers";

/// Made anew for each scrape, so that what is gone is gone here too.
pub fn encode(reading: &Reading, latencies: &Latencies) -> String {
    let mut registry = Registry::with_prefix("xylem_net");
    traffic(&mut registry, reading);
    programs(&mut registry, reading);
    maps(&mut registry, reading);
    peers(&mut registry, reading);
    knowledge(&mut registry, reading);
    tables(&mut registry, reading);
    latencies.register(&mut registry);
    let mut text = String::new();
    encode_text(&mut text, &registry).expect("writing to a string does not fail");
    text
}

fn traffic(registry: &mut Registry, reading: &Reading) {
    let (packets, bytes) = (Counts::default(), Counts::default());
    let (new_flows, active) = (Counts::default(), Levels::default());
    for ((service, policy), used) in &reading.services {
        let (service, policy) = (service.to_string(), policy.name());
        let ways = [("egress", &used.traffic.egress), ("ingress", &used.traffic.ingress)];
        for (direction, counter) in ways {
            let labels = OfServiceWay { service: service.clone(), policy, direction };
            packets.get_or_create(&labels).inc_by(counter.packets);
            bytes.get_or_create(&labels).inc_by(counter.bytes);
        }
        let labels = OfService { service, policy };
        new_flows.get_or_create(&labels).inc_by(used.traffic.new_flows);
        active.get_or_create(&labels).set(used.active_flows);
    }
    registry.register("service_packets", "Packets to and from services, by local clients", packets);
    registry.register("service_bytes", OF_PACKETS, bytes);
    registry.register("service_new_flows", "Flows that local clients opened", new_flows);
    registry.register("service_active_flows", "Those in progress at the last count", active);

    let (packets, bytes) = (Counts::default(), Counts::default());
    let (new_flows, active) = (Counts::default(), Levels::default());
    for ((service, instance), used) in &reading.instances {
        let (service, instance) = (service.to_string(), *instance);
        let ways = [("egress", &used.traffic.egress), ("ingress", &used.traffic.ingress)];
        for (direction, counter) in ways {
            let labels = OfInstanceWay { service: service.clone(), instance, direction };
            packets.get_or_create(&labels).inc_by(counter.packets);
            bytes.get_or_create(&labels).inc_by(counter.bytes);
        }
        let labels = OfInstance { service, instance };
        new_flows.get_or_create(&labels).inc_by(used.traffic.new_flows);
        active.get_or_create(&labels).set(used.active_flows);
    }
    registry.register("instance_packets", "Packets of instances, from and to here", packets);
    registry.register("instance_bytes", OF_PACKETS, bytes);
    registry.register("instance_new_flows", "Flows given to instances", new_flows);
    registry.register("instance_active_flows", "Those in progress at the last count", active);
}

fn programs(registry: &mut Registry, reading: &Reading) {
    let (packets, bytes) = (Counts::default(), Counts::default());
    for (reason, counter) in &reading.drops {
        let labels = Reason { reason: reason.name() };
        packets.get_or_create(&labels).inc_by(counter.packets);
        bytes.get_or_create(&labels).inc_by(counter.bytes);
    }
    registry.register("drops", "Packets dropped", packets);
    let help = "Bytes of dropped packets, from the Ethernet header on";
    registry.register("drop_bytes", help, bytes);
    let (packets, bytes) = (Counts::default(), Counts::default());
    for (action, counter) in &reading.actions {
        let labels = Action { action: action.name() };
        packets.get_or_create(&labels).inc_by(counter.packets);
        bytes.get_or_create(&labels).inc_by(counter.bytes);
    }
    registry.register("program_packets", "What the programs did with packets", packets);
    let help = "Bytes of those packets from the IP header on; from the Ethernet header on of what is \
                passed, refused, probe-reflected or probe-answered, and without headers of what \
                goes socket-to-socket";
    registry.register("program_bytes", help, bytes);
    let (time, runs) = (Sums::default(), Counts::default());
    for run in &reading.runs {
        let labels = OfProgram { program: run.program.clone() };
        time.get_or_create(&labels).inc_by(run.time.as_secs_f64());
        runs.get_or_create(&labels).inc_by(run.count);
    }
    let help = "Time in programs, while the sysctl kernel.bpf_stats_enabled is on";
    registry.register_with_unit("program_run", help, Unit::Seconds, time);
    registry.register("program_runs", "Runs of programs, while it is on", runs);
}

fn maps(registry: &mut Registry, reading: &Reading) {
    let (entries, capacity) = (Levels::default(), Levels::default());
    let (pressure, full) = (Ratios::default(), Counts::default());
    for size in &reading.maps {
        let labels = OfMap { map: size.map.to_owned() };
        entries.get_or_create(&labels).set(size.entries);
        capacity.get_or_create(&labels).set(size.capacity);
        pressure.get_or_create(&labels).set(size.entries as f64 / size.capacity.max(1) as f64);
        full.get_or_create(&labels).inc_by(0);
    }
    for (map, count) in &reading.observed.map_full {
        full.get_or_create(&OfMap { map: map.clone() }).inc_by(*count);
    }
    registry.register("map_entries", "Entries of a map; of flows at the last count", entries);
    registry.register("map_capacity", "Entries that a map has room for", capacity);
    registry.register_with_unit("map_pressure", "How full a map is", ratio(), pressure);
    registry.register("map_full", "Writes that found a map full", full);
    let took = Gauge::<f64, AtomicU64>::default();
    took.set(reading.observed.sweep_took.as_secs_f64());
    let help = "How long the last look at all flows took, with its rests";
    registry.register_with_unit("flow_sweep", help, Unit::Seconds, took);
}

fn peers(registry: &mut Registry, reading: &Reading) {
    let (rtt, up, loss) = (Ratios::default(), Levels::default(), Ratios::default());
    for peer in &reading.peers {
        let labels = Peer { peer: peer.address.clone() };
        up.get_or_create(&labels).set(peer.is_up.into());
        if let Some(measured) = peer.rtt {
            rtt.get_or_create(&labels).set(measured.as_secs_f64());
        }
        if let Some(measured) = peer.loss {
            loss.get_or_create(&labels).set(measured);
        }
    }
    registry.register_with_unit("peer_rtt", "Smoothed round trip to a node", Unit::Seconds, rtt);
    registry.register("peer_up", "1 while a node answers probes", up);
    registry.register_with_unit("peer_loss", "Of the last probes, those lost", ratio(), loss);
}

fn knowledge(registry: &mut Registry, reading: &Reading) {
    let observed = &reading.observed;
    let age = Ratios::default();
    for (service, since) in &observed.knowledge_ages {
        age.get_or_create(&Known { service: service.to_string() }).set(since.as_secs_f64());
    }
    let help = "Time since the cluster last told of a service";
    registry.register_with_unit("knowledge_age", help, Unit::Seconds, age);
    for (name, help, value) in [
        ("connected", "1 while there is a session with the cluster", observed.connected.into()),
        ("services", "Services known", observed.knowledge_ages.len() as u64),
        ("open_questions", "Addresses whose packets wait for an answer", observed.open_questions),
    ] {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
}

fn tables(registry: &mut Registry, reading: &Reading) {
    let (changes, last, sum) = (Counts::default(), Ratios::default(), Sums::default());
    for (service, policy, moved) in &reading.observed.moved {
        let labels = OfService { service: service.to_string(), policy: policy.name() };
        changes.get_or_create(&labels).inc_by(moved.changes);
        last.get_or_create(&labels).set(moved.last_ratio);
        sum.get_or_create(&labels).inc_by(moved.sum_ratio);
    }
    registry.register("table_changes", "Times that an affinity table was replaced", changes);
    let help = "Share of clients that the last change of the table sent elsewhere";
    registry.register_with_unit("table_share_moved", help, ratio(), last);
    let help = "Sum of these shares; divided by the changes, their mean";
    registry.register("table_share_moved", help, sum);
}

fn ratio() -> Unit {
    Unit::Other("ratio".to_owned())
}

#[cfg(test)]
mod tests;

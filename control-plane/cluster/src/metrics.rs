//! The summary in the format that Prometheus reads.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode as encode_text},
    metrics::{counter::ConstCounter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::summary::Summary;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByStatus {
    status: String,
}

/// Made anew for each scrape, so no number can differ from the summary's.
pub(crate) fn encode(summary: &Summary) -> String {
    let mut registry = Registry::with_prefix("xylem_cluster");
    let gauge = |value: u64| {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        gauge
    };
    let gauges = [
        ("workers", "Workers that have registered", summary.workers),
        ("workers_active", "Workers that are heard", summary.workers_active),
        ("services", "Services run here or asked for by a worker", summary.services),
        (
            "root_connected",
            "1 while a session with the root stands",
            summary.connected_to_root.into(),
        ),
        (
            "broker_connected",
            "1 while the cluster is connected to its broker",
            summary.connected_to_broker.into(),
        ),
    ];
    for (name, help, value) in gauges {
        registry.register(name, help, gauge(value));
    }
    let by_status = Family::<ByStatus, Gauge<u64, AtomicU64>>::default();
    for (status, count) in &summary.instances {
        by_status.get_or_create(&ByStatus { status: status.clone() }).set(*count);
    }
    registry.register("instances", "Instances by status", by_status);
    let (tally, traffic) = (&summary.tally, &summary.traffic);
    let counters = [
        ("placements", "Instances given to a worker", tally.placements),
        ("workers_lost", "Workers that fell silent", tally.workers_lost),
        ("instance_restarts", "Instances started again after they had ended", tally.restarts),
        (
            "reports_refused",
            "Reports of instances that were not placed on the worker, or older",
            tally.refused_reports,
        ),
        (
            "queries_unanswered",
            "Table queries that the root did not answer in time",
            tally.unanswered_queries,
        ),
        ("mqtt_received", "Messages of workers", traffic.mqtt_received),
        ("mqtt_not_understood", "Messages that could not be read", traffic.mqtt_not_understood),
        ("mqtt_sent", "Messages to workers", traffic.mqtt_sent),
        (
            "mqtt_dropped",
            "Messages not sent because the broker was away or behind",
            traffic.mqtt_dropped,
        ),
        ("root_sessions", "Sessions with the root", traffic.root_sessions),
    ];
    for (name, help, value) in counters {
        registry.register(name, help, ConstCounter::new(value));
    }
    let mut text = String::new();
    encode_text(&mut text, &registry).expect("writing to a string does not fail");
    text
}

//! What the root tells Prometheus.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::core::census::Census;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: String,
}

/// Filled from a [`Census`] at every scrape.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    clusters: Family<State, Gauge>,
    applications: Gauge,
    services: Gauge,
    instances: Family<State, Gauge>,
    interests: Gauge,
    service_ips: Gauge,
    subnets: Gauge,
    placements: Counter,
    placements_refused: Counter,
    reports_stale: Counter,
    sessions: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("xylem_root");
        let clusters = Family::<State, Gauge>::default();
        registry.register(
            "clusters",
            "Clusters that are known, connected, active",
            clusters.clone(),
        );
        let instances = Family::<State, Gauge>::default();
        registry.register("instances", "Instances by status", instances.clone());
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let applications = gauge("applications", "Applications");
        let services = gauge("services", "Services");
        let interests = gauge("interests", "Interests of clusters in services");
        let service_ips = gauge("service_ips", "Service and instance IPs in use");
        let subnets = gauge("subnets", "Worker subnets in use");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let placements = counter("placements", "Instances given to a cluster");
        let placements_refused =
            counter("placements_refused", "Instances that a cluster had no place for");
        let reports_stale =
            counter("reports_stale", "Reports of an older generation or of a former cluster");
        let sessions = counter("sessions", "Sessions that clusters have begun");
        let inner = Inner {
            registry,
            clusters,
            applications,
            services,
            instances,
            interests,
            service_ips,
            subnets,
            placements,
            placements_refused,
            reports_stale,
            sessions,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    pub(crate) fn render(&self, census: &Census) -> Result<String, std::fmt::Error> {
        // Only numbers are behind the lock, which are all set anew.
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.set(census);
        let mut text = String::new();
        encode(&mut text, &inner.registry)?;
        Ok(text)
    }
}

impl Inner {
    fn set(&self, census: &Census) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let state = |state: &str| State { state: state.to_owned() };
        for (name, count) in [
            ("known", census.clusters_known),
            ("connected", census.clusters_connected),
            ("active", census.clusters_active),
        ] {
            self.clusters.get_or_create(&state(name)).set(number(count));
        }
        self.instances.clear();
        for (status, count) in &census.instances {
            self.instances.get_or_create(&state(status)).set(number(*count));
        }
        self.applications.set(number(census.applications));
        self.services.set(number(census.services));
        self.interests.set(number(census.interests));
        self.service_ips.set(number(census.service_ips_held));
        self.subnets.set(number(census.subnets_held));
        let count = |counter: &Counter, value: u64| {
            counter.inner().store(value, std::sync::atomic::Ordering::Relaxed);
        };
        count(&self.placements, census.tally.placements);
        count(&self.placements_refused, census.tally.placements_refused);
        count(&self.reports_stale, census.tally.reports_stale);
        count(&self.sessions, census.tally.sessions_opened);
    }
}

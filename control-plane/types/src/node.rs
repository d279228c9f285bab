//! A worker as it describes itself: at registration (`POST /api/node/register` of the cluster)
//! and, with the dynamic fields only, every few seconds over MQTT.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Registration body and `information` payload. Fields left at their zero value mean "not said",
/// as Oakestra's node engine sends them; a receiver keeps what it knew.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// The worker's own lasting identity, ours: a UUID it made at its first start. Oakestra's
    /// workers leave it empty and are known by `host`.
    pub id: String,
    /// Host name.
    pub host: String,
    pub ip: String,
    #[serde(deserialize_with = "text_or_number")]
    pub port: String,
    pub system_info: BTreeMap<String, String>,
    /// CPU in use, percent of all CPUs.
    pub cpu_percent: f64,
    /// CPUs of the machine.
    pub vcpus: u32,
    /// `amd64`, `arm64`, …
    pub architecture: String,
    /// Memory in use, percent.
    pub memory_percent: f64,
    /// Memory available now, MB.
    pub memory: f64,
    pub gpu_driver: String,
    pub gpu_usage: f64,
    pub vgpus: u32,
    pub gpu_temp: f64,
    pub vram: f64,
    pub vram_percent: f64,
    /// `docker`, `unikernel`, …
    pub virtualization: Vec<String>,
    pub supported_addons: Vec<String>,
    pub csi_drivers: Vec<CsiDriver>,
    /// Tunnel port of the worker's net manager.
    #[serde(rename = "NetManagerPort", deserialize_with = "number_or_text")]
    pub net_manager_port: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CsiDriver {
    pub csi_driver_name: String,
    pub csi_driver_endpoint: String,
}

/// Whether a worker takes instances, as an operator has asked.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    #[default]
    Active,
    /// It gets no new instances and keeps those that it has.
    Cordoned,
    /// It gets no new instances, and others take the place of those that it has.
    Draining,
}

impl Availability {
    pub fn is_active(&self) -> bool {
        *self == Self::Active
    }
}

/// Reply to the registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    pub id: String,
    /// As text, as Oakestra's cluster sends it; a number is understood too.
    #[serde(rename = "MQTT_BROKER_PORT", deserialize_with = "text_or_number")]
    pub mqtt_broker_port: String,
}

/// Reply to `GET /api/cluster/status` of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub cluster_name: String,
    /// Empty until the root has given one.
    pub cluster_id: String,
    pub connected_to_root: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

fn text_or_number<'de, D: serde::Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    Ok(match TextOrNumber::deserialize(d)? {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(number) => number.to_string(),
    })
}

fn number_or_text<'de, D: serde::Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
    use serde::de::Error;
    match TextOrNumber::deserialize(d)? {
        TextOrNumber::Text(text) if text.is_empty() => Ok(0),
        TextOrNumber::Text(text) => text.parse().map_err(D::Error::custom),
        TextOrNumber::Number(number) => u16::try_from(number).map_err(D::Error::custom),
    }
}

//! The Net API: JSON over HTTP on the net manager's Unix socket, called by the node engine.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// `POST /register`: which worker this is and where its cluster's broker listens.
///
/// Repeating it with the same content changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// The worker id that the cluster gave at registration.
    pub client_id: String,
    /// Host name or address of the cluster.
    pub cluster_address: String,
    /// Port of the cluster's MQTT broker; without it the net manager's own configuration counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt_port: Option<u16>,
}

/// `POST /container/deploy`: attach the network namespace of `pid` to the data path.
///
/// The process is created but not started: when the reply arrives, the instance's addresses
/// and routes are there, and its first packet will find its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployRequest {
    /// A process inside the instance's network namespace.
    pub pid: i32,
    /// `app.appns.service.servicens`
    pub service_name: String,
    pub instance_number: u32,
    /// `host:container[/proto];…`, as in the SLA.
    #[serde(default)]
    pub port_mappings: String,
}

/// Reply to [`DeployRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeployResponse {
    pub service_name: String,
    pub ns_address: Ipv4Addr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns_addressv6: Option<Ipv6Addr>,
}

/// `POST /container/undeploy`. `pid` and `port_mappings` are read from Oakestra's node engine
/// and not needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UndeployRequest {
    #[serde(default)]
    pub pid: i32,
    pub service_name: String,
    pub instance_number: u32,
    #[serde(default)]
    pub port_mappings: String,
}

/// Body of every refusal: HTTP status 4xx or 5xx, with the reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub message: String,
}

/// `GET /status`, ours: how the net manager is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Once registered.
    pub worker_id: Option<String>,
    /// Whether there is a session with the cluster now.
    pub connected: bool,
    /// The worker's share of the namespace IPs, `10.18.x.y/26`, once granted.
    pub subnet: Option<String>,
    /// Instances attached.
    pub instances: usize,
    /// Services known.
    pub services: usize,
    /// Destinations whose packets wait for the cluster's answer.
    pub open_questions: usize,
    /// Writes that found a map full since the start, by map.
    pub map_full: BTreeMap<String, u64>,
}

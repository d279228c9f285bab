//! A service as the root's REST API shows it (`GET /api/service/{id}`), in the shape of
//! Oakestra's job document.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::{
    instance::{Generation, InstanceStatus},
    mqtt::ServiceAddress,
    sla::Microservice,
};

/// A service with its instances. The fields of its SLA stand beside those that the root adds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The same as `microserviceID`, which is among the fields of the SLA.
    #[serde(rename = "_id")]
    pub id: String,
    #[serde(rename = "applicationID")]
    pub application_id: String,
    /// `app_name.app_ns.service_name.service_ns`
    pub job_name: String,
    pub app_name: String,
    pub app_ns: String,
    pub service_name: String,
    pub service_ns: String,
    pub image: String,
    /// RUNNING when all instances are, else the status of the first that is not; empty while
    /// there is no instance.
    #[serde(default = "no_status")]
    pub status: InstanceStatus,
    #[serde(default)]
    pub status_detail: String,
    /// Round-robin service IP.
    #[serde(rename = "RR_ip")]
    pub rr_ip: Ipv4Addr,
    #[serde(rename = "RR_ip_v6")]
    pub rr_ip_v6: Option<Ipv6Addr>,
    /// One service IP a policy, the round-robin one among them. Empty only where an older root
    /// says it.
    #[serde(default)]
    pub service_ip_list: Vec<ServiceAddress>,
    /// Number of the next instance: a number is never used twice.
    pub next_instance_progressive_number: u32,
    #[serde(default)]
    pub instance_list: Vec<JobInstance>,
    #[serde(flatten)]
    pub sla: Microservice,
}

/// The status of a service that has no instance.
pub fn no_status() -> InstanceStatus {
    InstanceStatus::Other(String::new())
}

/// One instance in a [`Job`]. Numbers that Oakestra's clients read as text are text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobInstance {
    pub instance_number: u32,
    pub status: InstanceStatus,
    #[serde(default)]
    pub status_detail: String,
    /// Empty until a cluster is chosen.
    #[serde(default)]
    pub cluster_id: String,
    #[serde(default)]
    pub cluster_location: String,
    #[serde(default)]
    pub publicip: String,
    /// Empty until a worker is chosen.
    #[serde(default)]
    pub worker_id: String,
    #[serde(default)]
    pub host_ip: String,
    #[serde(default)]
    pub host_port: u16,
    /// Percent of one CPU.
    #[serde(default)]
    pub cpu_percent: String,
    /// Percent of the worker's memory.
    #[serde(default)]
    pub memory_percent: String,
    /// Bytes.
    #[serde(default)]
    pub disk: String,
    /// The last 1024 bytes of output.
    #[serde(default)]
    pub logs: String,
    /// The last 100 measurements, oldest first.
    #[serde(default)]
    pub cpu_history: Vec<MetricPoint>,
    #[serde(default)]
    pub memory_history: Vec<MetricPoint>,
    /// Seconds since 1970.
    #[serde(default)]
    pub last_modified_timestamp: f64,
    /// Ours, like all that follow: the placement this is about.
    #[serde(default)]
    pub generation: Generation,
    #[serde(default)]
    pub cluster_name: String,
    /// Host name of the worker.
    #[serde(default)]
    pub worker_name: String,
    /// The address that leads to this very instance, the same for its whole life.
    #[serde(default)]
    pub instance_ip: Option<Ipv4Addr>,
    #[serde(default)]
    pub instance_ip_v6: Option<Ipv6Addr>,
    /// Set while the instance's network is attached.
    #[serde(default)]
    pub namespace_ip: Option<Ipv4Addr>,
    #[serde(default)]
    pub namespace_ip_v6: Option<Ipv6Addr>,
    /// Number of the instance whose place it is to take, while that one's worker is drained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u32>,
}

/// A measurement, as text on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricPoint {
    pub value: String,
    /// RFC 3339
    pub timestamp: String,
}

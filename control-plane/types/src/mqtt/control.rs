//! Instances: what a worker is told to run, and what it says of them.

use serde::{Deserialize, Serialize};

use crate::instance::{Generation, InstanceStatus};

/// `job`, up: one instance changed its status.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceReport {
    /// Job name, `app.appns.service.servicens`.
    pub sname: String,
    pub status: InstanceStatus,
    #[serde(default)]
    pub status_detail: String,
    pub instance: u32,
    #[serde(default)]
    pub publicip: String,
    #[serde(default)]
    pub generation: Generation,
}

/// `jobs/resources`, up: what every instance on the worker uses now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceResources {
    pub services: Vec<InstanceUsage>,
}

/// Numbers travel as strings, as Oakestra's node engine sends them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceUsage {
    pub job_name: String,
    pub instance: u32,
    pub virtualization: String,
    /// Percent of one CPU.
    pub cpu_percent: String,
    /// Percent of the worker's memory.
    pub memory_percent: String,
    /// Bytes.
    pub disk: String,
    /// The last 1024 bytes of the instance's output.
    pub logs: String,
    #[serde(default)]
    pub generation: Generation,
}

/// `control/deploy`, down: run this instance. Everything the worker needs and nothing that only
/// the control plane needs; Oakestra's cluster sends a whole job document, in which absent values
/// may be null and whose other fields are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeployCommand {
    pub job_name: String,
    pub instance_number: u32,
    #[serde(default)]
    pub generation: Generation,
    /// `docker` (containers), `unikernel`, …
    pub virtualization: String,
    /// Image reference: `registry[:port]/name[:tag|@digest]`, `oci:/path[:tag]` for a local OCI
    /// layout, `oci-archive:/path[:tag]` for a tar of one.
    pub image: String,
    /// MB; 0 = no limit.
    #[serde(default, deserialize_with = "null_is_default")]
    pub memory: u64,
    /// CPUs; 0 = no limit.
    #[serde(default, deserialize_with = "null_is_default")]
    pub vcpus: f64,
    /// Replaces the image's entrypoint and command when not empty.
    #[serde(default, deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// `K=V`
    #[serde(default, deserialize_with = "null_is_default")]
    pub environment: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub one_shot: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    pub privileged: bool,
    /// `host:container[/proto];…`
    #[serde(default, deserialize_with = "null_is_default")]
    pub port: String,
}

/// `control/delete`, down: stop this instance and forget it. Without a generation any one of
/// that number is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteCommand {
    pub job_name: String,
    #[serde(default)]
    pub virtualization: String,
    pub instance_number: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
}

/// `control/error`, down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    pub message: String,
}

/// Reads null as what an absent field is.
fn null_is_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

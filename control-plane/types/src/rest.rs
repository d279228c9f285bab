//! Bodies of the root's REST API, beside the SLA ([`crate::sla`]) and the service document
//! ([`crate::job`]).
//!
//! Paths, fields and success codes are Oakestra's, so its command line works unchanged. Replies
//! are plain JSON: upstream wraps many of them in a JSON string, which its clients unwrap only
//! where they must. Ids are plain strings. A path with a trailing slash is the same as without.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::{node::Availability, session::WorkerRoom, sla::FieldError};

/// `POST /api/auth/login`
#[derive(Clone, Serialize, Deserialize)]
pub struct LoginRequest {
    pub username: String,
    pub password: String,
    /// The root organization when absent or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization_name: Option<String>,
}

impl std::fmt::Debug for LoginRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginRequest").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Reply to [`LoginRequest`]: bearer tokens, the first for every request, the second for
/// `POST /api/auth/refresh` only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginResponse {
    pub token: String,
    pub refresh_token: String,
}

/// Reply to `POST /api/auth/refresh`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshResponse {
    pub token: String,
}

/// `POST /api/auth/register`, by an Admin.
#[derive(Clone, Serialize, Deserialize)]
pub struct RegisterRequest {
    pub name: String,
    #[serde(default)]
    pub email: String,
    pub password: String,
    #[serde(default)]
    pub roles: Vec<String>,
}

impl std::fmt::Debug for RegisterRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegisterRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

/// `POST /api/user/{name}`, by that user.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PasswordChange {
    pub old_password: String,
    pub new_password: String,
}

impl std::fmt::Debug for PasswordChange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordChange").finish_non_exhaustive()
    }
}

/// Body of every answer that is not a success: what is wrong and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub message: String,
    /// With status 422: every field that is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// An application: `GET /api/application/{id}`; lists of them from `GET /api/applications/` and
/// `POST /api/application/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    #[serde(rename = "_id")]
    pub id: String,
    /// The same as `_id`.
    #[serde(rename = "applicationID")]
    pub application_id: String,
    pub application_name: String,
    pub application_namespace: String,
    #[serde(default)]
    pub application_desc: String,
    /// Ids of the services.
    #[serde(default)]
    pub microservices: Vec<String>,
    /// Id of the owner.
    #[serde(rename = "userId", default)]
    pub user_id: String,
}

/// `PUT /api/application/{id}`: what is absent stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicationUpdate {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application_desc: Option<String>,
}

/// Reply to `POST /api/service/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesCreated {
    /// Id of the last service created.
    pub job_id: String,
    pub deployed_services: Vec<ServiceCreated>,
    /// Always empty: one that cannot be created refuses them all.
    pub failed_services: Vec<ServiceCreated>,
}

/// One service in [`ServicesCreated`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCreated {
    pub service_name: String,
    /// HTTP status: 200.
    pub status: u16,
    /// Ours: its id.
    #[serde(rename = "microserviceID")]
    pub microservice_id: String,
}

/// Reply to `POST /api/service/{id}/instance`: accepted, and on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceCreated {
    /// `ok`
    pub message: String,
    /// Ours: the number of the new instance.
    pub instance_number: u32,
}

/// Reply where there is nothing else to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// `ok`
    pub message: String,
}

impl Done {
    pub fn ok() -> Self {
        Self { message: "ok".to_owned() }
    }
}

/// A cluster: `GET /api/clusters/`, and those that are active from `GET /api/clusters/active`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    #[serde(rename = "_id")]
    pub id: String,
    pub candidate_name: String,
    /// The same as `candidate_name`.
    pub cluster_name: String,
    pub candidate_location: String,
    /// The same as `candidate_location`.
    pub cluster_location: String,
    /// Where the cluster's session comes from; empty while there is none.
    pub ip: String,
    pub port: u16,
    /// Connected, and its report of resources is fresh.
    pub active: bool,
    pub active_nodes: u32,
    pub vcpus: u32,
    /// The same as `vcpus`.
    pub total_cpu_cores: u32,
    pub cpu_percent: f64,
    /// The same as `cpu_percent`.
    pub aggregated_cpu_percent: f64,
    /// MB available.
    pub memory: f64,
    /// The same as `memory`, in whole MB.
    pub memory_in_mb: u64,
    pub memory_percent: f64,
    pub vgpus: u32,
    /// The same as `vgpus`.
    pub total_gpu_cores: u32,
    pub virtualization: Vec<String>,
    pub supported_addons: Vec<String>,
    pub csi_drivers: Vec<String>,
    /// Of the last report of resources; seconds since 1970.
    pub last_modified_timestamp: f64,
    /// Ours: whether its session is up.
    pub connected: bool,
}

/// A worker of an active cluster, ours: `GET /api/nodes/`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub cluster_id: String,
    pub cluster_name: String,
    #[serde(flatten)]
    pub room: WorkerRoom,
    /// Where its tunnel is reached, once its net manager is there.
    #[serde(default)]
    pub host_ip: Option<IpAddr>,
    #[serde(default)]
    pub host_port: Option<u16>,
    /// Network address of its /26.
    #[serde(default)]
    pub subnet: Option<Ipv4Addr>,
    #[serde(default)]
    pub availability: Availability,
    /// While it is drained and afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainProgress>,
}

/// How far the draining of a worker is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainProgress {
    /// Instances there that nobody has taken the place of yet.
    pub left: u32,
    /// Those that get no new flows any more and end those that they have.
    pub draining: u32,
    /// What keeps it from going on, and what to do; empty while it does.
    #[serde(default)]
    pub blocked: Vec<String>,
}

impl DrainProgress {
    /// Nothing is left there.
    pub fn is_done(&self) -> bool {
        self.left == 0 && self.draining == 0
    }
}

/// `PUT /api/nodes/{id}/availability`, ours, by an Admin; the reply is the [`Node`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AvailabilityChange {
    pub availability: Availability,
    /// How long an instance that was replaced may go on with the flows that it has, milliseconds;
    /// absent = as its cluster is configured. For `draining` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_grace_ms: Option<u64>,
}

/// Reply to `GET /health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`
    pub status: String,
    pub version: String,
}

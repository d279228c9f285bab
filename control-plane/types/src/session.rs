//! The session between a cluster and its root: JSON text frames over a WebSocket that the
//! cluster dials (`GET /api/cluster/session` at the root's port), so that a cluster behind a NAT
//! needs nothing opened.
//!
//! State is compared, not replayed: after [`FromCluster::Hello`] the root answers with the whole
//! desired set, the cluster with its whole observed set, and only then changes follow. Whatever
//! was lost in between is found by the comparison, so neither side keeps a log for the other.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::{
    instance::{Generation, InstanceStatus},
    load::InstanceLoad,
    mqtt::{DeployCommand, Peer, TableAnswer, TableQuery, UpdateKind},
    port::NodePort,
};

/// Both sides refuse a session whose version differs.
pub const SESSION_VERSION: u32 = 1;

/// Path of the session at the root.
pub const SESSION_PATH: &str = "/api/cluster/session";

/// Which instance: stable for its life, wherever it runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InstanceKey {
    /// The service's id at the root (`microserviceID`, `job_id`).
    pub job_id: String,
    pub instance_number: u32,
}

/// One instance that a cluster shall run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    pub job_id: String,
    /// `job_name`, `instance_number` and `generation` are in the command.
    pub command: DeployCommand,
    /// Node names allowed by a `direct` constraint; empty = any.
    #[serde(default)]
    pub allowed_nodes: Vec<String>,
    /// GPUs needed; 0 = none.
    #[serde(default)]
    pub vgpus: u32,
}

/// One instance as the cluster sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub key: InstanceKey,
    pub generation: Generation,
    pub status: InstanceStatus,
    #[serde(default)]
    pub status_detail: String,
    #[serde(default)]
    pub worker_id: Option<String>,
    /// Host name of the worker.
    #[serde(default)]
    pub worker_name: String,
    #[serde(default)]
    pub host_ip: String,
    #[serde(default)]
    pub host_port: u16,
    #[serde(default)]
    pub publicip: String,
    #[serde(default)]
    pub namespace_ip: Option<Ipv4Addr>,
    #[serde(default)]
    pub namespace_ip_v6: Option<Ipv6Addr>,
    /// Percent of one CPU.
    #[serde(default)]
    pub cpu_percent: f64,
    #[serde(default)]
    pub memory_percent: f64,
    /// Bytes.
    #[serde(default)]
    pub disk: u64,
    /// The last 1024 bytes of output.
    #[serde(default)]
    pub logs: String,
}

impl Observed {
    /// An instance that is nowhere and uses nothing.
    pub fn new(key: InstanceKey, generation: Generation, status: InstanceStatus) -> Self {
        Self {
            key,
            generation,
            status,
            status_detail: String::new(),
            worker_id: None,
            worker_name: String::new(),
            host_ip: String::new(),
            host_port: 0,
            publicip: String::new(),
            namespace_ip: None,
            namespace_ip_v6: None,
            cpu_percent: 0.0,
            memory_percent: 0.0,
            disk: 0,
            logs: String::new(),
        }
    }
}

/// What the cluster offers, summed over its active workers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClusterResources {
    pub active_nodes: u32,
    pub vcpus: u32,
    /// Mean over the workers.
    pub cpu_percent: f64,
    /// MB available.
    pub memory: f64,
    pub memory_percent: f64,
    pub vgpus: u32,
    pub virtualization: Vec<String>,
    pub supported_addons: Vec<String>,
    pub csi_drivers: Vec<String>,
    /// Room on each active worker, so that the root does not choose a cluster in which no single
    /// worker fits.
    pub workers: Vec<WorkerRoom>,
}

/// Room on one worker after reservations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerRoom {
    pub worker_id: String,
    pub name: String,
    pub free_vcpus: f64,
    /// MB
    pub free_memory: f64,
    pub free_vgpus: u32,
    /// CPUs of the machine, reserved or not; 0 = not said.
    #[serde(default)]
    pub total_vcpus: f64,
    /// MB, reserved or not; 0 = not said.
    #[serde(default)]
    pub total_memory: f64,
    /// Instances placed on the worker.
    #[serde(default)]
    pub instances: u32,
    /// Ports of the worker that instances placed there publish.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub node_ports: BTreeSet<NodePort>,
    /// It takes no new instances, by the root's word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cordoned: bool,
    pub cpu_percent: f64,
    pub memory_percent: f64,
    pub architecture: String,
    pub virtualization: Vec<String>,
    pub csi_drivers: Vec<String>,
}

/// Cluster → root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromCluster {
    /// First frame. The same name is the same cluster, with the same id, for ever.
    Hello {
        version: u32,
        cluster_name: String,
        cluster_location: String,
    },
    /// Everything the cluster has, after [`FromRoot::Welcome`] and [`FromRoot::Desired`]: what is
    /// not in it does not exist in the cluster.
    Snapshot {
        instances: Vec<Observed>,
        workers: Vec<Peer>,
        interests: Vec<String>,
    },
    /// One instance changed.
    Instance(Box<Observed>),
    /// Periodic.
    Resources(ClusterResources),
    /// The cluster's workers as peers of others; replaces the list before.
    Workers {
        workers: Vec<Peer>,
    },
    /// A subnet for a worker; the answer for one worker is always the same.
    Subnet {
        worker_id: String,
    },
    /// The worker is gone for good: its subnet may be given to another.
    SubnetRelease {
        worker_id: String,
    },
    /// Also registers the cluster's interest in the service.
    TableQuery {
        request_id: u64,
        query: TableQuery,
    },
    InterestRemove {
        job_name: String,
    },
}

/// Root → cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromRoot {
    Welcome {
        cluster_id: String,
    },
    /// The session is not accepted; `reason` says what to do. The connection closes.
    Refused {
        reason: String,
    },
    /// Everything the cluster shall run: what is not in it shall not run.
    Desired {
        placements: Vec<Placement>,
        /// As in [`FromRoot::Cordoned`].
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        cordoned: BTreeSet<String>,
    },
    Deploy(Box<Placement>),
    /// Stop this instance if it is of this generation or an older one.
    Undeploy {
        key: InstanceKey,
        job_name: String,
        generation: Generation,
        #[serde(default, skip_serializing_if = "Drain::is_default")]
        drain: Drain,
        /// How long it may drain; absent = as the cluster is configured.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        drain_grace_ms: Option<u64>,
    },
    Subnet {
        worker_id: String,
        result: SubnetResult,
    },
    TableAnswer {
        request_id: u64,
        answer: TableAnswer,
    },
    /// A service in which the cluster holds an interest changed: ask again.
    ServiceChanged {
        job_name: String,
        change: UpdateKind,
        /// When not empty, nothing but this has changed, and who understands it need not ask.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        load: Vec<InstanceLoad>,
    },
    /// Workers of other clusters that exchange traffic with this one; replaces the list before.
    Peers {
        peers: Vec<Peer>,
    },
    /// Ids of the workers that take no new instances; replaces the list before.
    Cordoned {
        workers: BTreeSet<String>,
    },
}

/// Whether an instance that is to be stopped shall get time to end its flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    #[default]
    Always,
    /// The whole service goes, and no other cluster holds an interest in it: where none of this
    /// cluster's workers does either, there is nobody for whose sake it should drain.
    IfDialled,
    /// A copy that should not be: the instance is elsewhere, or nowhere.
    Never,
}

impl Drain {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubnetResult {
    /// Network addresses of a /26 and a /120.
    Granted {
        v4: Ipv4Addr,
        v6: Ipv6Addr,
    },
    Refused {
        reason: String,
    },
}

//! The identity and life of one instance.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Rises with every placement of an instance; a report or command of an older generation is
/// refused, so that a worker that comes back cannot keep a duplicate alive. Peers that do not
/// know generations leave it out, which reads as 0.
pub type Generation = u64;

/// Where an instance is in its life, as users read it in `GET /api/service/{id}`.
///
/// The strings are Oakestra's. `Other` keeps what a newer or older peer says, so that a status
/// unknown here is passed on and not lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum InstanceStatus {
    /// Accepted by the root, not yet given to a cluster.
    Requested,
    /// Given to a cluster, not yet to a worker.
    ClusterScheduled,
    /// Given to a worker.
    NodeScheduled,
    /// The worker fetches the image and prepares the instance.
    Creating,
    /// Ready to start: network attached, first process not yet running.
    Created,
    Running,
    /// A `one_shot` instance that ended with exit code 0.
    Completed,
    /// Ended by itself, in any other way than `Completed`.
    Dead,
    /// Could not be deployed, or its worker fell silent; `status_detail` has the cause.
    Failed,
    Undeployed,
    /// No cluster of the requested name.
    TargetClusterNotFound,
    /// The requested cluster is not connected.
    TargetClusterNotActive,
    /// The requested cluster has no room.
    TargetClusterNoCapacity,
    /// No connected cluster has room.
    NoActiveClusterWithCapacity,
    /// The cluster has no worker with room.
    NoWorkerCapacity,
    /// The cluster has no worker that fulfils the constraints.
    NoQualifiedWorkerFound,
    Other(String),
}

impl InstanceStatus {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Requested => "REQUESTED",
            Self::ClusterScheduled => "CLUSTER_SCHEDULED",
            Self::NodeScheduled => "NODE_SCHEDULED",
            Self::Creating => "CREATING",
            Self::Created => "CREATED",
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Dead => "DEAD",
            Self::Failed => "FAILED",
            Self::Undeployed => "UNDEPLOYED",
            Self::TargetClusterNotFound => "TargetClusterNotFound",
            Self::TargetClusterNotActive => "TargetClusterNotActive",
            Self::TargetClusterNoCapacity => "TargetClusterNoCapacity",
            Self::NoActiveClusterWithCapacity => "NoActiveClusterWithCapacity",
            Self::NoWorkerCapacity => "NO_WORKER_CAPACITY",
            Self::NoQualifiedWorkerFound => "NO_QUALIFIED_WORKER_FOUND",
            Self::Other(status) => status,
        }
    }

    /// Whether the instance needs room on a worker, now or soon.
    pub fn holds_resources(&self) -> bool {
        matches!(self, Self::NodeScheduled | Self::Creating | Self::Created | Self::Running)
    }
}

impl From<String> for InstanceStatus {
    fn from(status: String) -> Self {
        [
            Self::Requested,
            Self::ClusterScheduled,
            Self::NodeScheduled,
            Self::Creating,
            Self::Created,
            Self::Running,
            Self::Completed,
            Self::Dead,
            Self::Failed,
            Self::Undeployed,
            Self::TargetClusterNotFound,
            Self::TargetClusterNotActive,
            Self::TargetClusterNoCapacity,
            Self::NoActiveClusterWithCapacity,
            Self::NoWorkerCapacity,
            Self::NoQualifiedWorkerFound,
        ]
        .into_iter()
        .find(|known| known.as_str() == status)
        .unwrap_or(Self::Other(status))
    }
}

impl From<InstanceStatus> for String {
    fn from(status: InstanceStatus) -> Self {
        status.as_str().to_owned()
    }
}

impl fmt::Display for InstanceStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

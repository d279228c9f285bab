//! The deployment descriptor, SLA v2.0: what a user sends to the root to describe applications.
//!
//! The fields and their names are Oakestra's. Keys that are not known here are allowed and
//! ignored; an absent key is 0 or empty. [`Sla::parse`] is the way in from outside: it reports
//! every problem at once, each with its field and the reason, where serde stops at the first.

mod check;
mod fields;
mod parse;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

use crate::{
    address::{INSTANCE_RANGE_V6, check_service_ip, check_service_ip_v6},
    mqtt::IpType,
};

/// The only version there is.
pub const SLA_VERSION: &str = "v2.0";

/// What the root calls the runtime that an SLA calls `container`.
pub const CONTAINER_RUNTIME: &str = "docker";

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// Path from the top, `applications[0].microservices[1].memory`; empty = the whole document.
    pub field: String,
    /// What is wrong, or what would be right.
    pub reason: String,
}

impl FieldError {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.reason)
        } else {
            write!(f, "{}: {}", self.field, self.reason)
        }
    }
}

/// Everything that is wrong with a descriptor; at least one error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the deployment descriptor is not valid: {}", first_and_count(.errors))]
pub struct InvalidSla {
    pub errors: Vec<FieldError>,
}

fn first_and_count(errors: &[FieldError]) -> String {
    match errors {
        [] => String::new(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}

/// A whole descriptor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sla {
    pub sla_version: String,
    #[serde(rename = "customerID")]
    pub customer_id: String,
    pub applications: Vec<Application>,
    pub args: Vec<String>,
}

/// An application: services that belong together.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Application {
    /// Empty for a new application; the root assigns it.
    #[serde(rename = "applicationID")]
    pub application_id: String,
    pub application_name: String,
    pub application_namespace: String,
    pub application_desc: String,
    pub microservices: Vec<Microservice>,
}

/// A service as its SLA describes it. Numbers are whole, as Oakestra's clients expect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Microservice {
    /// Empty in an SLA; the root assigns it.
    #[serde(rename = "microserviceID")]
    pub microservice_id: String,
    pub microservice_name: String,
    pub microservice_namespace: String,
    /// `container`, `unikernel`, or the name of a runtime; stored with [`CONTAINER_RUNTIME`] for
    /// `container`.
    pub virtualization: String,
    /// Image reference or URL; for a unikernel a comma list parallel to `arch`.
    pub code: String,
    pub arch: Vec<String>,
    pub platform: String,
    /// MB
    pub memory: u64,
    pub vcpus: u32,
    pub vgpus: u32,
    pub vtpus: u32,
    /// kbit/s
    pub bandwidth_in: u64,
    /// kbit/s
    pub bandwidth_out: u64,
    /// MB
    pub storage: u64,
    pub state: String,
    /// `host:container[/proto];…`, see [`crate::port::published`].
    pub port: String,
    pub cmd: Vec<String>,
    /// `K=V`
    pub environment: Vec<String>,
    pub one_shot: bool,
    pub privileged: bool,
    pub added_files: Vec<String>,
    pub args: Vec<String>,
    pub sla_violation_strategy: String,
    pub target_node: String,
    pub addresses: Addresses,
    pub volumes: Vec<Volume>,
    pub constraints: Vec<Constraint>,
    pub connectivity: Vec<Connectivity>,
}

/// Addresses that the user wants for the service; an absent one is chosen by the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addresses {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rr_ip: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rr_ip_v6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closest_ip: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closest_ip_v6: Option<Ipv6Addr>,
    /// Ours, like the three that follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underutilized_ip: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underutilized_ip_v6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_ip: Option<Ipv4Addr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity_ip_v6: Option<Ipv6Addr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<InstanceAddresses>,
}

/// What the user wants of one policy's addresses, with the names of the fields that say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedAddress {
    pub policy: IpType,
    pub v4: (&'static str, Option<Ipv4Addr>),
    pub v6: (&'static str, Option<Ipv6Addr>),
}

impl Addresses {
    /// One for each of [`IpType::CHOOSING`], in that order.
    pub fn by_policy(&self) -> [WantedAddress; 4] {
        IpType::CHOOSING.map(|policy| {
            let (v4, v6) = match policy {
                IpType::Closest => {
                    (("closest_ip", self.closest_ip), ("closest_ip_v6", self.closest_ip_v6))
                }
                IpType::Underutilized => (
                    ("underutilized_ip", self.underutilized_ip),
                    ("underutilized_ip_v6", self.underutilized_ip_v6),
                ),
                IpType::Affinity => {
                    (("affinity_ip", self.affinity_ip), ("affinity_ip_v6", self.affinity_ip_v6))
                }
                // No policy that chooses has another name.
                IpType::RoundRobin | IpType::Instance => {
                    (("rr_ip", self.rr_ip), ("rr_ip_v6", self.rr_ip_v6))
                }
            };
            WantedAddress { policy, v4, v6 }
        })
    }
}

/// Most instances of one [`InstanceAddresses`].
pub const INSTANCE_ADDRESSES_MAX: u32 = 1024;

/// Instances `from` to `to` get the instance IPs from `start` on, which is of either family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceAddresses {
    pub from: u32,
    pub to: u32,
    pub start: String,
}

impl InstanceAddresses {
    /// Each instance's number and address.
    ///
    /// # Errors
    /// The name of the field that is wrong, with the reason.
    pub fn each(&self) -> Result<Vec<(u32, IpAddr)>, (&'static str, String)> {
        let Self { from, to, start } = self;
        if to < from {
            return Err(("to", format!("must not be less than from, which is {from}")));
        }
        let further = to - from;
        if further >= INSTANCE_ADDRESSES_MAX {
            return Err(("to", format!("must not make it more than {INSTANCE_ADDRESSES_MAX}")));
        }
        let start: IpAddr =
            start.parse().map_err(|_| ("start", format!("{start:?} is not an IP address")))?;
        let nth = |n: u32| {
            let address = match start {
                IpAddr::V4(v4) => v4.to_bits().checked_add(n).map(|v4| IpAddr::V4(v4.into())),
                IpAddr::V6(v6) => {
                    v6.to_bits().checked_add(n.into()).map(|v6| IpAddr::V6(v6.into()))
                }
            };
            let address = address.ok_or_else(|| format!("{start} is followed by less than {n}"))?;
            match address {
                IpAddr::V4(v4) => check_service_ip(v4),
                IpAddr::V6(v6) => check_service_ip_v6(v6, INSTANCE_RANGE_V6),
            }?;
            Ok((from + n, address))
        };
        (0..=further).map(nth).collect::<Result<_, String>>().map_err(|reason| ("start", reason))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Volume {
    pub volume_id: String,
    pub csi_driver: String,
    pub mount_path: String,
    pub config: BTreeMap<String, String>,
}

/// Where a service may run. Of the types there are, `direct` is heeded: by name of cluster and
/// of worker, several separated by `;`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Constraint {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub area: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub location: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rigidness: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convergence_time: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<String>,
}

/// What the way to another service should be like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connectivity {
    pub target_microservice_id: String,
    pub con_constraints: Vec<Constraint>,
}

impl Microservice {
    /// The names of clusters and of workers that the `direct` constraints allow; empty = any.
    pub fn direct_targets(&self) -> (Vec<String>, Vec<String>) {
        let names = |of: fn(&Constraint) -> &str| -> Vec<String> {
            self.constraints
                .iter()
                .filter(|constraint| constraint.kind == "direct")
                .flat_map(|constraint| of(constraint).split(';'))
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect()
        };
        (names(|constraint| &constraint.cluster), names(|constraint| &constraint.node))
    }
}

//! Addresses: which a worker's instances may have, and where those of services lead.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use super::TunnelEndpoint;
use crate::address::{
    AFFINITY_RANGE_V6, CLOSEST_RANGE_V6, INSTANCE_RANGE_V6, ROUND_ROBIN_RANGE_V6,
    UNDERUTILIZED_RANGE_V6,
};

/// `net/subnet`, up: which range may this worker's instances use? The answer for one worker is
/// always the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetRequest {
    /// `GET`
    #[serde(rename = "METHOD")]
    pub method: String,
    /// Where peers reach the worker's tunnel, ours: the cluster announces it to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<TunnelEndpoint>,
}

/// `net/subnetwork/result`, down: a /26 and a /120, each by its network address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetGrant {
    /// Empty when refused.
    pub address: String,
    #[serde(default)]
    pub addressv6: String,
    /// Why no subnet is given, ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `net/tablequery/request`, up: one of both is filled. A query also registers the worker's
/// interest in the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableQuery {
    /// Job name.
    #[serde(default)]
    pub sname: String,
    /// Service IP or instance IP.
    #[serde(default)]
    pub sip: String,
}

/// `net/tablequery/result`, down. An unknown service has an empty `app_name`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TableAnswer {
    /// Job name.
    pub app_name: String,
    /// The `sname` or `sip` that was asked for.
    pub query_key: String,
    pub instance_list: Vec<InstanceEntry>,
    /// The service's own addresses, also while it has no instance, ours.
    #[serde(default)]
    pub service_ip: Vec<ServiceAddress>,
}

/// One instance in a [`TableAnswer`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct InstanceEntry {
    pub instance_number: u32,
    /// Empty until the instance's network is attached; such an entry cannot be dialled.
    pub namespace_ip: String,
    #[serde(default)]
    pub namespace_ip_v6: String,
    pub host_ip: String,
    pub host_port: u16,
    /// The addresses that lead to this instance: the service's, one a policy, and its own.
    ///
    /// A Xylem worker is told its own only: the service's stand once in the answer.
    pub service_ip: Vec<ServiceAddress>,
    /// It will be stopped soon: it gets no new flows and keeps those that it has, ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// What it used when it was last told, percent of one CPU, ours. Absent while nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<f32>,
}

/// An address by which a service or an instance is dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceAddress {
    #[serde(rename = "IpType")]
    pub ip_type: IpType,
    #[serde(rename = "Address")]
    pub address: Option<Ipv4Addr>,
    #[serde(rename = "Address_v6", default)]
    pub address_v6: Option<Ipv6Addr>,
}

/// The balancing policy of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IpType {
    #[serde(rename = "RR")]
    RoundRobin,
    Closest,
    Underutilized,
    Affinity,
    /// This very instance.
    #[serde(rename = "InstanceNumber", alias = "instance_ip")]
    Instance,
}

impl IpType {
    /// The policies that choose among a service's instances. A service has one service IP and
    /// family for each.
    pub const CHOOSING: [Self; 4] =
        [Self::RoundRobin, Self::Closest, Self::Underutilized, Self::Affinity];

    /// Where its IPv6 addresses are from. All IPv4 addresses are from one range.
    pub fn range_v6(self) -> Ipv6Net {
        match self {
            Self::RoundRobin => ROUND_ROBIN_RANGE_V6,
            Self::Closest => CLOSEST_RANGE_V6,
            Self::Underutilized => UNDERUTILIZED_RANGE_V6,
            Self::Affinity => AFFINITY_RANGE_V6,
            Self::Instance => INSTANCE_RANGE_V6,
        }
    }
}

/// `net/service/deployed` and `net/service/undeployed`, up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetDeployed {
    /// Job name.
    pub appname: String,
    /// `DEPLOYED` or `UNDEPLOYED`.
    pub status: String,
    pub instance_number: u32,
    pub nsip: String,
    #[serde(default)]
    pub nsipv6: String,
    pub host_ip: String,
    #[serde(with = "port_as_string_or_number")]
    pub host_port: u16,
}

/// `net/service/address-changed`, up: the instance is reached at another underlay address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressChanged {
    /// Job name.
    pub appname: String,
    pub instance_number: u32,
    pub host_ip: String,
    #[serde(with = "port_as_string_or_number")]
    pub host_port: u16,
}

/// `net/interest/remove`, up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterestRemove {
    pub appname: String,
}

/// `jobs/{job_name}/updates_available`, down: ask again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdatesAvailable {
    pub r#type: UpdateKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum UpdateKind {
    Deployment,
    Undeployment,
}

/// Oakestra's net manager sends ports as strings in some messages and as numbers in others.
mod port_as_string_or_number {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Port {
        Number(u16),
        Text(String),
    }

    pub(super) fn serialize<S: Serializer>(port: &u16, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&port.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u16, D::Error> {
        match Port::deserialize(d)? {
            Port::Number(port) => Ok(port),
            Port::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

//! Topics and payloads between a worker (node engine and net manager) and its cluster.
//!
//! Topics are under `nodes/{worker_id}/`; all payloads are JSON, QoS 1. `up` is from the worker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};

use crate::{
    address::{
        AFFINITY_RANGE_V6, CLOSEST_RANGE_V6, INSTANCE_RANGE_V6, ROUND_ROBIN_RANGE_V6,
        UNDERUTILIZED_RANGE_V6,
    },
    instance::{Generation, InstanceStatus},
};

/// Topic names. One function a topic; `nodes/+/…` for subscriptions is `topic::…("+")`.
pub mod topic {
    /// up, periodic: [`crate::node::Node`] with the dynamic fields filled.
    pub fn information(worker: &str) -> String {
        format!("nodes/{worker}/information")
    }
    /// up, on every change: [`super::InstanceReport`].
    pub fn job(worker: &str) -> String {
        format!("nodes/{worker}/job")
    }
    /// up, periodic: [`super::InstanceResources`].
    pub fn jobs_resources(worker: &str) -> String {
        format!("nodes/{worker}/jobs/resources")
    }
    /// down: [`super::DeployCommand`].
    pub fn control_deploy(worker: &str) -> String {
        format!("nodes/{worker}/control/deploy")
    }
    /// down: [`super::DeleteCommand`].
    pub fn control_delete(worker: &str) -> String {
        format!("nodes/{worker}/control/delete")
    }
    /// down: [`super::ControlError`].
    pub fn control_error(worker: &str) -> String {
        format!("nodes/{worker}/control/error")
    }
    /// up: [`super::SubnetRequest`].
    pub fn subnet(worker: &str) -> String {
        format!("nodes/{worker}/net/subnet")
    }
    /// down: [`super::SubnetGrant`].
    pub fn subnetwork_result(worker: &str) -> String {
        format!("nodes/{worker}/net/subnetwork/result")
    }
    /// up: [`super::TableQuery`].
    pub fn tablequery_request(worker: &str) -> String {
        format!("nodes/{worker}/net/tablequery/request")
    }
    /// down: [`super::TableAnswer`].
    pub fn tablequery_result(worker: &str) -> String {
        format!("nodes/{worker}/net/tablequery/result")
    }
    /// up: [`super::NetDeployed`].
    pub fn service_deployed(worker: &str) -> String {
        format!("nodes/{worker}/net/service/deployed")
    }
    /// up: [`super::NetDeployed`].
    pub fn service_undeployed(worker: &str) -> String {
        format!("nodes/{worker}/net/service/undeployed")
    }
    /// up: [`super::AddressChanged`].
    pub fn address_changed(worker: &str) -> String {
        format!("nodes/{worker}/net/service/address-changed")
    }
    /// up: [`super::InterestRemove`].
    pub fn interest_remove(worker: &str) -> String {
        format!("nodes/{worker}/net/interest/remove")
    }
    /// down, ours: [`super::Peers`], the whole list, sent after [`super::SubnetRequest`] and
    /// whenever it changes.
    pub fn peers(worker: &str) -> String {
        format!("nodes/{worker}/net/peers")
    }
    /// up, ours: [`super::PeersRequest`].
    pub fn peers_request(worker: &str) -> String {
        format!("nodes/{worker}/net/peers/request")
    }
    /// down, ours: [`crate::load::Loads`], what instances of the services in which the worker
    /// holds an interest use now. Only changes, so a value holds until the next.
    pub fn load(worker: &str) -> String {
        format!("nodes/{worker}/net/load")
    }
    /// down, to every worker that holds an interest: [`super::UpdatesAvailable`].
    pub fn updates_available(job_name: &str) -> String {
        format!("jobs/{job_name}/updates_available")
    }
}

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

/// Where a worker's tunnel is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TunnelEndpoint {
    pub host_ip: IpAddr,
    pub host_port: u16,
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

/// `net/peers`, down, ours: everybody from whom the worker accepts tunnel packets, itself left
/// out. The list replaces the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peers {
    pub peers: Vec<Peer>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Peer {
    pub worker_id: String,
    #[serde(flatten)]
    pub endpoint: TunnelEndpoint,
    /// Network address of the worker's /26.
    pub subnet: Option<Ipv4Addr>,
    /// Network address of the worker's /120.
    #[serde(default)]
    pub subnet_v6: Option<Ipv6Addr>,
    pub kind: PeerKind,
}

/// `net/peers/request`, up, ours: tunnel packets come from this address and nobody has announced
/// it; who is that? Where the cluster knows it as a peer of the worker, it sends [`Peers`] again;
/// else it is a stranger, and there is no answer. The worker limits how often it asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersRequest {
    /// The outer source of the packets.
    #[serde(flatten)]
    pub sender: TunnelEndpoint,
}

/// Which proxy the peer runs: it decides the destination of answers in the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    Xylem,
    Oakestra,
}

/// Reads null as what an absent field is.
fn null_is_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_job_document_is_a_deploy_command() {
        let document = r#"{
            "_id": {"$oid": "63219606f5b2ba6a9ea0a4ff"}, "job_name": "a.b.c.d", "image": "x/y:1",
            "code": "x/y:1", "virtualization": "docker", "instance_number": 2, "cmd": null,
            "environment": null, "memory": 100, "vcpus": null, "one_shot": null, "port": null,
            "instance_list": [], "RR_ip": "10.30.0.1", "storage": 0
        }"#;
        let command: DeployCommand = serde_json::from_str(document).unwrap();
        assert_eq!((command.image.as_str(), command.instance_number), ("x/y:1", 2));
        assert_eq!((command.memory, command.vcpus, command.generation), (100, 0.0, 0));
        assert!(command.cmd.is_empty() && !command.one_shot && command.port.is_empty());
    }

    #[test]
    fn fields_of_ours_are_absent_where_they_say_nothing() {
        let entry = InstanceEntry { namespace_ip: "10.18.0.2".into(), ..InstanceEntry::default() };
        let text = serde_json::to_string(&entry).unwrap();
        assert!(!text.contains("draining") && !text.contains("cpu_percent"), "{text}");
        assert_eq!(serde_json::from_str::<InstanceEntry>(&text).unwrap(), entry);
        let entry = InstanceEntry { draining: true, cpu_percent: Some(12.5), ..entry };
        let text = serde_json::to_string(&entry).unwrap();
        assert!(text.contains(r#""draining":true,"cpu_percent":12.5"#), "{text}");
        assert_eq!(serde_json::from_str::<InstanceEntry>(&text).unwrap(), entry);
    }

    #[test]
    fn a_question_for_a_sender_is_an_address_and_a_port() {
        let text = r#"{"host_ip":"192.0.2.9","host_port":50103}"#;
        let request: PeersRequest = serde_json::from_str(text).unwrap();
        assert_eq!(request.sender.host_ip, IpAddr::from([192, 0, 2, 9]));
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
    }
}

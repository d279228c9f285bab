//! Topics and payloads between a worker (node engine and net manager) and its cluster.
//!
//! Topics are under `nodes/{worker_id}/`; all payloads are JSON, QoS 1. `up` is from the worker.

mod control;
mod peer;
mod route;
pub mod topic;

pub use control::{
    ControlError, DeleteCommand, DeployCommand, InstanceReport, InstanceResources, InstanceUsage,
};
pub use peer::{Peer, PeerKind, Peers, PeersRequest, TunnelEndpoint};
pub use route::{
    AddressChanged, InstanceEntry, InterestRemove, IpType, NetDeployed, ServiceAddress,
    SubnetGrant, SubnetRequest, TableAnswer, TableQuery, UpdateKind, UpdatesAvailable,
};

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

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

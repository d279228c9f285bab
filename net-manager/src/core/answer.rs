//! A cluster's answer to a table query, checked once at the edge.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use net_common::{Addr, Policy};
use net_maps::{BadName, Name};
use xylem_types::mqtt::{InstanceEntry, IpType, ServiceAddress, TableAnswer};

use super::tables::PeerAddr;

/// One service as the cluster knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceView {
    pub name: Name,
    /// Addresses that choose among the instances, and how.
    pub addresses: BTreeMap<Addr, Policy>,
    /// By instance number.
    pub instances: BTreeMap<u32, InstanceView>,
}

/// One instance of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct InstanceView {
    /// Where it can be delivered to; `None` until its network is attached.
    pub location: Option<Location>,
    /// Unspecified where there is none.
    pub instance_ip_v4: Addr,
    pub instance_ip_v6: Addr,
    /// It keeps its flows and gets no new ones.
    pub draining: bool,
    /// What it uses, percent of one CPU; `None` while nobody knows.
    pub cpu_percent: Option<f32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub namespace_ip_v4: Addr,
    /// Unspecified where there is none.
    pub namespace_ip_v6: Addr,
    pub node: PeerAddr,
}

/// What an answer says.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Known(Box<ServiceView>),
    /// Nobody has that service or address.
    Unknown,
}

/// Reads an answer. Instances that make no sense are left out; they cannot be dialled anyway.
///
/// # Errors
/// The name cannot be that of a service.
pub fn read(answer: &TableAnswer) -> Result<Answer, BadName> {
    if answer.app_name.is_empty() {
        return Ok(Answer::Unknown);
    }
    let name = Name::try_from(answer.app_name.as_str())?;
    let mut addresses = BTreeMap::new();
    let of_instances = answer.instance_list.iter().flat_map(|instance| &instance.service_ip);
    for address in answer.service_ip.iter().chain(of_instances) {
        if let Some(policy) = choosing_policy(address.ip_type) {
            addresses.extend(both_families(address).map(|addr| (addr, policy)));
        }
    }
    let instances = answer.instance_list.iter().map(|i| (i.instance_number, instance(i))).collect();
    Ok(Answer::Known(Box::new(ServiceView { name, addresses, instances })))
}

fn choosing_policy(ip_type: IpType) -> Option<Policy> {
    match ip_type {
        IpType::RoundRobin => Some(Policy::RoundRobin),
        IpType::Closest => Some(Policy::Closest),
        IpType::Underutilized => Some(Policy::Underutilized),
        IpType::Affinity => Some(Policy::Affinity),
        IpType::Instance => None,
    }
}

fn both_families(address: &ServiceAddress) -> impl Iterator<Item = Addr> {
    let v4 = address.address.map(Addr::from);
    let v6 = address.address_v6.map(Addr::from);
    v4.into_iter().chain(v6).filter(|addr| !addr.is_unspecified())
}

fn instance(entry: &InstanceEntry) -> InstanceView {
    let own = entry.service_ip.iter().find(|address| address.ip_type == IpType::Instance);
    InstanceView {
        location: location(entry),
        instance_ip_v4: own.and_then(|own| own.address).map(Addr::from).unwrap_or_default(),
        instance_ip_v6: own.and_then(|own| own.address_v6).map(Addr::from).unwrap_or_default(),
        draining: entry.draining,
        cpu_percent: entry.cpu_percent,
    }
}

fn location(entry: &InstanceEntry) -> Option<Location> {
    let host: IpAddr = entry.host_ip.parse().ok()?;
    let namespace_ip_v4: Ipv4Addr = entry.namespace_ip.parse().ok()?;
    let namespace_ip_v6 = entry.namespace_ip_v6.parse::<Ipv6Addr>().ok();
    (entry.host_port != 0).then(|| Location {
        namespace_ip_v4: namespace_ip_v4.into(),
        namespace_ip_v6: namespace_ip_v6.map(Addr::from).unwrap_or_default(),
        node: PeerAddr { addr: host.into(), port: entry.host_port },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = r#"{
        "app_name": "shop.prod.cart.prod",
        "query_key": "10.30.0.7",
        "instance_list": [
            {"instance_number": 0, "namespace_ip": "10.18.0.2", "namespace_ip_v6": "fc00::2",
             "host_ip": "192.0.2.1", "host_port": 50103, "draining": true,
             "cpu_percent": 12.5, "service_ip": [
                {"IpType": "RR", "Address": "10.30.0.7", "Address_v6": "fdff:2000::7"},
                {"IpType": "instance_ip", "Address": "10.30.0.8", "Address_v6": "fdff::8"}]},
            {"instance_number": 1, "namespace_ip": "", "host_ip": "", "host_port": 0,
             "service_ip": [{"IpType": "InstanceNumber", "Address": "10.30.0.9"}]}
        ]}"#;

    #[test]
    fn an_answer_of_either_system_is_read() {
        let answer: TableAnswer = serde_json::from_str(ANSWER).unwrap();
        let Answer::Known(view) = read(&answer).unwrap() else { panic!("known") };
        assert_eq!(view.name.as_str(), "shop.prod.cart.prod");
        let v4 = Addr::from(Ipv4Addr::new(10, 30, 0, 7));
        assert_eq!(view.addresses[&v4], Policy::RoundRobin);
        assert_eq!(view.addresses.len(), 2);
        let first = view.instances[&0];
        assert_eq!(first.instance_ip_v4.to_string(), "10.30.0.8");
        assert_eq!(first.instance_ip_v6.to_string(), "fdff::8");
        assert_eq!((first.draining, first.cpu_percent), (true, Some(12.5)));
        assert_eq!((view.instances[&1].draining, view.instances[&1].cpu_percent), (false, None));
        let location = first.location.unwrap();
        assert_eq!(format!("{:?}", location.node), "192.0.2.1:50103");
        assert_eq!(location.namespace_ip_v6.to_string(), "fc00::2");
        assert_eq!(view.instances[&1].location, None);
        assert_eq!(view.instances[&1].instance_ip_v4.to_string(), "10.30.0.9");
    }

    #[test]
    fn no_name_is_no_service() {
        assert_eq!(read(&TableAnswer::default()), Ok(Answer::Unknown));
        let long = TableAnswer { app_name: "x".repeat(300), ..TableAnswer::default() };
        read(&long).unwrap_err();
    }
}

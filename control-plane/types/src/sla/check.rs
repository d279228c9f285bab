//! What a descriptor must fulfil beyond the shape of its fields.

use std::collections::BTreeMap;

use super::{Addresses, Microservice, fields::Fields};
use crate::address::{
    CLOSEST_RANGE_V6, ROUND_ROBIN_RANGE_V6, check_service_ip, check_service_ip_v6,
};

/// Notes every object whose name and namespace an earlier one has.
pub(super) fn check_unique<'n>(
    objects: &[Fields<'_>],
    field: &str,
    name_of: impl Fn(usize) -> (&'n String, &'n String),
) {
    let mut seen = BTreeMap::new();
    for (i, object) in objects.iter().enumerate() {
        let name = name_of(i);
        if name.0.is_empty() {
            continue;
        }
        if let Some(first) = seen.get(&name) {
            object.problem(field, format!("the same name and namespace as number {first} has"));
        } else {
            seen.insert(name, i);
        }
    }
}

pub(super) fn check_microservice(fields: &Fields<'_>, service: &Microservice) {
    if !service.microservice_id.is_empty() {
        fields.problem("microserviceID", "must be empty, the root assigns it");
    }
    if service.code.chars().any(|c| c.is_whitespace() || c.is_control()) {
        fields.problem("code", "must not contain white space");
    }
    if let Err(reason) = check_ports(&service.port) {
        fields.problem("port", reason);
    }
    for (i, variable) in service.environment.iter().enumerate() {
        if !matches!(variable.find('='), Some(1..)) || variable.contains('\0') {
            fields.problem(&format!("environment[{i}]"), "must be NAME=VALUE");
        }
    }
    for (i, argument) in service.cmd.iter().enumerate() {
        if argument.contains('\0') {
            fields.problem(&format!("cmd[{i}]"), "must not contain a NUL byte");
        }
    }
    if service.virtualization == "unikernel" {
        let images = service.code.split(',').count();
        if service.arch.is_empty() {
            fields.problem("arch", "is required for a unikernel");
        } else if images != service.arch.len() {
            fields.problem(
                "arch",
                format!("names {} architectures for {images} images in code", service.arch.len()),
            );
        }
    }
}

pub(super) fn check_addresses(fields: &Fields<'_>, addresses: &Addresses) {
    let note = |name: &str, checked: Option<Result<(), String>>| {
        if let Some(Err(reason)) = checked {
            fields.problem(name, reason);
        }
    };
    note("rr_ip", addresses.rr_ip.map(check_service_ip));
    note("closest_ip", addresses.closest_ip.map(check_service_ip));
    let v6 = |ip: Option<_>, range| ip.map(|ip| check_service_ip_v6(ip, range));
    note("rr_ip_v6", v6(addresses.rr_ip_v6, ROUND_ROBIN_RANGE_V6));
    note("closest_ip_v6", v6(addresses.closest_ip_v6, CLOSEST_RANGE_V6));
}

/// `host:container[/proto];…`; a single port stands for both sides.
fn check_ports(ports: &str) -> Result<(), String> {
    for mapping in ports.split(';').map(str::trim).filter(|mapping| !mapping.is_empty()) {
        let (pair, protocol) = mapping.split_once('/').unwrap_or((mapping, "tcp"));
        let (host, container) = pair.split_once(':').unwrap_or((pair, pair));
        let is_port = |text: &str| text.parse::<u16>().is_ok_and(|port| port != 0);
        if !is_port(host) || !is_port(container) || !matches!(protocol, "tcp" | "udp") {
            return Err(format!("{mapping:?} is not HOST:CONTAINER[/tcp|/udp]"));
        }
    }
    Ok(())
}

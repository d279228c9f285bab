//! What a descriptor must fulfil beyond the shape of its fields.

use std::collections::{BTreeMap, BTreeSet};

use super::{Addresses, Microservice, WantedAddress, fields::Fields};
use crate::{
    address::{check_service_ip, check_service_ip_v6},
    port::published,
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
    if let Err(wrong) = published(&service.port) {
        fields.problem("port", wrong.to_string());
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
    let mut seen = BTreeMap::new();
    for WantedAddress { policy, v4: (v4_field, v4), v6: (v6_field, v6) } in addresses.by_policy() {
        if let Some(Err(reason)) = v4.map(check_service_ip) {
            fields.problem(v4_field, reason);
        }
        if let Some(Err(reason)) = v6.map(|ip| check_service_ip_v6(ip, policy.range_v6())) {
            fields.problem(v6_field, reason);
        }
        // Of IPv6 addresses, the ranges differ.
        if let Some(ip) = v4
            && let Some(other) = seen.insert(ip, v4_field)
        {
            fields.problem(v4_field, format!("{ip} is wanted as {other} already"));
        }
    }
    let mut instances = BTreeSet::new();
    for (i, range) in addresses.instances.iter().enumerate() {
        match range.each() {
            Err((name, reason)) => fields.problem(&format!("instances[{i}].{name}"), reason),
            Ok(each) => {
                if let Some((number, ip)) =
                    each.iter().find(|(number, ip)| !instances.insert((*number, ip.is_ipv4())))
                {
                    let family = if ip.is_ipv4() { "an IPv4" } else { "an IPv6" };
                    let reason = format!("instance {number} is given {family} address twice");
                    fields.problem(&format!("instances[{i}]"), reason);
                }
            }
        }
    }
}

//! Deployment descriptors: what is accepted, and that every problem is named.

use proptest::prelude::*;
use serde_json::{Value, json};
use xylem_types::sla::{FieldError, Sla};

fn valid() -> Value {
    json!({
        "sla_version": "v2.0",
        "customerID": "Admin",
        "applications": [{
            "applicationID": "",
            "application_name": "clientsrvr",
            "application_namespace": "test",
            "application_desc": "Simple demo with client and server",
            "microservices": [
                {
                    "microserviceID": "",
                    "microservice_name": "client",
                    "microservice_namespace": "test",
                    "virtualization": "container",
                    "cmd": ["sh", "-c", "tail -f /dev/null"],
                    "memory": 100, "vcpus": 1, "vgpus": 0, "vtpus": 0,
                    "bandwidth_in": 0, "bandwidth_out": 0, "storage": 0,
                    "code": "docker.io/library/alpine:latest",
                    "state": "", "port": "9080:80/tcp;5353:53/udp",
                    "added_files": [],
                    "constraints": [{"type": "direct", "cluster": "munich;paris", "node": "w1"}],
                    "one_of_ours_later": {"a": [1]}
                },
                {
                    "microserviceID": "",
                    "microservice_name": "nginx",
                    "microservice_namespace": "test",
                    "virtualization": "container",
                    "code": "docker.io/library/nginx:latest",
                    "addresses": {"rr_ip": "10.30.30.30", "rr_ip_v6": "fdff:2000::30"}
                }
            ]
        }]
    })
}

fn problems(document: &Value) -> Vec<String> {
    match Sla::parse(document.to_string().as_bytes()) {
        Ok(_) => Vec::new(),
        Err(invalid) => invalid.errors.iter().map(FieldError::to_string).collect(),
    }
}

/// The problems when the value at `pointer` is replaced.
fn with(pointer: &str, value: Value) -> Vec<String> {
    let mut document = valid();
    *document.pointer_mut(pointer).unwrap() = value;
    problems(&document)
}

/// The problems when `field` is set in the first service.
fn with_field(field: &str, value: Value) -> Vec<String> {
    let mut document = valid();
    document.pointer_mut("/applications/0/microservices/0").unwrap()[field] = value;
    problems(&document)
}

#[test]
fn a_valid_descriptor_is_read_whole() {
    let sla = Sla::parse(valid().to_string().as_bytes()).unwrap();
    let service = &sla.applications[0].microservices[0];
    assert_eq!((service.memory, service.vcpus), (100, 1));
    assert_eq!(
        service.direct_targets(),
        (vec!["munich".to_owned(), "paris".to_owned()], vec!["w1".to_owned()])
    );
    let nginx = &sla.applications[0].microservices[1];
    assert_eq!(nginx.addresses.rr_ip.unwrap().to_string(), "10.30.30.30");
    assert_eq!((nginx.memory, nginx.one_shot), (0, false));
}

#[test]
fn every_problem_is_named_at_once() {
    let mut document = valid();
    let services = document.pointer_mut("/applications/0/microservices").unwrap();
    services[0]["memory"] = json!(-1);
    services[0]["vcpus"] = json!("two");
    services[0]["environment"] = json!(["A=b", "=c", 3]);
    services[1].as_object_mut().unwrap().remove("code");
    services[1]["microservice_name"] = json!("not a name");
    services[1]["addresses"]["rr_ip"] = json!("10.31.0.1");
    document["sla_version"] = json!("v1");
    assert_eq!(
        problems(&document),
        [
            "sla_version: must be \"v2.0\"",
            "applications[0].microservices[0].memory: must not be negative",
            "applications[0].microservices[0].vcpus: must be a number, not a text",
            "applications[0].microservices[0].environment[2]: must be a text, not a number",
            "applications[0].microservices[0].environment[1]: must be NAME=VALUE",
            "applications[0].microservices[1].microservice_name: must be 1 to 30 letters and \
             digits (a-z, A-Z, 0-9)",
            "applications[0].microservices[1].code: is required",
            "applications[0].microservices[1].addresses.rr_ip: 10.31.0.1 is not in 10.30.0.0/16",
        ]
    );
}

#[test]
fn numbers_are_whole_and_bounded() {
    let field = "applications[0].microservices[0].";
    for (name, value, reason) in [
        ("memory", json!(1.5), "must be a whole number"),
        ("memory", json!(1e300), "must not be more than 2147483647"),
        ("memory", json!(u64::MAX), "must not be more than 2147483647"),
        ("vcpus", json!(65_536), "must not be more than 65535"),
        ("storage", json!(-0.5), "must not be negative"),
        ("one_shot", json!("yes"), "must be true or false, not a text"),
    ] {
        assert_eq!(with_field(name, value), [format!("{field}{name}: {reason}")]);
    }
    assert!(with_field("memory", json!(64.0)).is_empty());
}

#[test]
fn service_ips_are_of_their_range_and_not_its_edges() {
    let pointer = "/applications/0/microservices/1/addresses/rr_ip";
    for (ip, ok) in [
        ("10.30.0.0", false),
        ("10.30.0.1", true),
        ("10.30.255.254", true),
        ("10.30.255.255", false),
        ("10.29.255.255", false),
        ("10.30.1", false),
        ("", true),
    ] {
        assert_eq!(with(pointer, json!(ip)).is_empty(), ok, "{ip}");
    }
    let pointer = "/applications/0/microservices/1/addresses/rr_ip_v6";
    for (ip, ok) in [
        ("fdff:2000::1", true),
        ("fdff:2000::", false),
        ("fdff:1000::1", false),
        ("10.30.0.1", false),
    ] {
        assert_eq!(with(pointer, json!(ip)).is_empty(), ok, "{ip}");
    }
}

#[test]
fn every_policy_s_service_ip_can_be_wanted_and_is_of_its_range() {
    let wanted = |addresses: Value| with("/applications/0/microservices/1/addresses", addresses);
    assert!(
        wanted(json!({
            "rr_ip": "10.30.0.1", "rr_ip_v6": "fdff:2000::1",
            "closest_ip": "10.30.0.2", "closest_ip_v6": "fdff:1000::1",
            "underutilized_ip": "10.30.0.3", "underutilized_ip_v6": "fdff:3000::1",
            "affinity_ip": "10.30.0.4", "affinity_ip_v6": "fdff:4000::1",
        }))
        .is_empty()
    );
    let field = "applications[0].microservices[1].addresses.";
    for (name, ip, reason) in [
        ("closest_ip", "10.18.0.2", "10.18.0.2 is not in 10.30.0.0/16"),
        ("closest_ip_v6", "fdff:2000::1", "fdff:2000::1 is not in fdff:1000::/21"),
        ("underutilized_ip_v6", "fdff:4000::1", "fdff:4000::1 is not in fdff:3000::/21"),
        ("affinity_ip_v6", "fdff:3000::1", "fdff:3000::1 is not in fdff:4000::/21"),
    ] {
        assert_eq!(wanted(json!({ name: ip })), [format!("{field}{name}: {reason}")]);
    }
    assert_eq!(
        wanted(json!({ "rr_ip": "10.30.0.9", "affinity_ip": "10.30.0.9" })),
        [format!("{field}affinity_ip: 10.30.0.9 is wanted as rr_ip already")]
    );
}

#[test]
fn instances_can_be_given_addresses_in_order() {
    let wanted = |instances: Value| {
        with("/applications/0/microservices/1/addresses", json!({ "instances": instances }))
    };
    let range = |from: u32, to: u32, start: &str| json!({ "from": from, "to": to, "start": start });
    assert!(
        wanted(json!([
            range(0, 3, "10.30.5.1"),
            range(7, 7, "10.30.6.1"),
            range(0, 9, "fdff::1:0"),
        ]))
        .is_empty()
    );
    let field = "applications[0].microservices[1].addresses.instances[0]";
    for (one, problem) in [
        (range(3, 2, "10.30.5.1"), ".to: must not be less than from, which is 3"),
        (range(0, 1024, "10.30.5.1"), ".to: must not make it more than 1024"),
        (range(0, 1, "here"), ".start: \"here\" is not an IP address"),
        (range(0, 1, "10.31.0.1"), ".start: 10.31.0.1 is not in 10.30.0.0/16"),
        (range(0, 1, "fdff:2000::1"), ".start: fdff:2000::1 is not in fdff::/21"),
        (
            range(0, 3, "10.30.255.253"),
            ".start: 10.30.255.255 is the network or broadcast address of 10.30.0.0/16",
        ),
    ] {
        assert_eq!(wanted(json!([one])), [format!("{field}{problem}")]);
    }
    let twice = json!([range(0, 3, "10.30.5.1"), range(3, 4, "10.30.6.1")]);
    assert_eq!(
        wanted(twice),
        ["applications[0].microservices[1].addresses.instances[1]: instance 3 is given an IPv4 \
          address twice"]
    );
}

#[test]
fn ports_are_pairs_with_a_protocol() {
    for (port, ok) in [
        (json!(""), true),
        (json!(null), true),
        (json!(80), true),
        (json!("80"), true),
        (json!("8080:80"), true),
        (json!("8080:80/udp; 9090:90;"), true),
        (json!("0:80"), false),
        (json!("8080:80/sctp"), false),
        (json!("8080:70000"), false),
        (json!("8080:80;8080:81"), false),
        (json!("8080:80;8080:80/udp"), true),
        (json!("a:b"), false),
        (json!([80]), false),
    ] {
        assert_eq!(with_field("port", port.clone()).is_empty(), ok, "{port}");
    }
}

#[test]
fn names_are_unique_within_their_application() {
    assert_eq!(
        with("/applications/0/microservices/1/microservice_name", json!("client")),
        ["applications[0].microservices[1].microservice_name: the same name and namespace as \
          number 0 has"]
    );
    assert!(
        with("/applications/0/microservices/1/microservice_namespace", json!("other")).is_empty()
    );
}

#[test]
fn a_unikernel_needs_one_architecture_an_image() {
    let mut document = valid();
    let service = document.pointer_mut("/applications/0/microservices/0").unwrap();
    service["virtualization"] = json!("unikernel");
    service["code"] = json!("https://a/x86.tar.gz,https://a/arm.tar.gz");
    assert_eq!(
        problems(&document),
        ["applications[0].microservices[0].arch: is required for a unikernel"]
    );
    document.pointer_mut("/applications/0/microservices/0").unwrap()["arch"] = json!(["amd64"]);
    assert_eq!(problems(&document).len(), 1);
    document.pointer_mut("/applications/0/microservices/0").unwrap()["arch"] =
        json!(["amd64", "arm64"]);
    assert!(problems(&document).is_empty());
}

#[test]
fn what_is_no_descriptor_is_refused_whole() {
    for text in ["", "{", "[]", "3", "null", "\"{}\"", "\u{0}"] {
        let errors = Sla::parse(text.as_bytes()).unwrap_err().errors;
        assert_eq!(errors.len(), 1, "{text}");
        assert_eq!(errors[0].field, "", "{text}");
    }
    assert_eq!(problems(&json!({})), ["sla_version: is required", "applications: is required"]);
    let deep = "[".repeat(100_000);
    assert!(Sla::parse(deep.as_bytes()).is_err());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    let name = prop_oneof![Just("type".to_owned()), Just("rr_ip".to_owned()), "[a-z_]{0,8}"];
    leaf.prop_recursive(3, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..4)
                .prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

/// Every place in the document.
fn pointers(value: &Value, at: &str, into: &mut Vec<String>) {
    into.push(at.to_owned());
    match value {
        Value::Object(map) => {
            map.iter().for_each(|(name, value)| pointers(value, &format!("{at}/{name}"), into));
        }
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(i, value)| pointers(value, &format!("{at}/{i}"), into));
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn any_json_is_read_or_refused_with_reasons(document in any_json()) {
        if let Err(invalid) = Sla::parse(document.to_string().as_bytes()) {
            prop_assert!(!invalid.errors.is_empty());
        }
    }

    #[test]
    fn any_bytes_are_refused(bytes: Vec<u8>) {
        prop_assert!(Sla::parse(&bytes).is_err());
    }

    /// A valid descriptor with up to three places replaced by anything: no panic, and what is
    /// accepted reads the same again after it was written.
    #[test]
    fn a_spoilt_descriptor_is_read_or_refused(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_json()), 1..4),
    ) {
        let mut document = valid();
        for (place, value) in changes {
            let mut places = Vec::new();
            pointers(&document, "", &mut places);
            if let Some(spot) = document.pointer_mut(&places[place.index(places.len())]) {
                *spot = value;
            }
        }
        match Sla::parse(document.to_string().as_bytes()) {
            Ok(sla) => {
                let written = serde_json::to_vec(&sla).unwrap();
                prop_assert_eq!(Sla::parse(&written).unwrap(), sla);
            }
            Err(invalid) => prop_assert!(!invalid.errors.is_empty()),
        }
    }
}

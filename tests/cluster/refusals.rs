//! Input that is refused: with the field and the reason, and nothing half done.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use serde_json::json;
use xylem_tests::deployment::{Wanted, create, sla};

use crate::scene::Scene;

pub fn invalid_descriptor(scene: &Scene) -> Result<()> {
    let descriptor = json!({
        "sla_version": "v2.0", "customerID": "Admin",
        "applications": [{
            "applicationID": "", "application_name": "bad", "application_namespace": "te-st",
            "microservices": [{
                "microserviceID": "", "microservice_name": "web", "microservice_namespace": "test",
                "virtualization": "container", "code": "x", "memory": -1,
            }, {
                "microserviceID": "", "microservice_namespace": "test",
                "virtualization": "container", "code": "x",
            }],
        }],
    });
    let answer = scene
        .with_rest(|rest| rest.send("POST", "/api/application/", Some(&descriptor.to_string())))?;
    ensure!(answer.status == 422, "{answer:?}");
    let fields = [
        "applications[0].application_namespace",
        "applications[0].microservices[0].memory",
        "applications[0].microservices[1].microservice_name",
    ];
    for field in fields {
        ensure!(answer.text.contains(field), "no word of {field}: {}", answer.text);
    }
    for text in ["", "{", "[]", "null", "{\"applications\": 7}"] {
        let answer = scene.with_rest(|rest| rest.send("POST", "/api/application/", Some(text)))?;
        ensure!((400..=422).contains(&answer.status), "{text:?}: {answer:?}");
    }
    let applications = scene.with_rest(|rest| rest.send("GET", "/api/applications/", None))?;
    ensure!(!applications.text.contains("\"bad\""), "half applied: {}", applications.text);
    Ok(())
}

pub fn service_ips(scene: &Scene) -> Result<()> {
    let wanted = |rr_ip| Wanted { rr_ip: Some(rr_ip), ..scene.serving("web") };
    let taken = Ipv4Addr::new(10, 30, 77, 77);
    let application = scene.with_rest(|rest| Ok(create(rest, "first", &[wanted(taken)])?.0))?;
    let outside = [
        Ipv4Addr::new(10, 31, 0, 1),
        Ipv4Addr::new(192, 168, 0, 1),
        Ipv4Addr::new(10, 30, 0, 0),
        Ipv4Addr::new(10, 30, 255, 255),
        taken,
    ];
    for address in outside {
        let text = sla("second", &[wanted(address)]);
        let answer = scene.with_rest(|rest| rest.send("POST", "/api/application/", Some(&text)))?;
        ensure!(answer.status == 422, "{address}: {answer:?}");
        ensure!(answer.text.contains("rr_ip"), "no word of the field: {}", answer.text);
        ensure!(
            answer.text.contains(&address.to_string()),
            "no word of {address}: {}",
            answer.text
        );
    }
    scene.with_rest(|rest| rest.delete_application(&application))?;
    // Free again once its service is gone.
    let application = scene.with_rest(|rest| Ok(create(rest, "second", &[wanted(taken)])?.0))?;
    scene.with_rest(|rest| rest.delete_application(&application))
}

pub fn not_found(scene: &Scene) -> Result<()> {
    let nobody = "0123456789abcdef01234567";
    for (method, path) in [
        ("GET", format!("/api/service/{nobody}")),
        ("DELETE", format!("/api/service/{nobody}")),
        ("POST", format!("/api/service/{nobody}/instance")),
        ("DELETE", format!("/api/service/{nobody}/instance/0")),
        ("GET", format!("/api/application/{nobody}")),
        ("DELETE", format!("/api/application/{nobody}")),
        ("GET", "/api/nonsense".to_owned()),
    ] {
        let answer = scene.with_rest(|rest| rest.send(method, &path, None))?;
        ensure!(answer.status == 404, "{method} {path}: {answer:?}");
    }
    Ok(())
}

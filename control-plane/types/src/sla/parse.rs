//! From JSON to [`Sla`]: shapes, ranges and required fields.

use serde_json::Value;

use super::{
    Addresses, Application, Connectivity, Constraint, FieldError, InstanceAddresses, InvalidSla,
    Microservice, SLA_VERSION, Sla, Volume,
    check::{check_microservice, check_unique},
    fields::{Fields, Problems},
};

/// Largest memory, storage and bandwidth: what a client with 32-bit numbers can read back.
const MAX_AMOUNT: u32 = i32::MAX as u32;
/// Largest number of CPUs, GPUs and TPUs.
const MAX_UNITS: u32 = 65_535;

impl Sla {
    /// Reads a descriptor and checks all that can be said of it alone; whether an address or a
    /// name is taken, the root says.
    ///
    /// # Errors
    /// Every problem, with its field and the reason.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidSla> {
        let invalid = |error: FieldError| InvalidSla { errors: vec![error] };
        let value: Value = serde_json::from_slice(json)
            .map_err(|error| invalid(FieldError::new("", format!("is not JSON: {error}"))))?;
        let problems = Problems::default();
        let sla = Fields::of(String::new(), &value, &problems).map(|top| sla(&top));
        let errors = problems.into_inner();
        match sla {
            Some(sla) if errors.is_empty() => Ok(sla),
            _ => Err(InvalidSla { errors }),
        }
    }
}

fn sla(top: &Fields<'_>) -> Sla {
    top.required("sla_version");
    let sla_version = top.text("sla_version");
    if !sla_version.is_empty() && sla_version != SLA_VERSION {
        top.problem("sla_version", format!("must be {SLA_VERSION:?}"));
    }
    top.required("applications");
    let objects = top.objects("applications");
    let applications: Vec<_> = objects.iter().map(application).collect();
    check_unique(&objects, "application_name", |i| {
        let app = &applications[i];
        (&app.application_name, &app.application_namespace)
    });
    Sla { sla_version, customer_id: top.text("customerID"), applications, args: top.texts("args") }
}

fn application(fields: &Fields<'_>) -> Application {
    fields.required("microservices");
    let objects = fields.objects("microservices");
    let microservices: Vec<_> = objects.iter().map(microservice).collect();
    check_unique(&objects, "microservice_name", |i| {
        let service = &microservices[i];
        (&service.microservice_name, &service.microservice_namespace)
    });
    Application {
        application_id: fields.text("applicationID"),
        application_name: fields.name("application_name"),
        application_namespace: fields.name("application_namespace"),
        application_desc: fields.text("application_desc"),
        microservices,
    }
}

fn microservice(fields: &Fields<'_>) -> Microservice {
    let microservice = Microservice {
        microservice_id: fields.text("microserviceID"),
        microservice_name: fields.name("microservice_name"),
        microservice_namespace: fields.name("microservice_namespace"),
        virtualization: fields.required_text("virtualization"),
        code: fields.required_text("code"),
        arch: fields.texts("arch"),
        platform: fields.text("platform"),
        memory: fields.number("memory", MAX_AMOUNT).into(),
        vcpus: fields.number("vcpus", MAX_UNITS),
        vgpus: fields.number("vgpus", MAX_UNITS),
        vtpus: fields.number("vtpus", MAX_UNITS),
        bandwidth_in: fields.number("bandwidth_in", MAX_AMOUNT).into(),
        bandwidth_out: fields.number("bandwidth_out", MAX_AMOUNT).into(),
        storage: fields.number("storage", MAX_AMOUNT).into(),
        state: fields.text("state"),
        port: fields.text_or_number("port"),
        cmd: fields.texts("cmd"),
        environment: fields.texts("environment"),
        one_shot: fields.flag("one_shot"),
        privileged: fields.flag("privileged"),
        added_files: fields.texts("added_files"),
        args: fields.texts("args"),
        sla_violation_strategy: fields.text("sla_violation_strategy"),
        target_node: fields.text("target_node"),
        addresses: fields.object("addresses").as_ref().map(addresses).unwrap_or_default(),
        volumes: fields.objects("volumes").iter().map(volume).collect(),
        constraints: fields.objects("constraints").iter().map(constraint).collect(),
        connectivity: fields.objects("connectivity").iter().map(connectivity).collect(),
    };
    check_microservice(fields, &microservice);
    microservice
}

fn addresses(fields: &Fields<'_>) -> Addresses {
    let addresses = Addresses {
        rr_ip: fields.address_v4("rr_ip"),
        rr_ip_v6: fields.address_v6("rr_ip_v6"),
        closest_ip: fields.address_v4("closest_ip"),
        closest_ip_v6: fields.address_v6("closest_ip_v6"),
        underutilized_ip: fields.address_v4("underutilized_ip"),
        underutilized_ip_v6: fields.address_v6("underutilized_ip_v6"),
        affinity_ip: fields.address_v4("affinity_ip"),
        affinity_ip_v6: fields.address_v6("affinity_ip_v6"),
        instances: fields
            .objects("instances")
            .iter()
            .map(|range| InstanceAddresses {
                from: range.number("from", MAX_AMOUNT),
                to: range.number("to", MAX_AMOUNT),
                start: range.text("start"),
            })
            .collect(),
    };
    super::check::check_addresses(fields, &addresses);
    addresses
}

fn volume(fields: &Fields<'_>) -> Volume {
    Volume {
        volume_id: fields.required_text("volume_id"),
        csi_driver: fields.required_text("csi_driver"),
        mount_path: fields.text("mount_path"),
        config: fields.object("config").map(|config| config.all_texts()).unwrap_or_default(),
    }
}

fn constraint(fields: &Fields<'_>) -> Constraint {
    Constraint {
        kind: fields.required_text("type"),
        area: fields.text("area"),
        cluster: fields.text("cluster"),
        node: fields.text("node"),
        location: fields.text("location"),
        threshold: fields.real("threshold"),
        rigidness: fields.real("rigidness"),
        convergence_time: fields.real("convergence_time"),
        needs: fields.texts("needs"),
        allowed: fields.texts("allowed"),
    }
}

fn connectivity(fields: &Fields<'_>) -> Connectivity {
    fields.required("con_constraints");
    Connectivity {
        target_microservice_id: fields.required_text("target_microservice_id"),
        con_constraints: fields.objects("con_constraints").iter().map(constraint).collect(),
    }
}

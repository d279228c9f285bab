//! The table of a service's instances.

use std::{io, net::IpAddr};

use xylem_types::job::JobInstance;

use crate::{
    output::{self, Format},
    table::Table,
};

/// # Errors
/// Those of the writer.
pub(super) fn render(
    out: &mut impl io::Write,
    format: Format,
    instances: &[JobInstance],
) -> io::Result<()> {
    output::list(out, format, instances, |instances| {
        let mut table = Table::new([
            "NUMBER",
            "STATUS",
            "CLUSTER",
            "WORKER",
            "NODE-IP",
            "NAMESPACE-IP",
            "INSTANCE-IP",
            "DETAIL",
        ])
        .right_aligned(&[0]);
        for instance in instances {
            table.row([
                instance.instance_number.to_string(),
                instance.status.to_string(),
                first_named([&instance.cluster_name, &instance.cluster_id]),
                worker(instance),
                instance.host_ip.clone(),
                either(instance.namespace_ip, instance.namespace_ip_v6),
                either(instance.instance_ip, instance.instance_ip_v6),
                instance.status_detail.clone(),
            ]);
        }
        table
    })
}

/// The name for people and the start of the id, since workers of one machine share its name.
fn worker(instance: &JobInstance) -> String {
    let short_id: String = instance.worker_id.chars().take(8).collect();
    match (instance.worker_name.as_str(), short_id.as_str()) {
        ("", _) => short_id,
        (name, "") => name.to_owned(),
        (name, id) => format!("{name} ({id})"),
    }
}

fn first_named(names: [&String; 2]) -> String {
    names.into_iter().find(|name| !name.is_empty()).cloned().unwrap_or_default()
}

fn either(v4: Option<impl Into<IpAddr>>, v6: Option<impl Into<IpAddr>>) -> String {
    v4.map(Into::into).or(v6.map(Into::into)).map_or(String::new(), |ip: IpAddr| ip.to_string())
}

#[cfg(test)]
pub(super) mod samples {
    use xylem_types::{
        instance::InstanceStatus,
        job::{Job, JobInstance, no_status},
        mqtt::{IpType, ServiceAddress},
        sla::Microservice,
    };

    pub(in super::super) fn job(id: &str, job_name: &str) -> Job {
        let mut parts = job_name.split('.').map(str::to_owned);
        let mut part = || parts.next().unwrap();
        Job {
            id: id.into(),
            application_id: "a1".into(),
            job_name: job_name.into(),
            app_name: part(),
            app_ns: part(),
            service_name: part(),
            service_ns: part(),
            image: "registry.local/web:1".into(),
            status: no_status(),
            status_detail: String::new(),
            rr_ip: "10.30.0.2".parse().unwrap(),
            rr_ip_v6: Some("fdff:2000::2".parse().unwrap()),
            service_ip_list: (2u8..)
                .zip([
                    (IpType::RoundRobin, 2),
                    (IpType::Closest, 1),
                    (IpType::Underutilized, 3),
                    (IpType::Affinity, 4),
                ])
                .map(|(last, (ip_type, range))| ServiceAddress {
                    ip_type,
                    address: Some([10, 30, 0, last].into()),
                    address_v6: Some(format!("fdff:{range}000::2").parse().unwrap()),
                })
                .collect(),
            next_instance_progressive_number: 0,
            instance_list: Vec::new(),
            sla: Microservice {
                virtualization: "docker".into(),
                memory: 64,
                vcpus: 1,
                port: "8080:80".into(),
                ..Microservice::default()
            },
        }
    }

    pub(in super::super) fn instance(number: u32, status: InstanceStatus) -> JobInstance {
        JobInstance {
            instance_number: number,
            status,
            status_detail: String::new(),
            cluster_id: String::new(),
            cluster_location: String::new(),
            publicip: String::new(),
            worker_id: String::new(),
            host_ip: String::new(),
            host_port: 0,
            cpu_percent: String::new(),
            memory_percent: String::new(),
            disk: String::new(),
            logs: String::new(),
            cpu_history: Vec::new(),
            memory_history: Vec::new(),
            last_modified_timestamp: 0.0,
            generation: 0,
            cluster_name: String::new(),
            worker_name: String::new(),
            instance_ip: None,
            instance_ip_v6: None,
            namespace_ip: None,
            namespace_ip_v6: None,
            replaces: None,
        }
    }

    pub(in super::super) fn running(number: u32) -> JobInstance {
        let last = u8::try_from(number).unwrap();
        JobInstance {
            cluster_id: "c1".into(),
            cluster_name: "munich".into(),
            worker_id: "0a1b2c3d-4e5f".into(),
            worker_name: "rack4".into(),
            host_ip: "192.0.2.11".into(),
            host_port: 50103,
            instance_ip: Some([10, 30, 1, last].into()),
            namespace_ip: Some([10, 18, 0, 2 + last].into()),
            ..instance(number, InstanceStatus::Running)
        }
    }
}

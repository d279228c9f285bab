//! `xylem service inspect`

use std::io;

use clap::Args;
use xylem_types::{
    job::Job,
    mqtt::{IpType, ServiceAddress},
};

use super::{instances, resolve};
use crate::{
    client::Client,
    output::{self, Format},
    table::{Facts, Table},
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem service inspect web
  xylem service inspect shop.prod.web.front --output json")]
pub(crate) struct InspectArgs {
    /// Id, full name app.appns.service.servicens, or service name if unique
    service: String,
}

/// # Errors
/// When the root cannot be reached or refuses, the service is not there, or the writer fails.
pub(super) async fn run(
    client: &mut Client,
    args: InspectArgs,
    format: Format,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    let id = resolve::find(client, &args.service).await?.id;
    let job = resolve::get(client, &id).await?;
    Ok(render(out, format, &job)?)
}

fn render(out: &mut impl io::Write, format: Format, job: &Job) -> io::Result<()> {
    if format == Format::Json {
        return output::json(out, job);
    }
    let limit = |amount: u64, unit: &str| match amount {
        0 => "no limit".to_owned(),
        amount => format!("{amount}{unit}"),
    };
    let mut facts = Facts::default();
    facts
        .add("id", job.id.as_str())
        .add("name", job.job_name.as_str())
        .add("application", job.application_id.as_str())
        .add("status", job.status.as_str())
        .add("detail", job.status_detail.as_str())
        .add("image", job.image.as_str())
        .add("runtime", job.sla.virtualization.as_str())
        .add("memory", limit(job.sla.memory, " MB"))
        .add("vcpus", limit(job.sla.vcpus.into(), ""))
        .add("ports", job.sla.port.as_str());
    facts.write_to(out)?;
    writeln!(out)?;
    service_ips(job).write_to(out)?;
    writeln!(out)?;
    instances::render(out, format, &job.instance_list)
}

/// One line a policy.
fn service_ips(job: &Job) -> Table {
    let mut table = Table::new(["POLICY", "IPV4", "IPV6"]);
    // A root that knows no other policy does not list this one either.
    let round_robin = ServiceAddress {
        ip_type: IpType::RoundRobin,
        address: Some(job.rr_ip),
        address_v6: job.rr_ip_v6,
    };
    let listed = job.service_ip_list.as_slice();
    let addresses = if listed.is_empty() { std::slice::from_ref(&round_robin) } else { listed };
    for address in addresses {
        table.row([
            policy_name(address.ip_type).to_owned(),
            address.address.map_or(String::new(), |ip| ip.to_string()),
            address.address_v6.map_or(String::new(), |ip| ip.to_string()),
        ]);
    }
    table
}

fn policy_name(policy: IpType) -> &'static str {
    match policy {
        IpType::RoundRobin => "round robin",
        IpType::Closest => "closest",
        IpType::Underutilized => "underutilized",
        IpType::Affinity => "affinity",
        IpType::Instance => "instance",
    }
}

#[cfg(test)]
mod tests {
    use xylem_types::{instance::InstanceStatus, job::JobInstance};

    use super::{
        super::instances::samples::{instance, job, running},
        *,
    };

    fn sample() -> Job {
        let failed = JobInstance {
            status_detail: "registry.local: connection refused\nafter 3 tries".into(),
            cluster_id: "c1".into(),
            instance_ip: Some([10, 30, 1, 1].into()),
            ..instance(1, InstanceStatus::Failed)
        };
        Job {
            status: InstanceStatus::Failed,
            instance_list: vec![running(0), failed],
            ..job("j1", "shop.prod.web.a")
        }
    }

    #[test]
    fn every_instance_is_shown_with_its_place_and_addresses() {
        let mut out = Vec::new();
        render(&mut out, Format::Table, &sample()).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
id:          j1
name:        shop.prod.web.a
application: a1
status:      FAILED
detail:      -
image:       registry.local/web:1
runtime:     docker
memory:      64 MB
vcpus:       1
ports:       8080:80

POLICY          IPV4        IPV6
round robin     10.30.0.2   fdff:2000::2
closest         10.30.0.3   fdff:1000::2
underutilized   10.30.0.4   fdff:3000::2
affinity        10.30.0.5   fdff:4000::2

NUMBER   STATUS    CLUSTER   WORKER             NODE-IP      NAMESPACE-IP   INSTANCE-IP   DETAIL
     0   RUNNING   munich    rack4 (0a1b2c3d)   192.0.2.11   10.18.0.2      10.30.1.0     -
     1   FAILED    c1        -                  -            -              10.30.1.1     registry.local: connection refused after 3 tries
"
        );
    }

    #[test]
    fn of_an_older_root_the_address_that_it_knows_is_shown() {
        let older = Job { service_ip_list: Vec::new(), ..sample() };
        let mut out = Vec::new();
        render(&mut out, Format::Table, &older).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("IPV6\nround robin   10.30.0.2   fdff:2000::2\n\n"), "{out}");
    }

    #[test]
    fn json_is_the_document_as_the_root_gave_it() {
        let mut out = Vec::new();
        render(&mut out, Format::Json, &sample()).unwrap();
        assert_eq!(serde_json::from_slice::<Job>(&out).unwrap(), sample());
    }
}

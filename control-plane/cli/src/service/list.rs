//! `xylem service list`

use std::io;

use clap::Args;
use xylem_types::{instance::InstanceStatus, job::Job};

use super::resolve;
use crate::{
    app,
    client::Client,
    output::{self, Format},
    table::Table,
};

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those of this application: id, name, or name.namespace
    #[arg(long, value_name = "APP")]
    app: Option<String>,
}

/// # Errors
/// When the root cannot be reached or refuses, or the writer fails.
pub(super) async fn run(
    client: &mut Client,
    args: ListArgs,
    format: Format,
    out: &mut impl io::Write,
) -> anyhow::Result<()> {
    let mut services = resolve::all(client).await?;
    if let Some(app) = args.app {
        let app = app::find(client, &app).await?;
        services.retain(|job| job.application_id == app.id);
    }
    Ok(render(out, format, &services)?)
}

/// # Errors
/// Those of the writer.
pub(crate) fn render(out: &mut impl io::Write, format: Format, services: &[Job]) -> io::Result<()> {
    output::list(out, format, services, |services| {
        let mut table =
            Table::new(["ID", "NAME", "STATUS", "RUNNING", "SERVICE-IP", "RUNTIME", "IMAGE"])
                .right_aligned(&[3]);
        for job in services {
            let is_running = |status: &InstanceStatus| *status == InstanceStatus::Running;
            let running = job.instance_list.iter().filter(|i| is_running(&i.status)).count();
            table.row([
                job.id.clone(),
                job.job_name.clone(),
                job.status.to_string(),
                format!("{running}/{}", job.instance_list.len()),
                job.rr_ip.to_string(),
                job.sla.virtualization.clone(),
                job.image.clone(),
            ]);
        }
        table
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::instances::samples::{instance, job, running},
        *,
    };

    #[test]
    fn the_table_counts_running_instances() {
        let mut web = job("j1", "shop.prod.web.a");
        web.status = InstanceStatus::Requested;
        web.instance_list = vec![running(0), instance(1, InstanceStatus::Requested)];
        let services = [job("j2", "shop.prod.db.a"), web];
        let mut out = Vec::new();
        render(&mut out, Format::Table, &services).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
ID   NAME              STATUS      RUNNING   SERVICE-IP   RUNTIME   IMAGE
j2   shop.prod.db.a    -               0/0   10.30.0.2    docker    registry.local/web:1
j1   shop.prod.web.a   REQUESTED       1/2   10.30.0.2    docker    registry.local/web:1
"
        );
    }
}

//! `xylem service scale`

use std::{collections::BTreeSet, io::Write};

use anyhow::bail;
use clap::Args;
use xylem_types::{
    instance::InstanceStatus,
    job::{Job, JobInstance},
};

use super::{
    deploy, instances, resolve, undeploy,
    wait::{Goal, WaitArgs, wait},
};
use crate::{client::Client, confirm::Confirmation, output::Format};

/// More at a time is a slip of the finger.
pub(super) const INSTANCES_MAX: i64 = 1_000;

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem service scale web 3 --wait
  xylem service scale shop.prod.web.front 0 --yes

To have fewer, those that do not run are stopped first, then the newest.")]
pub(crate) struct ScaleArgs {
    /// Id, full name app.appns.service.servicens, or service name if unique
    service: String,
    /// How many instances there shall be
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(0..=INSTANCES_MAX))]
    count: u32,
    /// Only asked when scaling to 0
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    waiting: WaitArgs,
}

/// # Errors
/// When the root cannot be reached or refuses, the service is not there, nobody confirms the
/// end of the service, or, when waited for, an instance does not run.
pub(super) async fn run(
    client: &mut Client,
    args: ScaleArgs,
    format: Format,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let service = resolve::find(client, &args.service).await?;
    let change = plan(&service.instance_list, args.count);
    let question = format!("stop all instances of {}?", service.job_name);
    if args.count == 0 && !change.stop.is_empty() && !args.confirmation.ask(&question)? {
        bail!("not scaled");
    }
    for number in &change.stop {
        undeploy::stop(client, &service, &number.to_string()).await?;
    }
    let started = deploy::start(client, &service, change.start).await?;
    let outcome = if args.waiting.wait {
        let kept = change.keep.union(&started).copied().collect();
        match wait(client, &service, &Goal::Gone(change.stop), &args.waiting).await {
            Ok(()) => wait(client, &service, &Goal::Running(kept), &args.waiting).await,
            failed => failed,
        }
    } else {
        Ok(())
    };
    let job: Job = resolve::get(client, &service.id).await?;
    instances::render(out, format, &job.instance_list)?;
    outcome
}

/// What to do to have a number of instances.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    keep: BTreeSet<u32>,
    stop: BTreeSet<u32>,
    start: u32,
}

fn plan(instances: &[JobInstance], count: u32) -> Change {
    let mut present: Vec<_> =
        instances.iter().filter(|i| i.status != InstanceStatus::Undeployed).collect();
    // The first are kept: those that run or will, and among them the oldest.
    present.sort_by_key(|instance| (preference(&instance.status), instance.instance_number));
    let mut numbers = present.into_iter().map(|instance| instance.instance_number);
    let keep: BTreeSet<u32> = numbers.by_ref().take(count as usize).collect();
    let start = count.saturating_sub(u32::try_from(keep.len()).unwrap_or(u32::MAX));
    Change { keep, stop: numbers.collect(), start }
}

/// The smaller, the more an instance is worth keeping.
fn preference(status: &InstanceStatus) -> u8 {
    use InstanceStatus::{
        ClusterScheduled, Completed, Created, Creating, NodeScheduled, Requested, Running,
    };
    match status {
        Running | Completed => 0,
        NodeScheduled | Creating | Created => 1,
        Requested | ClusterScheduled => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::instances::samples::{instance, running},
        *,
    };

    #[test]
    fn more_are_started_and_none_is_stopped() {
        let change = plan(&[running(0), running(4)], 3);
        assert_eq!(change, Change { keep: [0, 4].into(), stop: [].into(), start: 1 });
    }

    #[test]
    fn those_that_do_not_run_go_first_and_then_the_newest() {
        let instances = [
            instance(0, InstanceStatus::Failed),
            running(1),
            running(2),
            instance(3, InstanceStatus::Requested),
            running(4),
        ];
        assert_eq!(
            plan(&instances, 2),
            Change { keep: [1, 2].into(), stop: [0, 3, 4].into(), start: 0 }
        );
        assert_eq!(plan(&instances, 4).stop, [0].into());
        assert_eq!(plan(&instances, 0).keep, [].into());
    }

    #[test]
    fn those_that_are_on_their_way_out_do_not_count() {
        let change = plan(&[running(0), instance(1, InstanceStatus::Undeployed)], 2);
        assert_eq!(change, Change { keep: [0].into(), stop: [].into(), start: 1 });
    }

    #[test]
    fn as_many_as_there_are_is_nothing_to_do() {
        let change = plan(&[running(0)], 1);
        assert_eq!(change, Change { keep: [0].into(), stop: [].into(), start: 0 });
    }
}

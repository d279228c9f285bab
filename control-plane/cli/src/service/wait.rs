//! Waiting until instances run, or are gone.

use std::{collections::BTreeSet, time::Duration};

use anyhow::bail;
use clap::Args;
use tokio::time::{Instant, sleep};
use xylem_types::{
    instance::InstanceStatus,
    job::{Job, JobInstance},
};

use super::resolve;
use crate::{client::Client, progress::Progress};

const POLL_INTERVAL: Duration = Duration::from_millis(300);

#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    /// Wait for the result; it is an error if an instance fails
    #[arg(long, short)]
    pub(super) wait: bool,
    /// How long to wait
    #[arg(long, value_name = "SECONDS", default_value_t = 120, requires = "wait")]
    timeout: u64,
}

/// What is waited for, by instance numbers.
#[derive(Debug)]
pub(super) enum Goal {
    Running(BTreeSet<u32>),
    Gone(BTreeSet<u32>),
}

/// What one look at the service says.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Reached,
    /// Not yet; how far it is.
    Pending(String),
    /// It will not be by itself; why.
    Failed(String),
}

/// Asks until the goal is reached. A root that cannot be reached meanwhile is asked again.
///
/// # Errors
/// When an instance fails, when the time is over, or when the root refuses.
pub(super) async fn wait(
    client: &mut Client,
    service: &Job,
    goal: &Goal,
    args: &WaitArgs,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    let mut progress = Progress::start();
    loop {
        let state = match resolve::get(client, &service.id).await {
            Ok(job) => match goal.look(&job) {
                Look::Reached => return Ok(()),
                Look::Failed(why) => bail!("{}: {why}", service.job_name),
                Look::Pending(state) => state,
            },
            Err(error) if error.is_transient() => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        progress.say(format!("{}: {state}", service.job_name));
        if Instant::now() >= deadline {
            bail!("{}: not after {} s: {state}", service.job_name, args.timeout);
        }
        sleep(POLL_INTERVAL).await;
    }
}

impl Goal {
    fn look(&self, job: &Job) -> Look {
        match self {
            Self::Running(numbers) => look_for_running(job, numbers),
            Self::Gone(numbers) => look_for_gone(job, numbers),
        }
    }
}

fn look_for_running(job: &Job, numbers: &BTreeSet<u32>) -> Look {
    let mut running = 0;
    let mut pending = Vec::new();
    for &number in numbers {
        let Some(instance) = job.instance_list.iter().find(|i| i.instance_number == number) else {
            return Look::Failed(format!("instance {number} was removed meanwhile"));
        };
        match phase(&instance.status) {
            Phase::Running => running += 1,
            Phase::Pending => pending.push(told(instance)),
            Phase::Failed => return Look::Failed(told(instance)),
        }
    }
    if pending.is_empty() {
        return Look::Reached;
    }
    Look::Pending(format!("{running} of {} running; {}", numbers.len(), pending.join("; ")))
}

/// An instance stays listed as UNDEPLOYED until its cluster has confirmed that it is gone.
fn look_for_gone(job: &Job, numbers: &BTreeSet<u32>) -> Look {
    let left: Vec<_> = job
        .instance_list
        .iter()
        .filter(|i| numbers.contains(&i.instance_number))
        .map(told)
        .collect();
    if left.is_empty() {
        return Look::Reached;
    }
    Look::Pending(format!("{} of {} still there; {}", left.len(), numbers.len(), left.join("; ")))
}

fn told(instance: &JobInstance) -> String {
    let JobInstance { instance_number, status, status_detail, .. } = instance;
    match status_detail.trim() {
        "" => format!("instance {instance_number} {status}"),
        detail => format!("instance {instance_number} {status} ({detail})"),
    }
}

enum Phase {
    Pending,
    Running,
    Failed,
}

fn phase(status: &InstanceStatus) -> Phase {
    match status {
        InstanceStatus::Running | InstanceStatus::Completed => Phase::Running,
        InstanceStatus::Requested
        | InstanceStatus::ClusterScheduled
        | InstanceStatus::NodeScheduled
        | InstanceStatus::Creating
        | InstanceStatus::Created
        // One that a newer root knows; if it is a bad one, the time ends the wait.
        | InstanceStatus::Other(_) => Phase::Pending,
        InstanceStatus::Dead
        | InstanceStatus::Failed
        | InstanceStatus::Undeployed
        | InstanceStatus::TargetClusterNotFound
        | InstanceStatus::TargetClusterNotActive
        | InstanceStatus::TargetClusterNoCapacity
        | InstanceStatus::NoActiveClusterWithCapacity
        | InstanceStatus::NoWorkerCapacity
        | InstanceStatus::NoQualifiedWorkerFound => Phase::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::instances::samples::{instance, job, running},
        *,
    };

    fn service(instances: Vec<JobInstance>) -> Job {
        Job { instance_list: instances, ..job("j1", "shop.prod.web.a") }
    }

    #[test]
    fn the_goal_is_reached_when_all_that_were_asked_for_run() {
        let goal = Goal::Running([0, 1].into());
        let creating = instance(1, InstanceStatus::Creating);
        assert_eq!(
            goal.look(&service(vec![running(0), creating])),
            Look::Pending("1 of 2 running; instance 1 CREATING".to_owned())
        );
        let stranger = instance(7, InstanceStatus::Failed);
        assert_eq!(goal.look(&service(vec![running(0), running(1), stranger])), Look::Reached);
    }

    #[test]
    fn a_failed_instance_ends_the_wait_with_its_cause() {
        let failed = JobInstance {
            status_detail: "no such image".to_owned(),
            ..instance(1, InstanceStatus::Failed)
        };
        assert_eq!(
            Goal::Running([0, 1].into()).look(&service(vec![running(0), failed])),
            Look::Failed("instance 1 FAILED (no such image)".to_owned())
        );
        assert_eq!(
            Goal::Running([5].into()).look(&service(vec![running(0)])),
            Look::Failed("instance 5 was removed meanwhile".to_owned())
        );
    }

    #[test]
    fn gone_means_that_the_cluster_confirmed_it() {
        let goal = Goal::Gone([0, 1].into());
        let undeployed = JobInstance {
            status_detail: "waiting for its cluster".to_owned(),
            ..instance(0, InstanceStatus::Undeployed)
        };
        assert_eq!(
            goal.look(&service(vec![undeployed, running(2)])),
            Look::Pending(
                "1 of 2 still there; instance 0 UNDEPLOYED (waiting for its cluster)".to_owned()
            )
        );
        assert_eq!(goal.look(&service(vec![running(2)])), Look::Reached);
    }
}

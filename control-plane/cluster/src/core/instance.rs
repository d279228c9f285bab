//! One instance that the cluster runs for its root.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use xylem_types::{
    instance::{Generation, InstanceStatus},
    load::told_percent,
    mqtt::{DeployCommand, InstanceUsage, NetDeployed},
    session::{InstanceKey, Observed, Placement},
};

use super::{Settings, Time, Worker};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// What the root wants. The generation in it is the root's; ours may be ahead.
    pub placement: Placement,
    pub generation: Generation,
    /// Whether a worker was told to run `generation`. If so, the next placement needs another.
    pub given: bool,
    /// Where it is, or was last.
    pub worker: Option<String>,
    pub phase: Phase,
    pub status: InstanceStatus,
    pub status_detail: String,
    #[serde(default)]
    pub publicip: String,
    /// Its place in the network, once its worker has attached it.
    #[serde(default)]
    pub attached: Option<Attachment>,
    /// How long it drains, where the root has said so.
    #[serde(default)]
    pub drain_grace: Option<Duration>,
    #[serde(skip)]
    pub(super) live: Live,
}

/// What the cluster does about an instance. The status is what users see of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Needs a worker. `recoverable`: its worker was lost, and may still run it when it returns.
    Waiting { recoverable: bool },
    /// Given to `worker`.
    Placed,
    /// Over, until the root says something new.
    Ended,
    /// The root no longer wants it. It runs on for a while, so that its flows can end; who dials
    /// it was told to open no new ones.
    Draining,
    /// The root no longer wants it, and `worker` has not confirmed that it is gone. `reported`:
    /// the root was told that it is, since the worker is lost; the record stays for the worker's
    /// return.
    Deleting { reported: bool },
}

/// Where an instance is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub namespace_ip: Option<Ipv4Addr>,
    pub namespace_ip_v6: Option<Ipv6Addr>,
    pub host_ip: String,
    pub host_port: u16,
}

/// What need not survive a restart of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Live {
    /// While waiting: when to look for a worker.
    pub(super) place_at: Time,
    /// While waiting: why it lost its last place.
    pub(super) cause: String,
    /// While placed or being deleted: when the command is repeated.
    pub(super) resend_at: Time,
    /// When the present phase began.
    pub(super) since: Time,
    /// The worker has reported about the present generation.
    pub(super) acknowledged: bool,
    /// When the worker last listed it among what it runs.
    pub(super) listed_at: Option<Time>,
    pub(super) running_since: Option<Time>,
    /// Starts in a row that ended by themselves soon.
    pub(super) restarts: u32,
    pub(super) usage: Usage,
    /// `usage` is not yet reported to the root.
    pub(super) usage_new: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Usage {
    cpu_percent: f64,
    memory_percent: f64,
    disk: u64,
    logs: String,
}

impl Instance {
    pub(super) fn new(placement: Placement, generation: Generation) -> Self {
        Self {
            placement,
            generation,
            given: false,
            worker: None,
            phase: Phase::Waiting { recoverable: false },
            status: InstanceStatus::ClusterScheduled,
            status_detail: String::new(),
            publicip: String::new(),
            attached: None,
            drain_grace: None,
            live: Live::default(),
        }
    }

    pub fn job_name(&self) -> &str {
        &self.placement.command.job_name
    }

    pub fn number(&self) -> u32 {
        self.placement.command.instance_number
    }

    /// What its worker is told.
    pub(super) fn command(&self) -> DeployCommand {
        DeployCommand { generation: self.generation, ..self.placement.command.clone() }
    }

    /// Whether it takes room on its worker.
    pub(super) fn occupies(&self) -> bool {
        matches!(self.phase, Phase::Placed | Phase::Draining | Phase::Deleting { reported: false })
    }

    /// Its place in the network, if it can be dialled there.
    pub(super) fn dialable(&self) -> Option<&Attachment> {
        self.attached.as_ref().filter(|_| matches!(self.phase, Phase::Placed | Phase::Draining))
    }

    pub(super) fn being_deleted(&self) -> bool {
        matches!(self.phase, Phase::Deleting { .. })
    }

    pub(super) fn draining(&self) -> bool {
        self.phase == Phase::Draining
    }

    /// The root no longer wants it.
    pub(super) fn unwanted(&self) -> bool {
        self.draining() || self.being_deleted()
    }

    /// Percent of one CPU, once its worker has said.
    pub(super) fn cpu_percent(&self) -> Option<f32> {
        self.live.listed_at.map(|_| told_percent(self.live.usage.cpu_percent))
    }

    /// The root was told that it is gone.
    pub(super) fn removed_for_root(&self) -> bool {
        self.phase == Phase::Deleting { reported: true }
    }

    /// Goes to `phase`, showing `status` with its reason.
    pub(super) fn turn(&mut self, phase: Phase, status: InstanceStatus, detail: String, now: Time) {
        self.phase = phase;
        self.status = status;
        self.status_detail = detail;
        self.live.since = now;
        self.live.running_since = None;
    }

    /// How long to wait before the next start, which counts as one more in a row unless the
    /// instance had become stable.
    pub(super) fn back_off(&mut self, settings: &Settings, now: Time) -> Duration {
        let stable = self.live.running_since.is_some_and(|t| now >= t + settings.stable_after);
        if stable {
            self.live.restarts = 0;
        }
        let factor = 2u32.saturating_pow(self.live.restarts.min(16));
        self.live.restarts += 1;
        settings.restart_after.saturating_mul(factor).min(settings.restart_after_max)
    }

    pub(super) fn observed(&self, key: &InstanceKey, worker: Option<&Worker>) -> Observed {
        let at = self.dialable();
        let usage = &self.live.usage;
        // A worker that was never told of it, or no longer runs it, is not where it is.
        let worker = worker.filter(|_| !matches!(self.phase, Phase::Waiting { .. }));
        Observed {
            key: key.clone(),
            generation: self.generation,
            status: self.status.clone(),
            status_detail: self.status_detail.clone(),
            worker_id: worker.and(self.worker.clone()),
            worker_name: worker.map(|w| w.node.host.clone()).unwrap_or_default(),
            host_ip: at.map(|a| a.host_ip.clone()).unwrap_or_default(),
            host_port: at.map(|a| a.host_port).unwrap_or_default(),
            publicip: self.publicip.clone(),
            namespace_ip: at.and_then(|a| a.namespace_ip),
            namespace_ip_v6: at.and_then(|a| a.namespace_ip_v6),
            cpu_percent: usage.cpu_percent,
            memory_percent: usage.memory_percent,
            disk: usage.disk,
            logs: usage.logs.clone(),
        }
    }
}

impl Attachment {
    /// `None` when the message has no namespace IP that can be read.
    pub(super) fn of(event: &NetDeployed) -> Option<Self> {
        let namespace_ip = event.nsip.parse().ok();
        let namespace_ip_v6 = event.nsipv6.parse().ok();
        (namespace_ip.is_some() || namespace_ip_v6.is_some()).then(|| Self {
            namespace_ip,
            namespace_ip_v6,
            host_ip: event.host_ip.clone(),
            host_port: event.host_port,
        })
    }
}

impl Usage {
    /// Numbers that cannot be read count as nothing used.
    pub(super) fn of(usage: InstanceUsage) -> Self {
        let percent =
            |text: &str| text.trim().parse().ok().filter(|p: &f64| p.is_finite()).unwrap_or(0.0);
        Self {
            cpu_percent: percent(&usage.cpu_percent),
            memory_percent: percent(&usage.memory_percent),
            disk: usage.disk.trim().parse().unwrap_or(0),
            logs: usage.logs,
        }
    }
}

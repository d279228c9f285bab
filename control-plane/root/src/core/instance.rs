//! One instance: from the wish to have it until its cluster has confirmed that it is gone.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xylem_types::{
    instance::{Generation, InstanceStatus},
    job::Job,
    mqtt::{DeployCommand, UpdateKind},
    session::{Drain, FromRoot, InstanceKey, Observed, Placement},
};

use super::{account::Caller, ipam::AddressPair, moment::Moment, refusal::Refusal, state::State};

/// An instance as it is in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instance {
    /// The service's name: a tombstone outlives its service.
    pub(crate) job_name: String,
    /// Of the last placement, by the root or, within it, by the cluster; 0 = none yet.
    pub(crate) generation: Generation,
    pub(crate) status: InstanceStatus,
    pub(crate) status_detail: String,
    /// Who shall run it; none while a cluster is sought.
    pub(crate) cluster_id: Option<String>,
    /// A tombstone: shall not run, and is forgotten once the cluster has confirmed that.
    pub(crate) removing: bool,
    /// It could be dialled when it became a tombstone, and may have flows until it is gone.
    #[serde(default)]
    pub(crate) draining: bool,
    /// Number of the instance whose place it is to take.
    #[serde(default)]
    pub(crate) replaces: Option<u32>,
    pub(crate) instance_ip: Ipv4Addr,
    pub(crate) instance_ip_v6: Ipv6Addr,
    pub(crate) site: Site,
    pub(crate) modified: Timestamp,
}

/// Where the instance runs, as its cluster reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Site {
    pub(crate) worker_id: String,
    pub(crate) worker_name: String,
    pub(crate) host_ip: String,
    pub(crate) host_port: u16,
    pub(crate) publicip: String,
    pub(crate) namespace_ip: Option<Ipv4Addr>,
    pub(crate) namespace_ip_v6: Option<Ipv6Addr>,
}

/// Shown of a tombstone until its cluster says more.
const NOT_CONFIRMED: &str = "waiting until its cluster confirms that it is gone";

impl From<&Observed> for Site {
    fn from(observed: &Observed) -> Self {
        Self {
            worker_id: observed.worker_id.clone().unwrap_or_default(),
            worker_name: observed.worker_name.clone(),
            host_ip: observed.host_ip.clone(),
            host_port: observed.host_port,
            publicip: observed.publicip.clone(),
            namespace_ip: observed.namespace_ip,
            namespace_ip_v6: observed.namespace_ip_v6,
        }
    }
}

impl Instance {
    /// Whether a cluster that has nothing of it shall be told to run it. One that completed shall
    /// not run again.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.removing && self.status != InstanceStatus::Completed
    }

    /// Whether it waits for a place: no cluster has it, or the one that has it found none.
    pub(crate) fn seeks_cluster(&self) -> bool {
        let refused = matches!(
            self.status,
            InstanceStatus::NoWorkerCapacity | InstanceStatus::NoQualifiedWorkerFound
        );
        self.is_wanted() && (self.cluster_id.is_none() || refused)
    }

    pub(crate) fn addresses(&self) -> AddressPair {
        AddressPair { v4: self.instance_ip, v6: self.instance_ip_v6 }
    }
}

/// What the cluster needs to run the instance.
pub(crate) fn placement(job: &Job, key: &InstanceKey, generation: Generation) -> Placement {
    let (_, allowed_nodes) = job.sla.direct_targets();
    Placement {
        job_id: job.id.clone(),
        command: DeployCommand {
            job_name: job.job_name.clone(),
            instance_number: key.instance_number,
            generation,
            virtualization: job.sla.virtualization.clone(),
            image: job.image.clone(),
            memory: job.sla.memory,
            vcpus: job.sla.vcpus.into(),
            cmd: job.sla.cmd.clone(),
            environment: job.sla.environment.clone(),
            one_shot: job.sla.one_shot,
            privileged: job.sla.privileged,
            port: job.sla.port.clone(),
        },
        allowed_nodes,
        vgpus: job.sla.vgpus,
    }
}

impl State {
    /// Adds an instance to the service and looks for a cluster; that there is none now is a
    /// status and no error. Returns the instance's number.
    pub(crate) fn deploy(
        &mut self,
        caller: &Caller,
        job_id: &str,
        now: Moment,
    ) -> Result<u32, Refusal> {
        let job = self.service(caller, job_id)?.clone();
        self.add_instance(job, None, now)
    }

    /// As [`Self::deploy`], for an instance that is to take the place of another, if one is named.
    /// When it is refused nothing was changed.
    pub(crate) fn add_instance(
        &mut self,
        mut job: Job,
        replaces: Option<u32>,
        now: Moment,
    ) -> Result<u32, Refusal> {
        let number = job.next_instance_progressive_number;
        job.next_instance_progressive_number = number.checked_add(1).ok_or(Refusal::Exhausted {
            what: "instance numbers",
            all: 1 << 32,
            remedy: "make a new service",
        })?;
        let key = InstanceKey { job_id: job.id.clone(), instance_number: number };
        let addresses = self.ipam.instance(&key, &job.sla.addresses)?;
        let instance = Instance {
            job_name: job.job_name.clone(),
            generation: 0,
            status: InstanceStatus::Requested,
            status_detail: String::new(),
            cluster_id: None,
            removing: false,
            draining: false,
            replaces,
            instance_ip: addresses.v4,
            instance_ip_v6: addresses.v6,
            site: Site::default(),
            modified: now.wall,
        };
        self.services.put(job.id.clone(), job);
        self.instances.put(key.clone(), instance);
        self.place(&key, now);
        Ok(number)
    }

    /// Removes the instance of that number, or all.
    pub(crate) fn scale_down(
        &mut self,
        caller: &Caller,
        job_id: &str,
        number: Option<u32>,
        now: Moment,
    ) -> Result<(), Refusal> {
        self.service(caller, job_id)?;
        let Some(instance_number) = number else {
            for key in self.keys_of(job_id) {
                self.undeploy(&key, Drain::IfDialled, None, now);
            }
            return Ok(());
        };
        let key = InstanceKey { job_id: job_id.to_owned(), instance_number };
        if !self.instances.contains(&key) {
            return Err(Refusal::not_found("instance", &instance_number.to_string()));
        }
        // Who removes an instance that is being replaced wants one less, not another one.
        for successor in self.successors_of(&key) {
            self.undeploy(&successor, Drain::Always, None, now);
        }
        self.undeploy(&key, Drain::Always, None, now);
        Ok(())
    }

    /// Removes every instance of a service that goes itself. Nobody elsewhere is told of it yet:
    /// who asked now would hear that there is no such service, and forget where its flows lead.
    pub(crate) fn bury_all(&mut self, job_id: &str, now: Moment) {
        for key in self.keys_of(job_id) {
            self.bury(&key, Drain::IfDialled, None, now);
        }
    }

    /// Removes the instance, which may drain for `grace` if that is said.
    pub(crate) fn undeploy(
        &mut self,
        key: &InstanceKey,
        drain: Drain,
        grace: Option<Duration>,
        now: Moment,
    ) {
        let before = self.entry(key);
        self.bury(key, drain, grace, now);
        self.announce(key, before);
    }

    /// Turns the instance into a tombstone, or forgets it at once when no cluster has it.
    fn bury(&mut self, key: &InstanceKey, drain: Drain, grace: Option<Duration>, now: Moment) {
        let Some(mut instance) = self.instances.get(key).cloned() else { return };
        let Some(cluster_id) = instance.cluster_id.clone() else {
            self.forget(key);
            return;
        };
        if !instance.removing {
            instance.removing = true;
            instance.draining = self.entry(key).is_some();
            instance.status = InstanceStatus::Undeployed;
            instance.status_detail = NOT_CONFIRMED.to_owned();
            instance.modified = now.wall;
            self.instances.put(key.clone(), instance.clone());
        }
        let only_here =
            self.interested_in(&instance.job_name).iter().all(|other| *other == cluster_id);
        self.send(
            &cluster_id,
            FromRoot::Undeploy {
                key: key.clone(),
                job_name: instance.job_name,
                generation: instance.generation,
                drain: if only_here { drain } else { Drain::Always },
                drain_grace_ms: grace.and_then(|grace| u64::try_from(grace.as_millis()).ok()),
            },
        );
    }

    /// A copy that nobody should have any more.
    pub(crate) fn send_undeploy(
        &mut self,
        cluster_id: &str,
        key: &InstanceKey,
        generation: Generation,
    ) {
        let job_name = self.instances.get(key).map(|i| i.job_name.clone()).unwrap_or_default();
        let (key, drain) = (key.clone(), Drain::Never);
        let drain_grace_ms = None;
        let undeploy = FromRoot::Undeploy { key, job_name, generation, drain, drain_grace_ms };
        self.send(cluster_id, undeploy);
    }

    /// The instance is gone for good.
    pub(crate) fn forget(&mut self, key: &InstanceKey) {
        let before = self.entry(key);
        let Some(instance) = self.instances.remove(key) else { return };
        self.ipam.release_instance(key, instance.addresses());
        self.usage.remove(key);
        self.loads.forget(key);
        self.refusals.remove(key);
        if let Some(live) = instance.cluster_id.and_then(|id| self.live.get_mut(&id)) {
            live.unsettled.remove(key);
        }
        self.peers_stale = true;
        if before.is_some() {
            self.notify(&instance.job_name, UpdateKind::Undeployment);
        }
        self.forget_interests_in_what_is_gone(&instance.job_name);
    }

    pub(crate) fn instances_of(
        &self,
        job_id: &str,
    ) -> impl Iterator<Item = (&InstanceKey, &Instance)> {
        let numbered = |instance_number| InstanceKey { job_id: job_id.to_owned(), instance_number };
        self.instances.range(numbered(0)..=numbered(u32::MAX))
    }

    pub(crate) fn keys_of(&self, job_id: &str) -> Vec<InstanceKey> {
        self.instances_of(job_id).map(|(key, _)| key.clone()).collect()
    }
}

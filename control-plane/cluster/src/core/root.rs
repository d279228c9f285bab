//! The session with the root, as the cluster sees it. The shell dials; here is what is said.

use std::{collections::BTreeSet, time::Duration};

use xylem_types::{
    instance::InstanceStatus,
    session::{FromCluster, FromRoot, InstanceKey, Observed, Placement, SESSION_VERSION},
};

use super::{Cluster, Effect, Time};

/// How far the session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    #[default]
    Away,
    /// Connected; the root has not yet said who we are to it.
    Greeting,
    /// It is our root; it has not yet said what it wants.
    Welcomed,
    /// Both sides have compared what they have; from here on, changes are told.
    Synced,
}

/// The root cannot be this cluster's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionRefused {
    #[error("the root refuses this cluster: {reason}")]
    ByRoot { reason: String },
    #[error(
        "the root knows this cluster as {offered}, but it is {known}: this is not the root that \
         it belongs to, or that one has lost its records. Point the cluster to its own root, or \
         to join this one and give up what runs, start it with an empty data folder"
    )]
    OtherRoot { known: String, offered: String },
}

impl Cluster {
    /// The connection to the root stands.
    pub fn root_connected(&mut self) {
        self.link = Link::Greeting;
        self.forget_requests();
        self.effects.push(Effect::Root(FromCluster::Hello {
            version: SESSION_VERSION,
            cluster_name: self.settings.cluster_name.clone(),
            cluster_location: self.settings.cluster_location.clone(),
        }));
    }

    /// It does not any more. Everything here goes on.
    pub fn root_gone(&mut self) {
        self.link = Link::Away;
        self.forget_requests();
    }

    pub fn root_listens(&self) -> bool {
        self.link == Link::Synced
    }

    /// The root speaks.
    ///
    /// # Errors
    /// When this session must end; it is dialled again after a while.
    pub fn from_root(&mut self, message: FromRoot, now: Time) -> Result<(), SessionRefused> {
        // Of a session that was refused, the rest may be on its way; a root that is not ours
        // would have us stop everything.
        let expected = match self.link {
            Link::Away => false,
            Link::Greeting => {
                matches!(message, FromRoot::Welcome { .. } | FromRoot::Refused { .. })
            }
            Link::Welcomed | Link::Synced => true,
        };
        if !expected {
            tracing::debug!(?message, "message of the root outside of a session");
            return Ok(());
        }
        match message {
            FromRoot::Welcome { cluster_id } => self.on_welcome(cluster_id)?,
            FromRoot::Refused { reason } => {
                self.root_gone();
                return Err(SessionRefused::ByRoot { reason });
            }
            FromRoot::Desired { placements, cordoned } => {
                // First, so that nothing of it is placed there.
                self.on_cordoned(cordoned, now);
                self.on_desired(placements, now);
            }
            FromRoot::Deploy(placement) => self.deploy(*placement, now),
            FromRoot::Undeploy { key, job_name: _, generation, drain, drain_grace_ms } => {
                let grace = drain_grace_ms.map(Duration::from_millis);
                self.undeploy(key, generation, drain, grace, now);
            }
            FromRoot::Subnet { worker_id, result } => self.on_subnet_result(&worker_id, result),
            FromRoot::TableAnswer { request_id, answer } => {
                self.on_root_answer(request_id, answer, now);
            }
            FromRoot::ServiceChanged { job_name, load, .. }
                if !load.is_empty() && self.services.contains_key(&job_name) =>
            {
                self.on_foreign_load(&job_name, &load);
            }
            FromRoot::ServiceChanged { job_name, .. } => self.on_service_changed(&job_name, now),
            FromRoot::Peers { peers } => self.on_foreign_peers(peers),
            FromRoot::Cordoned { workers } => self.on_cordoned(workers, now),
        }
        Ok(())
    }

    fn on_welcome(&mut self, offered: String) -> Result<(), SessionRefused> {
        match &self.membership.cluster_id {
            Some(known) if *known == offered => {}
            Some(known) => {
                let known = known.clone();
                self.root_gone();
                return Err(SessionRefused::OtherRoot { known, offered });
            }
            None => {
                self.membership.cluster_id = Some(offered);
                self.touched.membership = true;
            }
        }
        self.link = Link::Welcomed;
        Ok(())
    }

    /// What the root wants and nothing else; then our side of the comparison.
    fn on_desired(&mut self, placements: Vec<Placement>, now: Time) {
        let wanted: BTreeSet<InstanceKey> = placements
            .iter()
            .map(|placement| InstanceKey {
                job_id: placement.job_id.clone(),
                instance_number: placement.command.instance_number,
            })
            .collect();
        let unwanted: Vec<InstanceKey> =
            self.instances.keys().filter(|key| !wanted.contains(key)).cloned().collect();
        for key in unwanted {
            self.begin_drain(&key, None, now);
        }
        for placement in placements {
            self.deploy(placement, now);
        }
        self.link = Link::Synced;
        self.effects.push(Effect::Root(self.snapshot()));
        self.ask_for_subnets();
        self.ask_everything_again(now);
        self.resources_due = now;
        self.report_resources(now);
    }

    fn snapshot(&self) -> FromCluster {
        FromCluster::Snapshot {
            instances: self
                .instances
                .iter()
                .filter(|(_, instance)| !instance.removed_for_root())
                .map(|(key, instance)| instance.observed(key, self.worker_of(instance)))
                .collect(),
            workers: self.own_peers(),
            interests: self.interests(),
        }
    }

    fn on_service_changed(&mut self, job_name: &str, now: Time) {
        if self.services.contains_key(job_name) || self.numbers.contains_key(job_name) {
            self.refresh(job_name, now);
        } else {
            self.tell_root(FromCluster::InterestRemove { job_name: job_name.to_owned() });
        }
    }

    /// Tells the root of every instance that changed since the last step.
    pub(super) fn observe_touched(&mut self) {
        for key in self.touched.instances.clone() {
            let Some(instance) = self.instances.get(&key) else { continue };
            if instance.removed_for_root() {
                continue;
            }
            let observed = instance.observed(&key, self.worker_of(instance));
            self.tell_root(FromCluster::Instance(Box::new(observed)));
        }
    }

    pub(super) fn report_gone(&mut self, key: InstanceKey, generation: u64) {
        self.tell_root(FromCluster::Instance(Box::new(Observed::new(
            key,
            generation,
            InstanceStatus::Undeployed,
        ))));
    }
}

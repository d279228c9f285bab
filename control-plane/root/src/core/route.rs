//! Route knowledge by interest: what a service's addresses lead to, and who wants to hear of it
//! when that changes.

use std::net::IpAddr;

use xylem_types::{
    instance::InstanceStatus,
    job::Job,
    mqtt::{InstanceEntry, IpType, ServiceAddress, TableAnswer, TableQuery, UpdateKind},
    session::{FromRoot, InstanceKey},
};

use super::{
    pool::Owner,
    rows::RowKey,
    state::{Registered, State},
};

/// A cluster's interest in a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Interest {
    pub(crate) job_name: String,
    pub(crate) cluster_id: String,
}

impl RowKey for Interest {
    fn encode(&self) -> String {
        format!("{}/{}", self.job_name, self.cluster_id)
    }

    fn decode(text: &str) -> Option<Self> {
        let (job_name, cluster_id) = text.split_once('/')?;
        Some(Self { job_name: job_name.to_owned(), cluster_id: cluster_id.to_owned() })
    }
}

impl State {
    /// Answers a query and registers the cluster's interest. An unknown service has an empty
    /// answer and no interest.
    pub(crate) fn table_query(&mut self, cluster_id: &str, request_id: u64, query: TableQuery) {
        let query_key =
            if query.sname.is_empty() { query.sip.clone() } else { query.sname.clone() };
        let job = self.job_asked_for(&query);
        let answer = match job {
            None => TableAnswer { query_key, ..TableAnswer::default() },
            Some(job) => {
                let job_name = job.job_name.clone();
                let answer = self.table(job, query_key);
                self.add_interest(cluster_id, job_name);
                answer
            }
        };
        self.send(cluster_id, FromRoot::TableAnswer { request_id, answer });
    }

    pub(crate) fn remove_interest(&mut self, cluster_id: &str, job_name: String) {
        let interest = Interest { job_name, cluster_id: cluster_id.to_owned() };
        if self.interests.remove(&interest).is_some() {
            self.peers_stale = true;
        }
    }

    /// The cluster's interests are these and no others.
    pub(crate) fn replace_interests(&mut self, cluster_id: &str, job_names: &[String]) {
        let gone: Vec<_> = self
            .interests
            .iter()
            .map(|(interest, _)| interest)
            .filter(|i| i.cluster_id == cluster_id && !job_names.contains(&i.job_name))
            .cloned()
            .collect();
        for interest in gone {
            self.remove_interest(cluster_id, interest.job_name);
        }
        for job_name in job_names {
            if self.services.values().any(|job| job.job_name == *job_name) {
                self.add_interest(cluster_id, job_name.clone());
            }
        }
    }

    /// The service may be deleted: once its last instance is gone as well, everybody who knows it
    /// hears so, and nobody can be interested in it any more. Until then they keep what they know
    /// and their flows to what drains.
    pub(crate) fn forget_interests_in_what_is_gone(&mut self, job_name: &str) {
        let exists = self.services.values().any(|job| job.job_name == job_name)
            || self.instances.values().any(|instance| instance.job_name == job_name);
        if exists {
            return;
        }
        self.notify(job_name, UpdateKind::Undeployment);
        for cluster_id in self.interested_in(job_name) {
            self.remove_interest(&cluster_id, job_name.to_owned());
        }
    }

    pub(crate) fn interested_in(&self, job_name: &str) -> Vec<String> {
        let from = Interest { job_name: job_name.to_owned(), cluster_id: String::new() };
        self.interests
            .range(from..)
            .take_while(|(interest, _)| interest.job_name == job_name)
            .map(|(interest, _)| interest.cluster_id.clone())
            .collect()
    }

    /// Tells every interested cluster to ask again.
    pub(crate) fn notify(&mut self, job_name: &str, change: UpdateKind) {
        for cluster_id in self.interested_in(job_name) {
            let message = FromRoot::ServiceChanged {
                job_name: job_name.to_owned(),
                change,
                load: Vec::new(),
            };
            self.send(&cluster_id, message);
        }
    }

    /// Notifies when the instance's entry in the table is another than `before`.
    pub(crate) fn announce(&mut self, key: &InstanceKey, before: Option<InstanceEntry>) {
        let after = self.entry(key);
        if before == after {
            return;
        }
        self.peers_stale = true;
        let Some(instance) = self.instances.get(key) else { return };
        let job_name = instance.job_name.clone();
        let open = after.is_some_and(|entry| !entry.draining);
        let change = if open { UpdateKind::Deployment } else { UpdateKind::Undeployment };
        self.notify(&job_name, change);
    }

    /// The instance's line in the table: none unless its network is attached and it has not
    /// ended. It is there before the instance runs, since the first packet that it sends needs
    /// its instance IP, and until its cluster has confirmed that it is gone, since it may have
    /// flows until then.
    ///
    /// Without its load, which changes all the time and is told on another way.
    pub(crate) fn entry(&self, key: &InstanceKey) -> Option<InstanceEntry> {
        let instance = self.instances.get(key)?;
        let job = self.services.get(&key.job_id)?;
        let alive = matches!(
            instance.status,
            InstanceStatus::NodeScheduled
                | InstanceStatus::Creating
                | InstanceStatus::Created
                | InstanceStatus::Running
                | InstanceStatus::Other(_)
        );
        let site = &instance.site;
        let attached = site.namespace_ip.is_some() || site.namespace_ip_v6.is_some();
        let there = if instance.removing { instance.draining } else { alive };
        if !attached || !there {
            return None;
        }
        let own = ServiceAddress {
            ip_type: IpType::Instance,
            address: Some(instance.instance_ip),
            address_v6: Some(instance.instance_ip_v6),
        };
        Some(InstanceEntry {
            instance_number: key.instance_number,
            namespace_ip: site.namespace_ip.map(|ip| ip.to_string()).unwrap_or_default(),
            namespace_ip_v6: site.namespace_ip_v6.map(|ip| ip.to_string()).unwrap_or_default(),
            host_ip: site.host_ip.clone(),
            host_port: site.host_port,
            service_ip: job.service_ip_list.iter().cloned().chain([own]).collect(),
            draining: instance.draining,
            cpu_percent: None,
        })
    }

    fn table(&self, job: &Job, query_key: String) -> TableAnswer {
        TableAnswer {
            app_name: job.job_name.clone(),
            query_key,
            instance_list: self
                .instances_of(&job.id)
                .filter_map(|(key, _)| {
                    Some(InstanceEntry { cpu_percent: self.cpu_of(key), ..self.entry(key)? })
                })
                .collect(),
            service_ip: job.service_ip_list.clone(),
        }
    }

    fn job_asked_for(&self, query: &TableQuery) -> Option<&Job> {
        if !query.sname.is_empty() {
            return self.services.values().find(|job| job.job_name == query.sname);
        }
        let ip: IpAddr = query.sip.parse().ok()?;
        match self.ipam.owner_of(ip)? {
            Owner::Service(job_id) => self.services.get(job_id),
            Owner::Instance(key) => self.services.get(&key.job_id),
            Owner::Worker(_) => None,
        }
    }

    fn add_interest(&mut self, cluster_id: &str, job_name: String) {
        let interest = Interest { job_name, cluster_id: cluster_id.to_owned() };
        if !self.interests.contains(&interest) {
            self.interests.put(interest, Registered {});
            self.peers_stale = true;
        }
    }
}

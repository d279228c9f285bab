//! Services as this cluster's workers see them: who holds an interest, and where each instance is.
//!
//! The root knows every address and every instance; what it said is kept. Of its own instances
//! the cluster knows the place better, so an answer is the root's word with our own laid over it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use xylem_types::{
    mqtt::{InstanceEntry, ServiceAddress, TableAnswer, UpdateKind},
    session::FromCluster,
};

use super::{Cluster, Effect, Instance, Time, query::QueryKey};
use crate::message::Message;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// The root's last answer.
    pub answer: TableAnswer,
    /// Workers that asked for it, and have not said that they no longer need it. Those that run
    /// it are interested without being here.
    pub interested: BTreeSet<String>,
    /// What workers were last told of, to notice changes.
    #[serde(skip)]
    announced: (Vec<ServiceAddress>, Vec<InstanceEntry>),
    /// Percent of one CPU, by number, of instances of other clusters.
    #[serde(skip)]
    pub(super) foreign_load: BTreeMap<u32, f32>,
    /// What workers were last told that instances use, and when.
    #[serde(skip)]
    pub(super) loads_told: BTreeMap<u32, (f32, Time)>,
}

impl Cluster {
    /// What workers are told of the service, `None` when it is unknown.
    pub(super) fn answer_for(&self, job_name: &str, query_key: &str) -> Option<TableAnswer> {
        let service = self.services.get(job_name)?;
        Some(TableAnswer {
            app_name: job_name.to_owned(),
            query_key: query_key.to_owned(),
            instance_list: self
                .entries(job_name, service)
                .into_iter()
                .map(|entry| InstanceEntry {
                    cpu_percent: self.load_of(job_name, service, entry.instance_number),
                    ..entry
                })
                .collect(),
            service_ip: service.answer.service_ip.clone(),
        })
    }

    /// Every instance, without what it uses.
    fn entries(&self, job_name: &str, service: &Service) -> Vec<InstanceEntry> {
        let ours = |number| {
            let key = self.numbers.get(job_name)?.get(&number)?;
            // One that we are removing is dropped from the root's word when that begins; if it is
            // there again, it is elsewhere.
            self.instances.get(key).filter(|instance| !instance.being_deleted())
        };
        let list = &service.answer.instance_list;
        list.iter()
            .map(|entry| match ours(entry.instance_number) {
                Some(instance) if !is_elsewhere(entry, instance) => overlay(entry, instance),
                _ => entry.clone(),
            })
            .collect()
    }

    /// The root has told the addresses of every instance that can be dialled here. It tells an
    /// instance's when it has heard that the instance is attached.
    pub(super) fn addresses_known(&self, job_name: &str) -> bool {
        let Some(service) = self.services.get(job_name) else { return false };
        let listed = |n| service.answer.instance_list.iter().any(|e| e.instance_number == n);
        let numbers = self.numbers.get(job_name).into_iter().flatten();
        numbers
            .filter(|(_, key)| {
                let instance = self.instances.get(key);
                instance.is_some_and(|i| i.dialable().is_some() && !i.draining())
            })
            .all(|(number, _)| listed(*number))
    }

    /// Asks for the addresses of what was attached since the last step. The root has just been
    /// told of it.
    pub(super) fn learn_attached(&mut self, now: Time) {
        for job_name in std::mem::take(&mut self.touched.attached) {
            if !self.addresses_known(&job_name) {
                self.refresh(&job_name, now);
            }
        }
    }

    /// Asks again for what should have been told by now.
    pub(super) fn learn_missing_addresses(&mut self, now: Time) {
        let missing: Vec<String> =
            self.numbers.keys().filter(|name| !self.addresses_known(name)).cloned().collect();
        for job_name in missing {
            self.ask_root(QueryKey::Name(job_name), None, now);
        }
    }

    /// The root's word on a service replaces the one before, but for instances of ours that the
    /// root lists only while they are attached: their addresses are theirs for life.
    pub(super) fn store_answer(&mut self, mut answer: TableAnswer) {
        if let Some(known) = self.services.get(&answer.app_name) {
            let listed: BTreeSet<u32> =
                answer.instance_list.iter().map(|entry| entry.instance_number).collect();
            let kept = known.answer.instance_list.iter().filter(|entry| {
                let ours = self.key_of(&answer.app_name, entry.instance_number);
                let ours = ours.and_then(|key| self.instances.get(&key));
                !listed.contains(&entry.instance_number)
                    && ours.is_some_and(|instance| !instance.being_deleted())
            });
            answer.instance_list.extend(kept.cloned());
        }
        // What instances use is not of the lasting kind.
        let load: BTreeMap<u32, f32> = answer
            .instance_list
            .iter_mut()
            .filter_map(|entry| Some((entry.instance_number, entry.cpu_percent.take()?)))
            .collect();
        let job_name = answer.app_name.clone();
        self.replace_answer(answer);
        if let Some(service) = self.services.get_mut(&job_name) {
            service.foreign_load = load;
            self.loads_changed.insert(job_name);
        }
    }

    fn replace_answer(&mut self, answer: TableAnswer) {
        let job_name = answer.app_name.clone();
        let new = !self.services.contains_key(&job_name);
        let service = self.services.entry(job_name.clone()).or_default();
        if !new && service.answer == answer {
            return;
        }
        let old = std::mem::replace(&mut service.answer, answer);
        for ip in addresses_of(&old) {
            self.addresses.remove(&ip);
        }
        let service = self.services[&job_name].clone();
        self.index_addresses(&job_name, &service);
        self.touched.services.insert(job_name.clone());
        if new {
            // Nobody was ever told of it, so nobody needs to hear that it changed.
            self.note_announced(&job_name);
        } else {
            self.touched.answers.insert(job_name);
        }
    }

    /// The root says that there is no such service. It will not tell us should it be made again,
    /// so those that hold an interest must ask again.
    pub(super) fn service_unknown_at_root(&mut self, job_name: &str) {
        // What runs here, the root will know again, or tell us to stop.
        if self.numbers.contains_key(job_name) {
            return;
        }
        if self.remove_service(job_name) {
            let change = UpdateKind::Undeployment;
            let message = Message::Updates { job_name: job_name.to_owned(), change };
            self.effects.push(Effect::Mqtt(message));
        }
    }

    /// An instance of ours goes: until the root says otherwise, it is nowhere.
    pub(super) fn drop_entry(&mut self, job_name: &str, number: u32) {
        let Some(service) = self.services.get(job_name) else { return };
        let mut answer = service.answer.clone();
        answer.instance_list.retain(|entry| entry.instance_number != number);
        self.replace_answer(answer);
    }

    pub(super) fn index_addresses(&mut self, job_name: &str, service: &Service) {
        for ip in addresses_of(&service.answer) {
            self.addresses.insert(ip, job_name.to_owned());
        }
    }

    pub(super) fn add_interest(&mut self, job_name: &str, worker: &str) {
        if let Some(service) = self.services.get_mut(job_name)
            && service.interested.insert(worker.to_owned())
        {
            self.touched.services.insert(job_name.to_owned());
        }
    }

    pub(super) fn on_interest_remove(&mut self, worker: &str, job_name: &str) {
        if let Some(service) = self.services.get_mut(job_name)
            && service.interested.remove(worker)
        {
            self.touched.services.insert(job_name.to_owned());
            self.forget_unused(job_name);
        }
    }

    /// Lets go of a service that nobody here runs or is interested in.
    pub(super) fn forget_unused(&mut self, job_name: &str) {
        let used = self.numbers.contains_key(job_name)
            || self.services.get(job_name).is_none_or(|s| !s.interested.is_empty());
        if used {
            return;
        }
        if self.remove_service(job_name) {
            self.tell_root(FromCluster::InterestRemove { job_name: job_name.to_owned() });
        }
    }

    fn remove_service(&mut self, job_name: &str) -> bool {
        let Some(service) = self.services.remove(job_name) else { return false };
        for ip in addresses_of(&service.answer) {
            self.addresses.remove(&ip);
        }
        self.touched.services.insert(job_name.to_owned());
        true
    }

    /// Tells the workers of every service whose answer is not what it was.
    pub(super) fn announce_answers(&mut self) {
        for job_name in std::mem::take(&mut self.touched.answers) {
            let Some(service) = self.services.get(&job_name) else { continue };
            let entries = self.entries(&job_name, service);
            let (addresses_before, before) = &service.announced;
            if entries == *before && service.answer.service_ip == *addresses_before {
                continue;
            }
            let new = |e: &InstanceEntry| {
                !e.namespace_ip.is_empty() && !e.draining && !before.contains(e)
            };
            let gained = entries.iter().any(new) || entries == *before;
            let change = if gained { UpdateKind::Deployment } else { UpdateKind::Undeployment };
            let message = Message::Updates { job_name: job_name.clone(), change };
            self.effects.push(Effect::Mqtt(message));
            self.note_announced(&job_name);
        }
    }

    pub(super) fn note_announced(&mut self, job_name: &str) {
        let Some(service) = self.services.get(job_name) else { return };
        let entries = self.entries(job_name, service);
        if let Some(service) = self.services.get_mut(job_name) {
            service.announced = (service.answer.service_ip.clone(), entries);
        }
    }

    pub(super) fn interests(&self) -> Vec<String> {
        self.services.keys().cloned().collect()
    }
}

/// Ours drains because the root has moved the instance to another cluster meanwhile.
fn is_elsewhere(entry: &InstanceEntry, ours: &Instance) -> bool {
    let here = ours.attached.as_ref().and_then(|at| at.namespace_ip).map(|ip| ip.to_string());
    ours.draining()
        && !entry.draining
        && !entry.namespace_ip.is_empty()
        && here.is_some_and(|here| here != entry.namespace_ip)
}

fn overlay(entry: &InstanceEntry, instance: &Instance) -> InstanceEntry {
    let text = |ip: Option<Ipv4Addr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let text_v6 = |ip: Option<Ipv6Addr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let at = instance.dialable();
    InstanceEntry {
        instance_number: entry.instance_number,
        namespace_ip: text(at.and_then(|at| at.namespace_ip)),
        namespace_ip_v6: text_v6(at.and_then(|at| at.namespace_ip_v6)),
        host_ip: at.map(|at| at.host_ip.clone()).unwrap_or_default(),
        host_port: at.map(|at| at.host_port).unwrap_or_default(),
        service_ip: entry.service_ip.clone(),
        draining: entry.draining || instance.draining(),
        cpu_percent: None,
    }
}

/// Every address that leads to the service or to one of its instances.
fn addresses_of(answer: &TableAnswer) -> BTreeSet<IpAddr> {
    let of = |address: &ServiceAddress| {
        [address.address.map(IpAddr::V4), address.address_v6.map(IpAddr::V6)]
    };
    let instances = answer.instance_list.iter().flat_map(|entry| &entry.service_ip);
    answer.service_ip.iter().chain(instances).flat_map(of).flatten().collect()
}

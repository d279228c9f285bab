//! What instances use, told to the workers that balance by it.
//!
//! Not by way of a changed answer: every interested worker would ask again for every service all
//! the time. It is pushed, and per worker in one message for all its services; see
//! [`xylem_types::load`] for what is worth telling. An answer has the values of its moment.

use std::collections::{BTreeMap, BTreeSet};

use xylem_types::{
    load::{InstanceLoad, Loads, ServiceLoad, Worth, worth_telling},
    mqtt::PeerKind,
};

use super::{Cluster, Service, Time};
use crate::message::ToWorker;

/// Most instances in one message, which keeps it below 100 kB.
const MESSAGE_INSTANCES: usize = 1000;

impl Cluster {
    /// What an instance uses, whether it is ours or another cluster's.
    pub(super) fn load_of(&self, job_name: &str, service: &Service, number: u32) -> Option<f32> {
        let key = self.numbers.get(job_name).and_then(|numbers| numbers.get(&number));
        match key.and_then(|key| self.instances.get(key)).filter(|i| !i.being_deleted()) {
            Some(instance) => instance.cpu_percent(),
            None => service.foreign_load.get(&number).copied(),
        }
    }

    /// The root says what instances elsewhere use.
    pub(super) fn on_foreign_load(&mut self, job_name: &str, load: &[InstanceLoad]) {
        let Some(service) = self.services.get_mut(job_name) else { return };
        service.foreign_load.extend(load.iter().map(|l| (l.instance_number, l.cpu_percent)));
        self.loads_changed.insert(job_name.to_owned());
    }

    pub(super) fn tell_loads(&mut self, now: Time) {
        if now < self.load_due || !self.broker_connected {
            return;
        }
        self.load_due = now + self.settings.load_every;
        let mut for_workers: BTreeMap<String, Vec<ServiceLoad>> = BTreeMap::new();
        for job_name in std::mem::take(&mut self.loads_changed) {
            let instances = self.loads_to_tell(&job_name, now);
            if instances.is_empty() {
                continue;
            }
            for worker in &self.services[&job_name].interested {
                let ours = |w: &super::Worker| w.kind() == PeerKind::Xylem;
                if self.workers.get(worker).is_some_and(ours) {
                    let app_name = job_name.clone();
                    let service = ServiceLoad { app_name, instances: instances.clone() };
                    for_workers.entry(worker.clone()).or_default().push(service);
                }
            }
        }
        for (worker, services) in for_workers {
            for services in messages(services) {
                self.send(&worker, ToWorker::Load(Loads { services }));
            }
        }
    }

    /// Takes down as told what it returns.
    fn loads_to_tell(&mut self, job_name: &str, now: Time) -> Vec<InstanceLoad> {
        let Some(service) = self.services.get(job_name) else { return Vec::new() };
        if service.interested.is_empty() {
            return Vec::new();
        }
        let mut telling = Vec::new();
        let mut later = false;
        let listed: BTreeSet<u32> =
            service.answer.instance_list.iter().map(|entry| entry.instance_number).collect();
        for number in &listed {
            let Some(cpu_percent) = self.load_of(job_name, service, *number) else { continue };
            let told = service.loads_told.get(number);
            let age = told.map(|(value, at)| (*value, now.saturating_sub(*at)));
            match worth_telling(cpu_percent, age) {
                Worth::Now => {
                    telling.push(InstanceLoad { instance_number: *number, cpu_percent });
                }
                Worth::Later => later = true,
                Worth::Never => {}
            }
        }
        if later {
            self.loads_changed.insert(job_name.to_owned());
        }
        let service = self.services.get_mut(job_name).expect("looked up above");
        service.loads_told.retain(|number, _| listed.contains(number));
        service.foreign_load.retain(|number, _| listed.contains(number));
        let told = telling.iter().map(|l| (l.instance_number, (l.cpu_percent, now)));
        service.loads_told.extend(told);
        telling
    }
}

/// Cut into messages of [`MESSAGE_INSTANCES`], in the middle of a service where need be.
fn messages(services: Vec<ServiceLoad>) -> Vec<Vec<ServiceLoad>> {
    let mut messages: Vec<Vec<ServiceLoad>> = Vec::new();
    let mut room = 0;
    for service in services {
        let mut rest = service.instances.as_slice();
        while !rest.is_empty() {
            if room == 0 {
                messages.push(Vec::new());
                room = MESSAGE_INSTANCES;
            }
            let (now, after) = rest.split_at(rest.len().min(room));
            let part = ServiceLoad { app_name: service.app_name.clone(), instances: now.to_vec() };
            if let Some(message) = messages.last_mut() {
                message.push(part);
            }
            room -= now.len();
            rest = after;
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_for_one_message_is_cut_and_nothing_is_lost() {
        let service = |name: &str, count: u32| ServiceLoad {
            app_name: name.into(),
            instances: (0..count)
                .map(|instance_number| InstanceLoad { instance_number, cpu_percent: 1.0 })
                .collect(),
        };
        let cut = messages(vec![service("a", 600), service("b", 1900), service("c", 1)]);
        let sizes: Vec<usize> =
            cut.iter().map(|m| m.iter().map(|s| s.instances.len()).sum()).collect();
        assert_eq!(sizes, [1000, 1000, 501]);
        let of_b: Vec<u32> = cut
            .iter()
            .flatten()
            .filter(|s| s.app_name == "b")
            .flat_map(|s| s.instances.iter().map(|i| i.instance_number))
            .collect();
        assert_eq!(of_b, (0..1900).collect::<Vec<_>>());
        assert!(messages(Vec::new()).is_empty());
    }
}

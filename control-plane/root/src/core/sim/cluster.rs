//! A cluster as the root sees it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
};

use xylem_types::{
    instance::InstanceStatus,
    session::{
        ClusterResources, FromCluster, FromRoot, InstanceKey, Observed, Placement, WorkerRoom,
    },
};

/// A cluster of one worker; each instance takes one of its CPUs.
#[derive(Debug)]
pub(super) struct SimCluster {
    pub(super) name: String,
    pub(super) cpus: usize,
    pub(super) running: BTreeMap<InstanceKey, u64>,
    /// Given to it, and without a place.
    pub(super) waiting: BTreeMap<InstanceKey, u64>,
    /// Its worker takes nothing new.
    pub(super) cordoned: bool,
    pub(super) session: Option<u64>,
    pub(super) to_root: VecDeque<FromCluster>,
    pub(super) from_root: VecDeque<FromRoot>,
}

impl SimCluster {
    pub(super) fn new(name: &str, cpus: usize) -> Self {
        Self {
            name: name.to_owned(),
            cpus,
            running: BTreeMap::new(),
            waiting: BTreeMap::new(),
            cordoned: false,
            session: None,
            to_root: VecDeque::new(),
            from_root: VecDeque::new(),
        }
    }

    pub(super) fn worker(&self) -> String {
        format!("worker of {}", self.name)
    }

    pub(super) fn observed(
        &self,
        key: &InstanceKey,
        generation: u64,
        status: InstanceStatus,
    ) -> Observed {
        Observed {
            worker_id: Some(self.worker()),
            host_ip: "192.0.2.1".to_owned(),
            host_port: 50_103,
            namespace_ip: Some(Ipv4Addr::new(10, 18, 0, 2)),
            ..Observed::new(key.clone(), generation, status)
        }
    }

    pub(super) fn report(&mut self, key: &InstanceKey, generation: u64, status: InstanceStatus) {
        let observed = self.observed(key, generation, status);
        self.to_root.push_back(FromCluster::Instance(Box::new(observed)));
    }

    pub(super) fn start(&mut self, placement: &Placement) -> InstanceStatus {
        let key = key_of(placement);
        let generation = placement.command.generation;
        match self.running.get(&key) {
            Some(running) if *running >= generation => {}
            None if self.cordoned || self.running.len() >= self.cpus => {
                self.waiting.insert(key, generation);
                return InstanceStatus::NoWorkerCapacity;
            }
            _ => {
                self.waiting.remove(&key);
                self.running.insert(key, generation);
            }
        }
        InstanceStatus::Running
    }

    pub(super) fn take(&mut self, message: FromRoot) {
        match message {
            FromRoot::Desired { placements, cordoned } => {
                self.cordoned = cordoned.contains(&self.worker());
                let wanted: BTreeSet<_> = placements.iter().map(key_of).collect();
                self.running.retain(|key, _| wanted.contains(key));
                self.waiting.retain(|key, _| wanted.contains(key));
                let mut instances = Vec::new();
                for placement in &placements {
                    let key = key_of(placement);
                    let status = self.start(placement);
                    let generation =
                        self.running.get(&key).copied().unwrap_or(placement.command.generation);
                    instances.push(self.observed(&key, generation, status));
                }
                self.to_root.push_back(FromCluster::Snapshot {
                    instances,
                    workers: Vec::new(),
                    interests: Vec::new(),
                });
            }
            FromRoot::Deploy(placement) => {
                let status = self.start(&placement);
                self.report(&key_of(&placement), placement.command.generation, status);
            }
            FromRoot::Undeploy { key, generation, .. }
                if self.running.get(&key).is_none_or(|running| *running <= generation) =>
            {
                self.running.remove(&key);
                self.waiting.remove(&key);
                self.report(&key, generation, InstanceStatus::Undeployed);
            }
            // Newer than the root knows: it is told, and decides again.
            FromRoot::Undeploy { key, .. } => {
                let generation = self.running[&key];
                self.report(&key, generation, InstanceStatus::Running);
            }
            FromRoot::Cordoned { workers } => self.cordoned = workers.contains(&self.worker()),
            _ => {}
        }
    }

    /// What waits is started where there is room; then the report.
    pub(super) fn resources(&mut self) {
        while !self.cordoned
            && self.running.len() < self.cpus
            && let Some((key, generation)) = self.waiting.pop_first()
        {
            self.running.insert(key.clone(), generation);
            self.report(&key, generation, InstanceStatus::Running);
        }
        let free = self.cpus - self.running.len();
        let room = WorkerRoom {
            worker_id: self.worker(),
            cordoned: self.cordoned,
            free_vcpus: free as f64,
            total_vcpus: self.cpus as f64,
            free_memory: 1024.0,
            total_memory: 1024.0,
            virtualization: vec!["docker".to_owned()],
            ..WorkerRoom::default()
        };
        let resources = ClusterResources { workers: vec![room], ..ClusterResources::default() };
        self.to_root.push_back(FromCluster::Resources(resources));
    }

    /// The cluster's worker was lost and the instance placed anew, without the root.
    pub(super) fn place_anew(&mut self, key: &InstanceKey) {
        if let Some(generation) = self.running.get_mut(key) {
            *generation += 1;
            let generation = *generation;
            self.report(key, generation, InstanceStatus::Running);
        }
    }
}

pub(super) fn key_of(placement: &Placement) -> InstanceKey {
    InstanceKey {
        job_id: placement.job_id.clone(),
        instance_number: placement.command.instance_number,
    }
}

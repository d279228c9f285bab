//! In any order of questions, answers, deployments and outages: the cluster keeps exactly the
//! services that somebody here needs, and the root knows of exactly those.

use std::collections::BTreeSet;

use proptest::prelude::*;
use xylem_types::{
    instance::InstanceStatus,
    mqtt::{InterestRemove, TableQuery},
};

use super::*;

const WORKERS: [&str; 3] = ["a", "b", "c"];
/// Services that exist elsewhere, by number; further numbers exist nowhere.
const FOREIGN: usize = 3;

#[derive(Clone, Debug)]
enum Event {
    Ask {
        worker: usize,
        service: usize,
        by_ip: bool,
    },
    Remove {
        worker: usize,
        service: usize,
    },
    Deploy,
    Undeploy(usize),
    /// The oldest question that the root was asked is answered.
    Answer,
    Changed(usize),
    RootGone,
    RootBack,
    Restart,
    Pass,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let (worker, service) = (0..WORKERS.len(), 0..FOREIGN + 2);
    let any = prop_oneof![
        6 => (worker.clone(), service.clone(), any::<bool>())
            .prop_map(|(worker, service, by_ip)| Event::Ask { worker, service, by_ip }),
        4 => (worker, service.clone()).prop_map(|(worker, service)| Event::Remove { worker, service }),
        2 => Just(Event::Deploy),
        2 => (0..4usize).prop_map(Event::Undeploy),
        8 => Just(Event::Answer),
        2 => service.prop_map(Event::Changed),
        1 => Just(Event::RootGone),
        1 => Just(Event::RootBack),
        1 => Just(Event::Restart),
        2 => Just(Event::Pass),
    ];
    prop::collection::vec(any, 0..80)
}

/// Service 0 is [`WEB`], the one that also runs here.
fn name(service: usize) -> String {
    if service == 0 { WEB.into() } else { format!("far.ns.s{service}.prod") }
}

fn ip(service: usize) -> String {
    format!("10.30.{service}.1")
}

struct Scene {
    bench: Bench,
    /// What the root holds this cluster to be interested in.
    interests: BTreeSet<String>,
    open: Vec<(u64, TableQuery)>,
    desired: BTreeSet<u32>,
    next_number: u32,
}

impl Scene {
    fn new() -> Self {
        Self {
            bench: Bench::with_workers(&WORKERS),
            interests: BTreeSet::new(),
            open: Vec::new(),
            desired: BTreeSet::new(),
            next_number: 0,
        }
    }

    fn inject(&mut self, event: Event) {
        match event {
            Event::Ask { worker, service, by_ip } => {
                let query = if by_ip {
                    TableQuery { sname: String::new(), sip: ip(service) }
                } else {
                    TableQuery { sname: name(service), sip: String::new() }
                };
                self.bench.says(WORKERS[worker], FromWorker::Query(query));
            }
            Event::Remove { worker, service } => {
                let remove = InterestRemove { appname: name(service) };
                self.bench.says(WORKERS[worker], FromWorker::InterestRemove(remove));
            }
            Event::Deploy => {
                self.desired.insert(self.next_number);
                if self.bench.cluster.root_listens() {
                    self.bench.deploy(web(self.next_number, 1));
                }
                self.next_number += 1;
            }
            Event::Undeploy(which) => {
                let number = self.desired.iter().nth(which).copied();
                if let Some(number) = number {
                    self.desired.remove(&number);
                    if self.bench.cluster.root_listens() {
                        self.bench.root_says(undeploy(number, 99));
                    }
                }
            }
            Event::Answer => self.answer(),
            Event::Changed(service) => {
                let change = UpdateKind::Deployment;
                let job_name = name(service);
                if self.bench.cluster.root_listens() && self.interests.contains(&job_name) {
                    self.bench.root_says(FromRoot::ServiceChanged {
                        job_name,
                        change,
                        load: vec![],
                    });
                }
            }
            Event::RootGone => {
                self.bench.cluster.root_gone();
                self.open.clear();
            }
            Event::RootBack => self.connect(),
            Event::Restart => {
                self.bench.restart();
                self.open.clear();
            }
            Event::Pass => self.bench.pass(secs(1), &WORKERS),
        }
        self.obey();
        self.listen();
    }

    fn connect(&mut self) {
        self.open.clear();
        self.bench.root.clear();
        self.bench.connect_root(self.desired.iter().map(|n| web(*n, 1)).collect());
        self.listen();
    }

    fn answer(&mut self) {
        if self.open.is_empty() || !self.bench.cluster.root_listens() {
            return;
        }
        let (request_id, query) = self.open.remove(0);
        let service = (0..FOREIGN).find(|s| query.sname == name(*s) || query.sip == ip(*s));
        let answer = match service {
            None => TableAnswer::default(),
            Some(service) => {
                self.interests.insert(name(service));
                let numbers: Vec<u32> = self.desired.iter().copied().filter(|n| *n < 99).collect();
                let mut answer = web_answer(if service == 0 { &numbers } else { &[0] });
                answer.app_name = name(service);
                answer.service_ip[0].address = Some(ip(service).parse().unwrap());
                answer
            }
        };
        self.bench.root_says(FromRoot::TableAnswer { request_id, answer });
    }

    /// Workers do what they are told.
    fn obey(&mut self) {
        for (worker, number, generation) in self.bench.deploys() {
            self.bench.attached(&worker, number, &format!("10.18.1.{number}"));
            self.bench.report(&worker, number, generation, InstanceStatus::Running);
        }
        for (worker, command) in self.bench.deletes() {
            let generation = command.generation.unwrap();
            let number = command.instance_number;
            self.bench.report(&worker, number, generation, InstanceStatus::Undeployed);
        }
    }

    /// The root's side of what was said, in order.
    fn listen(&mut self) {
        for message in std::mem::take(&mut self.bench.root) {
            match message {
                FromCluster::Snapshot { interests, .. } => {
                    self.interests = interests.into_iter().collect();
                }
                FromCluster::TableQuery { request_id, query } => {
                    self.open.push((request_id, query));
                }
                FromCluster::InterestRemove { job_name } => {
                    self.interests.remove(&job_name);
                }
                _ => {}
            }
        }
    }

    fn heal(&mut self) {
        for _ in 0..20 {
            self.bench.pass(secs(1), &WORKERS);
            if !self.bench.cluster.root_listens() {
                self.connect();
            }
            self.obey();
            self.listen();
            while !self.open.is_empty() {
                self.answer();
                self.listen();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_root_knows_what_is_needed_here_and_nothing_else(events in events()) {
        let mut scene = Scene::new();
        for event in events {
            scene.inject(event);
        }
        scene.heal();

        let services = &scene.bench.records.services;
        let kept: BTreeSet<String> = services.keys().cloned().collect();
        prop_assert_eq!(&kept, &scene.interests, "kept here, known to the root");
        for (job_name, service) in services {
            let runs = job_name == WEB && !scene.desired.is_empty();
            prop_assert!(runs || !service.interested.is_empty(), "{} is of no use", job_name);
        }
        prop_assert!(scene.desired.is_empty() || kept.contains(WEB));

        // Whoever is interested is answered at once, with all that runs.
        for (job_name, service) in services.clone() {
            let Some(worker) = service.interested.first().cloned() else { continue };
            scene.bench.answers();
            let query = TableQuery { sname: job_name.clone(), sip: String::new() };
            scene.bench.says(&worker, FromWorker::Query(query));
            let answers = scene.bench.answers();
            prop_assert_eq!(answers.len(), 1);
            if job_name == WEB {
                let mut numbers: Vec<u32> = answers[0].1.instance_list.iter()
                    .filter(|entry| !entry.namespace_ip.is_empty())
                    .map(|entry| entry.instance_number)
                    .collect();
                numbers.sort_unstable();
                let desired: Vec<u32> = scene.desired.iter().copied().collect();
                prop_assert_eq!(numbers, desired);
            }
        }
    }
}

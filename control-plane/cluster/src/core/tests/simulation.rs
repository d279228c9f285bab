//! Any order of faults, and then peace: what runs is what is wanted, once.

use std::collections::VecDeque;

use proptest::prelude::*;
use xylem_types::{
    instance::{Generation, InstanceStatus},
    mqtt::{InstanceReport, InstanceResources},
    node::Node,
    session::{FromCluster, FromRoot},
};

use super::*;

const WORKERS: usize = 3;

#[derive(Clone, Debug)]
enum Fault {
    /// The root wants one more instance.
    Deploy,
    Undeploy(usize),
    /// The root wants a newer generation.
    Replace(usize),
    RootGone,
    RootBack,
    /// Nothing gets through to or from this worker.
    Cut(usize),
    Heal(usize),
    /// The machine restarts and has lost what it ran.
    Reboot(usize),
    /// An instance on this worker ends by itself.
    Crash(usize, usize),
    /// The cluster is killed with its broker, and starts again.
    Restart,
    /// Messages under way arrive.
    Deliver,
    Pass(u8),
}

fn faults() -> impl Strategy<Value = Vec<Fault>> {
    let worker = 0..WORKERS;
    let any = prop_oneof![
        3 => Just(Fault::Deploy),
        1 => (0..8usize).prop_map(Fault::Undeploy),
        1 => (0..8usize).prop_map(Fault::Replace),
        1 => Just(Fault::RootGone),
        1 => Just(Fault::RootBack),
        2 => worker.clone().prop_map(Fault::Cut),
        2 => worker.clone().prop_map(Fault::Heal),
        1 => worker.clone().prop_map(Fault::Reboot),
        2 => (worker, 0..4usize).prop_map(|(w, n)| Fault::Crash(w, n)),
        1 => Just(Fault::Restart),
        4 => Just(Fault::Deliver),
        4 => (1..40u8).prop_map(Fault::Pass),
    ];
    prop::collection::vec(any, 0..60)
}

/// A node engine: one copy a number, of the newest generation it was told.
#[derive(Default)]
struct Engine {
    cut: bool,
    copies: BTreeMap<u32, (Generation, InstanceStatus)>,
}

#[derive(Default)]
struct Root {
    connected: bool,
    desired: BTreeMap<u32, Generation>,
    next_number: u32,
    seen: BTreeMap<u32, Observed>,
    answers: VecDeque<FromRoot>,
}

struct Simulation {
    cluster: Cluster,
    records: Records,
    now: Time,
    engines: Vec<Engine>,
    up: VecDeque<(usize, FromWorker)>,
    down: VecDeque<(usize, ToWorker)>,
    root: Root,
    /// Who was given which generation of which instance.
    given: BTreeMap<(u32, Generation), usize>,
}

fn name(worker: usize) -> String {
    format!("w{worker}")
}

impl Simulation {
    fn new() -> Self {
        let mut sim = Self {
            cluster: Cluster::new(Settings::new("edge"), Records::default()),
            records: Records::default(),
            now: Time::ZERO,
            engines: (0..WORKERS).map(|_| Engine::default()).collect(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            root: Root::default(),
            given: BTreeMap::new(),
        };
        sim.cluster.broker_connected(sim.now);
        for worker in 0..WORKERS {
            sim.register(worker);
        }
        sim.connect_root();
        sim
    }

    fn register(&mut self, worker: usize) {
        let node = Node {
            id: name(worker),
            vcpus: 8,
            memory: 8000.0,
            virtualization: vec!["docker".into()],
            ..Node::default()
        };
        self.cluster.register(node, None, self.now).unwrap();
        self.settle();
    }

    fn settle(&mut self) {
        let step = self.cluster.step(self.now);
        for change in step.changes {
            apply(&mut self.records, change);
        }
        for effect in step.effects {
            match effect {
                Effect::Mqtt(Message::To { worker, body }) => {
                    let worker = worker[1..].parse::<usize>().unwrap();
                    if let ToWorker::Deploy(c) = &body {
                        let owner =
                            *self.given.entry((c.instance_number, c.generation)).or_insert(worker);
                        assert_eq!(
                            owner, worker,
                            "instance {} generation {} was given to two workers",
                            c.instance_number, c.generation
                        );
                    }
                    if !self.engines[worker].cut {
                        self.down.push_back((worker, body));
                    }
                }
                Effect::Mqtt(Message::Updates { .. }) => {}
                Effect::Root(message) if self.root.connected => self.root.hears(message),
                Effect::Root(_) => {}
            }
        }
    }

    fn connect_root(&mut self) {
        self.root.connected = true;
        self.root.answers.clear();
        self.cluster.root_connected();
        let welcome = FromRoot::Welcome { cluster_id: "c".into() };
        self.cluster.from_root(welcome, self.now).unwrap();
        let placements = self.root.desired.iter().map(|(n, g)| web(*n, *g)).collect();
        self.cluster.from_root(desired(placements), self.now).unwrap();
        self.settle();
    }

    fn root_says(&mut self, message: FromRoot) {
        if self.root.connected {
            self.cluster.from_root(message, self.now).unwrap();
            self.settle();
        }
    }

    fn report(
        &mut self,
        worker: usize,
        number: u32,
        generation: Generation,
        status: &InstanceStatus,
    ) {
        if self.engines[worker].cut {
            return;
        }
        let report = InstanceReport {
            sname: WEB.into(),
            status: status.clone(),
            status_detail: String::new(),
            instance: number,
            publicip: String::new(),
            generation,
        };
        self.up.push_back((worker, FromWorker::Job(report)));
    }

    /// A worker that was disconnected says what it has.
    fn reconnect(&mut self, worker: usize) {
        for (number, (generation, status)) in self.engines[worker].copies.clone() {
            self.report(worker, number, generation, &status);
        }
    }

    fn lose_messages(&mut self, of: impl Fn(usize) -> bool) {
        self.up.retain(|(worker, _)| !of(*worker));
        self.down.retain(|(worker, _)| !of(*worker));
    }

    fn deliver(&mut self) {
        while let Some((worker, body)) = self.down.pop_front() {
            self.obey(worker, body);
        }
        while let Some((worker, message)) = self.up.pop_front() {
            self.cluster.from_worker(&name(worker), message, self.now);
            self.settle();
        }
        while let Some(answer) = self.root.answers.pop_front() {
            self.root_says(answer);
        }
    }

    fn obey(&mut self, worker: usize, body: ToWorker) {
        match body {
            ToWorker::Deploy(c) => {
                let copies = &mut self.engines[worker].copies;
                let (number, generation) = (c.instance_number, c.generation);
                let current = copies.get(&number).map(|(g, _)| *g);
                if current.is_none_or(|current| current < generation) {
                    copies.insert(number, (generation, InstanceStatus::Running));
                }
                let (generation, status) = copies[&number].clone();
                if !self.engines[worker].cut {
                    // Attached, so it drains before it is deleted.
                    let event = net_event("DEPLOYED", number, "10.18.1.2");
                    self.up.push_back((worker, FromWorker::Deployed(event)));
                }
                self.report(worker, number, generation, &status);
            }
            ToWorker::Delete(c) => {
                let copies = &mut self.engines[worker].copies;
                let generation = c.generation.unwrap();
                if copies.get(&c.instance_number).is_some_and(|(g, _)| *g <= generation) {
                    copies.remove(&c.instance_number);
                }
                self.report(worker, c.instance_number, generation, &InstanceStatus::Undeployed);
            }
            _ => {}
        }
    }

    fn beat(&mut self) {
        for worker in 0..WORKERS {
            if self.engines[worker].cut {
                continue;
            }
            let node = Node { memory: 8000.0, ..Node::default() };
            self.up.push_back((worker, FromWorker::Information(Box::new(node))));
            let running = self.engines[worker]
                .copies
                .iter()
                .filter(|(_, (_, status))| *status == InstanceStatus::Running)
                .map(|(number, (generation, _))| usage(WEB, *number, *generation));
            let list = InstanceResources { services: running.collect() };
            self.up.push_back((worker, FromWorker::Resources(list)));
        }
    }

    fn pass(&mut self, ticks: u32, deliver: bool) {
        for i in 0..ticks {
            self.now += TICK;
            if i % 5 == 0 {
                self.beat();
            }
            if deliver {
                self.deliver();
            }
            self.cluster.tick(self.now);
            self.settle();
        }
    }

    fn inject(&mut self, fault: Fault) {
        match fault {
            Fault::Deploy => {
                let number = self.root.next_number;
                self.root.next_number += 1;
                self.root.desired.insert(number, 1);
                self.root_says(FromRoot::Deploy(Box::new(web(number, 1))));
            }
            Fault::Undeploy(which) => {
                if let Some((number, generation)) = self.root.pick(which) {
                    self.root.desired.remove(&number);
                    self.root_says(undeploy(number, generation));
                }
            }
            Fault::Replace(which) => {
                if let Some((number, generation)) = self.root.pick(which) {
                    self.root.desired.insert(number, generation + 1);
                    self.root_says(FromRoot::Deploy(Box::new(web(number, generation + 1))));
                }
            }
            Fault::RootGone => {
                self.root.connected = false;
                self.cluster.root_gone();
            }
            Fault::RootBack => self.connect_root(),
            Fault::Cut(worker) => {
                self.engines[worker].cut = true;
                self.lose_messages(|w| w == worker);
            }
            Fault::Heal(worker) => {
                if std::mem::take(&mut self.engines[worker].cut) {
                    self.reconnect(worker);
                }
            }
            Fault::Reboot(worker) => {
                self.lose_messages(|w| w == worker);
                self.engines[worker] = Engine::default();
                self.register(worker);
            }
            Fault::Crash(worker, which) => {
                let running: Vec<u32> = self.engines[worker]
                    .copies
                    .iter()
                    .filter(|(_, (_, status))| *status == InstanceStatus::Running)
                    .map(|(number, _)| *number)
                    .collect();
                if let Some(number) = running.get(which % running.len().max(1)) {
                    let copy = self.engines[worker].copies.get_mut(number).unwrap();
                    copy.1 = InstanceStatus::Dead;
                    let generation = copy.0;
                    self.report(worker, *number, generation, &InstanceStatus::Dead);
                }
            }
            Fault::Restart => {
                self.lose_messages(|_| true);
                self.root.connected = false;
                self.now = Time::ZERO;
                self.cluster = Cluster::new(Settings::new("edge"), self.records.clone());
                self.cluster.broker_connected(self.now);
                self.settle();
                for worker in 0..WORKERS {
                    self.reconnect(worker);
                }
                self.connect_root();
            }
            Fault::Deliver => self.deliver(),
            Fault::Pass(ticks) => self.pass(u32::from(ticks), false),
        }
    }

    /// Everything is repaired, and time enough passes for the longest back-off.
    fn heal(&mut self) {
        for worker in 0..WORKERS {
            self.inject(Fault::Heal(worker));
        }
        self.connect_root();
        self.pass(600, true);
    }
}

impl Root {
    fn pick(&self, which: usize) -> Option<(u32, Generation)> {
        let len = self.desired.len();
        self.desired.iter().nth(which % len.max(1)).map(|(n, g)| (*n, *g))
    }

    fn hears(&mut self, message: FromCluster) {
        match message {
            FromCluster::Snapshot { instances, .. } => {
                self.seen.clear();
                for observed in instances {
                    self.sees(observed);
                }
            }
            FromCluster::Instance(observed) => self.sees(*observed),
            FromCluster::TableQuery { request_id, .. } => {
                let numbers: Vec<u32> = self.desired.keys().copied().filter(|n| *n < 100).collect();
                let answer = web_answer(&numbers);
                self.answers.push_back(FromRoot::TableAnswer { request_id, answer });
            }
            _ => {}
        }
    }

    fn sees(&mut self, observed: Observed) {
        let number = observed.key.instance_number;
        if observed.status == InstanceStatus::Undeployed {
            self.seen.remove(&number);
            return;
        }
        match self.desired.get_mut(&number) {
            Some(generation) => *generation = observed.generation.max(*generation),
            None => self.answers.push_back(undeploy(number, observed.generation)),
        }
        self.seen.insert(number, observed);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_happens_in_the_end_each_wanted_instance_runs_once(faults in faults()) {
        let mut sim = Simulation::new();
        for fault in faults {
            sim.inject(fault);
        }
        sim.heal();

        let mut running: Vec<u32> = sim
            .engines
            .iter()
            .flat_map(|engine| engine.copies.iter())
            .filter(|(_, (_, status))| *status == InstanceStatus::Running)
            .map(|(number, _)| *number)
            .collect();
        running.sort_unstable();
        let desired: Vec<u32> = sim.root.desired.keys().copied().collect();
        prop_assert_eq!(&running, &desired, "running, desired");

        let seen: BTreeSet<u32> = sim.root.seen.keys().copied().collect();
        prop_assert_eq!(seen, desired.into_iter().collect::<BTreeSet<_>>(), "seen by the root");
        for (number, observed) in &sim.root.seen {
            prop_assert_eq!(&observed.status, &InstanceStatus::Running, "{}", number);
            let worker: usize = observed.worker_id.as_ref().unwrap()[1..].parse().unwrap();
            let (generation, _) = sim.engines[worker].copies[number];
            prop_assert_eq!(generation, observed.generation, "{}", number);
        }
    }
}

//! What instances use reaches those who balance by it, and costs next to nothing.

use xylem_types::load::{InstanceLoad, Loads};

use super::{
    network::{by_name, ready, run},
    *,
};

impl Bench {
    fn uses(&mut self, worker: &str, number: u32, cpu_percent: &str) {
        let mut usage = usage(WEB, number, 1);
        usage.cpu_percent = cpu_percent.into();
        self.says(worker, FromWorker::Resources(InstanceResources { services: vec![usage] }));
    }

    fn loads(&mut self) -> Vec<(String, Loads)> {
        self.take(|body| match body {
            ToWorker::Load(loads) => Some(loads.clone()),
            _ => None,
        })
    }

    /// Worker, instance number and value of all that was told.
    fn told(&mut self) -> Vec<(String, u32, f32)> {
        let mut told = Vec::new();
        for (worker, loads) in self.loads() {
            for service in loads.services {
                assert_eq!(service.app_name, WEB);
                let of = |l: InstanceLoad| (worker.clone(), l.instance_number, l.cpu_percent);
                told.extend(service.instances.into_iter().map(of));
            }
        }
        told
    }
}

#[test]
fn an_answer_has_what_each_instance_uses_now() {
    let mut bench = ready(&["a"]);
    run(&mut bench, 0, &[0]);
    let cpu = |bench: &mut Bench| {
        bench.says("a", by_name(WEB));
        bench.answers().remove(0).1.instance_list[0].cpu_percent
    };
    assert_eq!(cpu(&mut bench), None, "nobody knows yet");
    bench.uses("a", 0, "12.5");
    assert_eq!(cpu(&mut bench), Some(12.5));
    bench.uses("a", 0, "1e300");
    assert_eq!(cpu(&mut bench), Some(1e6), "what JSON can say");
    assert_eq!(bench.updates().len(), 1, "that it was attached, and nothing about its load");
}

#[test]
fn large_changes_are_told_soon_small_ones_later_and_to_the_interested_alone() {
    let all = ["a", "b", "c"];
    let mut bench = ready(&all);
    let on = run(&mut bench, 0, &[0]);
    let dials = if on == "b" { "c" } else { "b" };
    bench.says(dials, by_name(WEB));
    let told = |cpu| vec![(dials.to_owned(), 0, cpu)];

    bench.uses(&on, 0, "50");
    bench.pass(secs(2), &all);
    assert_eq!(bench.told(), told(50.0));
    bench.uses(&on, 0, "59");
    bench.pass(secs(6), &all);
    assert_eq!(bench.told(), []);
    bench.pass(secs(6), &all);
    assert_eq!(bench.told(), told(59.0));
    bench.uses(&on, 0, "69");
    bench.pass(secs(2), &all);
    assert_eq!(bench.told(), told(69.0));
    bench.uses(&on, 0, "69.5");
    bench.pass(secs(30), &all);
    assert_eq!(bench.told(), [], "nothing worth telling");
    assert_eq!(bench.updates().len(), 1, "nobody is made to ask");
}

#[test]
fn one_message_has_all_that_a_worker_is_to_be_told() {
    let mut bench = ready(&["a"]);
    run(&mut bench, 0, &[0]);
    run(&mut bench, 1, &[0, 1]);
    bench.says("a", by_name(WEB));
    for round in 0..5 {
        for number in [0, 1] {
            bench.uses("a", number, if round % 2 == 0 { "90" } else { "10" });
        }
    }
    bench.pass(secs(2), &["a"]);
    assert_eq!(bench.loads().len(), 1);
}

#[test]
fn what_is_used_in_other_clusters_is_told_without_asking_the_root() {
    let mut bench = ready(&["a"]);
    bench.says("a", by_name(WEB));
    let mut answer = web_answer(&[7]);
    answer.instance_list[0].namespace_ip = "10.18.9.2".into();
    answer.instance_list[0].cpu_percent = Some(5.0);
    bench.root_answers(&answer);
    assert_eq!(bench.answers()[0].1.instance_list[0].cpu_percent, Some(5.0));
    bench.pass(secs(2), &["a"]);
    bench.told();

    let load = vec![InstanceLoad { instance_number: 7, cpu_percent: 80.0 }];
    bench.root_says(FromRoot::ServiceChanged {
        job_name: WEB.into(),
        change: UpdateKind::Deployment,
        load,
    });
    assert_eq!(bench.queries(), Vec::<u64>::new());
    bench.pass(secs(2), &["a"]);
    assert_eq!(bench.told(), [("a".to_owned(), 7, 80.0)]);
    assert_eq!(bench.updates(), []);
    let stored = &bench.records.services[WEB].answer.instance_list[0];
    assert_eq!(stored.cpu_percent, None, "it is not of the lasting kind");
}

#[test]
fn a_worker_that_would_not_understand_is_told_nothing() {
    let mut bench = ready(&["a"]);
    bench.register("old");
    let on = run(&mut bench, 0, &[0]);
    bench.says("old", by_name(WEB));
    bench.uses(&on, 0, "50");
    bench.pass(secs(4), &["a", "old"]);
    assert_eq!(bench.loads(), []);
}

//! Workers that take nothing new, and those that are emptied.

use xylem_types::{instance::InstanceStatus, node::Availability, rest::DrainProgress};

use super::{Sim, admin, both_ready};

const MUNICH: usize = 0;
const PARIS: usize = 1;

/// These many instances run in Munich, and there is room in Paris.
fn running_in_munich(count: u32) -> Sim {
    let mut sim = both_ready();
    sim.set_availability(PARIS, Availability::Cordoned).unwrap();
    for _ in 0..count {
        sim.deploy();
    }
    sim.deliver();
    assert_eq!(running(&sim), [count as usize, 0]);
    sim.set_availability(PARIS, Availability::Active).unwrap();
    sim.deliver();
    sim
}

fn running(sim: &Sim) -> Vec<usize> {
    sim.clusters.iter().map(|cluster| cluster.running.len()).collect()
}

fn progress(sim: &Sim, which: usize) -> DrainProgress {
    let worker = sim.clusters[which].worker();
    let nodes = sim.state.nodes_view(sim.now());
    nodes.into_iter().find(|node| node.room.worker_id == worker).unwrap().drain.unwrap()
}

fn left(left: u32, draining: u32) -> DrainProgress {
    DrainProgress { left, draining, blocked: Vec::new() }
}

fn numbers(sim: &Sim) -> Vec<u32> {
    let wanted = sim.state.instances.iter().filter(|(_, instance)| !instance.removing);
    wanted.map(|(key, _)| key.instance_number).collect()
}

#[test]
fn a_cordoned_worker_gets_nothing_new_and_keeps_what_it_has() {
    let mut sim = running_in_munich(1);
    let node = sim.set_availability(MUNICH, Availability::Cordoned).unwrap();
    assert_eq!((node.availability, node.drain), (Availability::Cordoned, None));
    for _ in 0..5 {
        sim.deploy();
    }
    sim.deliver();
    sim.tick(1);
    assert_eq!(running(&sim), [1, 4], "and one waits");
    let waiting = sim.state.instances.values().find(|i| i.cluster_id.is_none()).unwrap();
    let why = &waiting.status_detail;
    assert!(why.contains("cordoned"), "{why}");
    sim.set_availability(MUNICH, Availability::Active).unwrap();
    sim.deliver();
    assert_eq!(running(&sim), [2, 4], "it is placed at once");
}

#[test]
fn a_drained_worker_is_emptied_one_by_one_and_each_runs_elsewhere_first() {
    let mut sim = running_in_munich(2);
    sim.set_availability(MUNICH, Availability::Draining).unwrap();
    assert_eq!(numbers(&sim), [0, 1, 2], "one at a time");
    sim.tick(1);
    assert_eq!(progress(&sim, MUNICH), left(2, 0), "until that one runs, nothing goes on");
    sim.deliver();
    assert_eq!(running(&sim), [2, 1]);

    sim.tick(1);
    assert_eq!(progress(&sim, MUNICH), left(1, 1));
    assert_eq!(numbers(&sim), [1, 2, 3]);
    sim.deliver();
    assert_eq!(running(&sim), [1, 2]);
    sim.tick(1);
    sim.deliver();
    assert_eq!(running(&sim), [0, 2]);
    assert_eq!(numbers(&sim), [2, 3]);
    assert!(progress(&sim, MUNICH).is_done());
    assert!(sim.state.instances.values().all(|i| i.replaces.is_none()), "like any other");
}

#[test]
fn one_that_is_replaced_drains_for_as_long_as_was_said() {
    use xylem_types::{
        rest::AvailabilityChange,
        session::{Drain, FromRoot},
    };
    let mut sim = running_in_munich(1);
    let worker = sim.clusters[MUNICH].worker();
    let change =
        AvailabilityChange { availability: Availability::Draining, drain_grace_ms: Some(90_000) };
    sim.change(|state, now| state.set_availability(&admin(), &worker, &change, now)).unwrap();
    sim.deliver();
    sim.tick(1);
    let told = sim.clusters[MUNICH].from_root.back();
    let Some(FromRoot::Undeploy { drain, drain_grace_ms, .. }) = told else { panic!("{told:?}") };
    assert_eq!((*drain, *drain_grace_ms), (Drain::Always, Some(90_000)));
}

#[test]
fn what_finds_no_place_stays_until_there_is_one() {
    let mut sim = running_in_munich(2);
    sim.set_availability(PARIS, Availability::Cordoned).unwrap();
    sim.set_availability(MUNICH, Availability::Draining).unwrap();
    for _ in 0..3 {
        sim.deliver();
        sim.tick(1);
    }
    assert_eq!(running(&sim), [2, 0]);
    let blocked = progress(&sim, MUNICH).blocked;
    assert_eq!(blocked.len(), 2, "one does not keep the other: {blocked:?}");
    assert!(
        blocked[0].contains("finds no place") && blocked[0].contains("cordoned"),
        "{blocked:?}"
    );

    sim.set_availability(PARIS, Availability::Active).unwrap();
    sim.heal();
    assert_eq!(running(&sim), [0, 2]);
    sim.check_count();
}

#[test]
fn an_order_that_is_taken_back_leaves_everything_as_it_was() {
    let mut sim = running_in_munich(1);
    sim.set_availability(PARIS, Availability::Cordoned).unwrap();
    sim.set_availability(MUNICH, Availability::Draining).unwrap();
    assert_eq!(numbers(&sim), [0, 1]);
    let node = sim.set_availability(MUNICH, Availability::Active).unwrap();
    assert_eq!(node.drain, None);
    sim.deliver();
    sim.tick(1);
    assert_eq!(numbers(&sim), [0]);
    assert_eq!(running(&sim), [1, 0]);
}

#[test]
fn who_removes_an_instance_that_is_being_replaced_gets_no_other() {
    let mut sim = running_in_munich(1);
    sim.set_availability(MUNICH, Availability::Draining).unwrap();
    let id = sim.service().unwrap();
    sim.change(|state, now| state.scale_down(&admin(), &id, Some(0), now)).unwrap();
    sim.deliver();
    sim.tick(1);
    assert_eq!(numbers(&sim), [0; 0]);
}

#[test]
fn what_runs_once_is_left_to_end() {
    let mut sim = running_in_munich(1);
    let id = sim.service().unwrap();
    let mut job = sim.state.services.get(&id).unwrap().clone();
    job.sla.one_shot = true;
    sim.state.services.put(id, job);
    sim.set_availability(MUNICH, Availability::Draining).unwrap();
    sim.tick(1);
    assert_eq!(numbers(&sim), [0]);
    let blocked = progress(&sim, MUNICH).blocked;
    assert!(blocked[0].contains("runs once"), "{blocked:?}");
    let key = sim.clusters[MUNICH].running.keys().next().unwrap().clone();
    sim.clusters[MUNICH].report(&key, 1, InstanceStatus::Completed);
    sim.deliver();
    assert!(progress(&sim, MUNICH).is_done());
}

#[test]
fn a_root_that_starts_again_goes_on_with_it() {
    let mut sim = running_in_munich(2);
    sim.set_availability(MUNICH, Availability::Draining).unwrap();
    sim.restart_root();
    sim.connect(PARIS);
    sim.deliver();
    sim.connect(MUNICH);
    sim.deliver();
    assert!(sim.clusters[MUNICH].cordoned, "it is told so when it is back");
    sim.heal();
    assert_eq!(running(&sim), [0, 2]);
    assert_eq!(numbers(&sim).len(), 2);
}

#[test]
fn a_worker_that_nobody_knows_is_not_found() {
    let mut sim = Sim::new();
    assert!(sim.set_availability(MUNICH, Availability::Draining).is_err());
}

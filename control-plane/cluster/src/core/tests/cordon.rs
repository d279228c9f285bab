//! Workers that take no new instances.

use xylem_types::instance::InstanceStatus::{Dead, Running};

use super::*;

fn cordoned(workers: &[&str]) -> FromRoot {
    FromRoot::Cordoned { workers: workers.iter().map(ToString::to_string).collect() }
}

/// Of the room that the root is told of.
fn cordoned_rooms(bench: &Bench) -> Vec<String> {
    let rooms = bench.cluster.resources().workers;
    rooms.into_iter().filter(|room| room.cordoned).map(|room| room.worker_id).collect()
}

#[test]
fn a_cordoned_worker_gets_nothing_new_and_keeps_what_it_has() {
    let mut bench = Bench::with_workers(&["a", "b"]);
    bench.deploy(web(0, 1));
    let (on, ..) = bench.deploys().remove(0);
    let other = if on == "a" { "b" } else { "a" };
    bench.report(&on, 0, 1, Running);
    bench.root_says(cordoned(&[&on]));
    assert_eq!(bench.deletes(), []);
    assert_eq!(cordoned_rooms(&bench), [on.as_str()]);
    for number in 1..4 {
        bench.deploy(web(number, 1));
    }
    let placed = bench.deploys();
    assert!(placed.len() == 3 && placed.iter().all(|(worker, ..)| worker == other), "{placed:?}");

    // What ends there by itself is started again where there is place for it.
    bench.report(&on, 0, 1, Dead);
    bench.pass(secs(2), &["a", "b"]);
    assert_eq!(bench.deploys(), [(other.to_owned(), 0, 2)]);
}

#[test]
fn what_a_lost_worker_ran_does_not_go_to_a_cordoned_one() {
    let mut bench = Bench::with_workers(&["a", "b"]);
    bench.root_says(cordoned(&["b"]));
    bench.deploy(web(0, 1));
    assert_eq!(bench.deploys(), [("a".to_owned(), 0, 1)]);
    bench.report("a", 0, 1, Running);
    bench.pass(secs(8), &["b"]);
    assert_eq!(bench.deploys(), []);
    let why = &bench.observed(0).unwrap().status_detail;
    assert!(why.contains("silent") && why.contains("cordoned"), "{why}");
    bench.root_says(cordoned(&[]));
    bench.pass(secs(3), &["b"]);
    assert_eq!(bench.deploys(), [("b".to_owned(), 0, 2)]);
}

#[test]
fn the_root_s_word_outlives_the_cluster_and_the_session() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.root_says(cordoned(&["a", "stranger"]));
    bench.cluster.root_gone();
    bench.restart();
    bench.beat("a");
    assert_eq!(cordoned_rooms(&bench), ["a"]);
    // A session begins with the whole list.
    bench.cluster.root_connected();
    bench.root_says(FromRoot::Welcome { cluster_id: "c1".into() });
    let cordoned = ["b".to_owned()].into();
    bench.root_says(FromRoot::Desired { placements: vec![web(0, 1)], cordoned });
    assert_eq!(cordoned_rooms(&bench), [""; 0]);
    assert_eq!(bench.deploys(), [("a".to_owned(), 0, 1)]);
}

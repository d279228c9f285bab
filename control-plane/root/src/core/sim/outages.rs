//! Clusters that go away, and what is counted of what they have not reported.

use xylem_types::{instance::InstanceStatus, session::FromRoot};

use super::{Sim, both_ready, cluster::SimCluster};

#[test]
fn what_a_cluster_had_not_confirmed_when_it_went_away_moves_to_another() {
    let mut sim = both_ready();
    sim.deploy();
    let instance = |sim: &Sim| sim.state.instances.values().next().unwrap().clone();
    let first = instance(&sim);
    let had = sim.clusters.iter().position(|c| !c.from_root.is_empty()).unwrap();
    let other = 1 - had;
    sim.disconnect(had);
    sim.tick(9);
    assert_eq!(instance(&sim), first, "it may be back soon");
    sim.clusters[other].resources();
    sim.deliver_to_root(other);
    sim.tick(1);
    assert_eq!(instance(&sim).generation, first.generation + 1);
    assert_ne!(instance(&sim).cluster_id, first.cluster_id);

    sim.deliver_to_cluster(other);
    sim.deliver_to_root(other);
    sim.connect(had);
    while !sim.clusters[had].from_root.is_empty() {
        sim.deliver_to_cluster(had);
    }
    assert!(sim.clusters[had].running.is_empty(), "it does not run where it was given first");
    assert_eq!(instance(&sim).status, InstanceStatus::Running);
}

#[test]
fn what_a_cluster_runs_stays_when_it_goes_away() {
    let mut sim = both_ready();
    sim.deploy();
    let had = sim.clusters.iter().position(|c| !c.from_root.is_empty()).unwrap();
    sim.deliver_to_cluster(had);
    sim.deliver_to_root(had);
    let before: Vec<_> = sim.state.instances.values().cloned().collect();
    sim.disconnect(had);
    for _ in 0..100 {
        sim.clusters[1 - had].resources();
        sim.deliver_to_root(1 - had);
        sim.tick(10);
    }
    let after: Vec<_> = sim.state.instances.values().cloned().collect();
    assert_eq!(after, before);
}

#[test]
fn a_burst_is_counted_before_any_report_of_resources_contains_it() {
    let mut sim = both_ready();
    for _ in 0..9 {
        sim.deploy();
    }
    let placed = |cluster: &SimCluster| {
        cluster.from_root.iter().filter(|m| matches!(m, FromRoot::Deploy(_))).count()
    };
    assert_eq!(sim.clusters.iter().map(placed).collect::<Vec<_>>(), [3, 4], "as many as fit");
    // What is running and reported is not counted twice.
    for which in 0..2 {
        while !sim.clusters[which].from_root.is_empty() {
            sim.deliver_to_cluster(which);
        }
        sim.clusters[which].cpus += 1;
        sim.clusters[which].resources();
        while !sim.clusters[which].to_root.is_empty() {
            sim.deliver_to_root(which);
        }
    }
    assert_eq!(sim.clusters.iter().map(placed).collect::<Vec<_>>(), [1, 1]);
}

//! What fails, and what goes on.

use xylem_types::mqtt::topic;

use crate::{WEB, World, eventually, wait::eventually_so, web};

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_worker_s_instance_moves_and_its_duplicate_is_removed() {
    let mut world = World::impatient(2).await;
    world.root.deploy(web(0, 1));
    let first = world.running(0, 1).await;
    world.workers[first].vanish();
    let second = world.running(0, 2).await;
    assert_ne!(first, second);
    assert_eq!(world.workers[first].generation(0), Some(1), "nobody could tell it");

    world.workers[first].appear().await;
    eventually("the duplicate is removed", || {
        world.workers[first].generation(0).is_none().then_some(())
    })
    .await;
    assert_eq!(world.workers[second].generation(0), Some(2));
    let observed = world.root.observed(0).unwrap();
    assert_eq!((observed.status.as_str(), observed.generation), ("RUNNING", 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_killed_goes_on_where_it_was_without_a_root() {
    let mut world = World::new(2).await;
    for number in 0..2 {
        world.root.deploy(web(number, 1));
        world.running(number, 1).await;
    }
    let before: Vec<_> = world.workers.iter().map(|w| w.generation(0)).collect();
    world.root.go_away().await;
    world.cluster.kill();
    world.cluster.start_again().await;

    // Nobody registers again.
    let grant = world.workers[1].get_subnet().await;
    assert_eq!(grant.address, "10.18.2.0");
    let answer = world.workers[0].ask("10.30.0.1").await;
    assert_eq!(answer.instance_list.len(), 2, "{answer:?}");
    assert!(answer.instance_list.iter().all(|e| e.namespace_ip.starts_with("10.18.1.1")));
    assert!(!world.cluster.status().await.connected_to_root);

    world.root.forget_what_was_heard();
    world.root.come_back().await;
    world.root.connected(2).await;
    for number in 0..2 {
        world.running(number, 1).await;
    }
    let after: Vec<_> = world.workers.iter().map(|w| w.generation(0)).collect();
    assert_eq!(before, after, "nothing was moved or started again");
    let metrics = world.cluster.metrics().await;
    assert!(metrics.contains("xylem_cluster_placements_total 0"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_mends_itself_while_the_root_is_away_and_tells_it_afterwards() {
    let mut world = World::impatient(2).await;
    world.root.deploy(web(0, 1));
    let first = world.running(0, 1).await;
    world.root.go_away().await;
    world.root.forget_what_was_heard();
    world.workers[first].vanish();
    let second = 1 - first;
    eventually("the other worker runs it", || {
        world.workers[second].generation(0).filter(|generation| *generation == 2)
    })
    .await;
    eventually_so("it can be dialled there", async || {
        let list = world.workers[second].ask(WEB).await.instance_list;
        list.into_iter().find(|e| e.namespace_ip == "10.18.1.10")
    })
    .await;

    world.root.come_back().await;
    assert_eq!(world.running(0, 2).await, second);
    assert_eq!(world.workers[second].generation(0), Some(2), "the root's word changed nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_root_decided_while_away_is_found_by_comparison() {
    let mut world = World::new(2).await;
    for number in 0..2 {
        world.root.deploy(web(number, 1));
        world.running(number, 1).await;
    }
    world.root.go_away().await;
    world.root.want(vec![web(1, 1), web(2, 1)]);
    world.root.come_back().await;
    world.running(2, 1).await;
    eventually("the one that is not wanted is removed", || {
        world.workers.iter().all(|worker| worker.generation(0).is_none()).then_some(())
    })
    .await;
    assert!(world.workers.iter().any(|worker| worker.generation(1) == Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_nobody_placed_is_removed() {
    let world = World::new(1).await;
    let worker = &world.workers[0];
    worker.run_unasked(7, 3);
    eventually("it is removed", || worker.generation(7).is_none().then_some(())).await;
    assert_eq!(worker.told(&topic::control_deploy(&worker.id)), 0);
}

//! The ordinary course of things.

use xylem_types::{
    load::{InstanceLoad, Loads, ServiceLoad},
    mqtt::{InterestRemove, PeersRequest, TableQuery, TunnelEndpoint, topic},
    session::{Drain, FromCluster, FromRoot, InstanceKey},
};

use crate::{WEB, World, eventually, wait::eventually_so, web};

#[tokio::test(flavor = "multi_thread")]
async fn instances_spread_run_and_are_found_by_every_address() {
    let world = World::new(3).await;
    for number in 0..3 {
        world.root.deploy(web(number, 1));
    }
    let mut on = Vec::new();
    for number in 0..3 {
        on.push(world.running(number, 1).await);
    }
    on.sort_unstable();
    assert_eq!(on, [0, 1, 2], "one on each worker");
    let observed = world.root.observed(0).unwrap();
    assert_eq!(observed.worker_name, "one-host-for-all");
    assert_eq!((observed.host_ip.as_str(), observed.host_port), ("127.0.0.1", 50103));
    assert_eq!(observed.namespace_ip, Some([10, 18, 1, 10].into()));

    for words in [WEB, "10.30.0.1", "10.30.0.102"] {
        let answer = world.workers[0].ask(words).await;
        assert_eq!((answer.app_name.as_str(), answer.query_key.as_str()), (WEB, words));
        let mut found: Vec<_> =
            answer.instance_list.iter().map(|e| e.namespace_ip.as_str()).collect();
        found.sort_unstable();
        assert_eq!(found, ["10.18.1.10", "10.18.1.11", "10.18.1.12"]);
    }
    assert_eq!(world.workers[0].ask("10.30.99.99").await.app_name, "");

    eventually("the root hears what instances use", || {
        world.root.observed(0).filter(|o| o.cpu_percent == 1.5 && o.logs == "ready\n")
    })
    .await;
    eventually_so("the metrics show it", async || {
        let metrics = world.cluster.metrics().await;
        metrics.contains("xylem_cluster_instances{status=\"RUNNING\"} 3").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_know_one_another_before_they_meet() {
    let mut world = World::new(2).await;
    let grant = world.workers[0].get_subnet().await;
    assert_eq!(grant.address, "10.18.1.0", "the same as before");
    eventually("each is told of the other", || {
        (world.workers[0].peers() == ["worker-1"] && world.workers[1].peers() == ["worker-0"])
            .then_some(())
    })
    .await;
    eventually("the root can announce them", || (world.root.workers().len() == 2).then_some(()))
        .await;
}

fn undeploy(key: InstanceKey) -> FromRoot {
    FromRoot::Undeploy {
        key,
        job_name: WEB.into(),
        generation: 1,
        drain: Drain::Always,
        drain_grace_ms: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_drains_through_a_crash_of_the_cluster_and_then_stops() {
    let mut world = World::draining(2).await;
    world.root.deploy(web(0, 1));
    let on = world.running(0, 1).await;
    let updates = topic::updates_available(WEB);
    let other = &world.workers[1 - on];
    other.ask(WEB).await;
    let before = other.told(&updates);
    world.root.send(undeploy(InstanceKey { job_id: "job-web".into(), instance_number: 0 }));
    eventually("who asked hears of it", || (other.told(&updates) > before).then_some(())).await;
    assert!(other.ask(WEB).await.instance_list[0].draining);

    world.root.want(vec![]);
    world.cluster.kill();
    world.cluster.start_again().await;
    let other = &world.workers[1 - on];
    let entry = other.ask(WEB).await.instance_list.remove(0);
    assert!(entry.draining && !entry.namespace_ip.is_empty(), "{entry:?}");
    assert_eq!(world.workers[on].generation(0), Some(1), "it runs on");
    assert_eq!(world.workers[on].told(&topic::control_delete(&world.workers[on].id)), 0);
    eventually("it is stopped", || world.workers[on].generation(0).is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_told_what_instances_use_and_who_sends() {
    let world = World::new(2).await;
    world.root.deploy(web(0, 1));
    let on = world.running(0, 1).await;
    let other = &world.workers[1 - on];
    other.ask(WEB).await;
    let loads: Loads =
        eventually("it is told of the load", || other.last(&topic::load(&other.id))).await;
    let instances = vec![InstanceLoad { instance_number: 0, cpu_percent: 1.5 }];
    assert_eq!(loads.services, [ServiceLoad { app_name: WEB.into(), instances }]);
    eventually_so("an answer has it as well", async || {
        other.ask(WEB).await.instance_list[0].cpu_percent.filter(|cpu| *cpu == 1.5)
    })
    .await;

    let peers = topic::peers(&other.id);
    eventually("it knows its peers", || (other.peers().len() == 1).then_some(())).await;
    let before = other.told(&peers);
    let sender = TunnelEndpoint { host_ip: [127, 0, 0, 1].into(), host_port: 50103 };
    other.say(&topic::peers_request(&other.id), &PeersRequest { sender }).await;
    eventually("it is told again", || (other.told(&peers) > before).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_asked_hear_of_changes_until_they_no_longer_care() {
    let world = World::new(2).await;
    world.root.deploy(web(0, 1));
    let on = world.running(0, 1).await;
    let other = &world.workers[1 - on];
    other.ask(WEB).await;
    let updates = topic::updates_available(WEB);
    let before = other.told(&updates);

    world.root.deploy(web(1, 1));
    world.running(1, 1).await;
    eventually("the worker hears of the second instance", || {
        (other.told(&updates) > before).then_some(())
    })
    .await;
    eventually_so("and finds it", async || {
        (other.ask(WEB).await.instance_list.len() == 2).then_some(())
    })
    .await;

    for number in 0..2 {
        let key = InstanceKey { job_id: "job-web".into(), instance_number: number };
        world.root.send(undeploy(key));
        eventually("the instance is gone", || {
            world.root.observed(number).filter(|o| o.status.as_str() == "UNDEPLOYED")
        })
        .await;
    }
    assert!(world.workers.iter().all(|worker| worker.generation(0).is_none()));
    let told = FromCluster::InterestRemove { job_name: WEB.into() };
    assert!(!world.root.heard(&told), "a worker still holds an interest");
    other.say(&topic::interest_remove(&other.id), &InterestRemove { appname: WEB.into() }).await;
    eventually("the root hears that nobody is interested", || {
        world.root.heard(&told).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_service_is_asked_of_the_root_once() {
    let world = World::new(2).await;
    for worker in &world.workers {
        assert_eq!(worker.ask("10.30.0.7").await.app_name, "");
    }
    let query = TableQuery { sname: String::new(), sip: "10.30.0.7".into() };
    let asked = |request_id| FromCluster::TableQuery { request_id, query: query.clone() };
    let times = (1..100).filter(|id| world.root.heard(&asked(*id))).count();
    assert_eq!(times, 1, "the second was answered from what the first had learned");
}

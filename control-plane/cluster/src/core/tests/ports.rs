//! A port of a node is published by one instance at a time.

use xylem_types::instance::InstanceStatus::{Running, Undeployed};

use super::{network::ready, *};

fn publishing(number: u32, port: &str) -> Placement {
    let mut placement = web(number, 1);
    placement.command.port = port.into();
    placement
}

#[test]
fn a_port_that_is_published_keeps_others_away_until_its_instance_is_gone() {
    let mut bench = ready(&["a", "b"]);
    for number in [0, 1] {
        bench.deploy(publishing(number, "8080:80;53/udp"));
    }
    let deploys = bench.deploys();
    assert_ne!(deploys[0].0, deploys[1].0, "one a node: {deploys:?}");
    bench.deploy(publishing(2, "9000;8080:81/tcp"));
    assert_eq!(bench.deploys(), []);
    assert_eq!(bench.status(2), "NO_WORKER_CAPACITY");
    assert_eq!(
        bench.observed(2).unwrap().status_detail,
        "host-a: node port 8080/tcp is published by another instance there; \
         host-b: node port 8080/tcp is published by another instance there"
    );
    bench.deploy(publishing(3, "8080/udp"));
    assert_eq!(bench.deploys().len(), 1, "another protocol");

    // While one drains, its port is still its own.
    let (on, number, _) = deploys[0].clone();
    bench.attached(&on, number, "10.18.1.9");
    bench.report(&on, number, 1, Running);
    bench.root_says(undeploy(number, 1));
    bench.pass(secs(5), &["a", "b"]);
    assert_eq!(bench.status(2), "NO_WORKER_CAPACITY");
    bench.pass(secs(6), &["a", "b"]);
    bench.deploys();
    bench.report(&on, number, 1, Undeployed);
    bench.pass(secs(3), &["a", "b"]);
    let given: Vec<_> = bench.deploys().into_iter().filter(|d| d.1 == 2).collect();
    assert_eq!(given[0].0, on);
}

#[test]
fn the_root_is_told_which_ports_are_taken() {
    let mut bench = ready(&["a"]);
    bench.deploy(publishing(0, "8080:80;53/udp"));
    let room = &bench.cluster.resources().workers[0];
    let taken: Vec<_> = room.node_ports.iter().map(ToString::to_string).collect();
    assert_eq!(taken, ["53/udp", "8080/tcp"]);
    let command = bench.take(|body| match body {
        ToWorker::Deploy(command) => Some(command.port.clone()),
        _ => None,
    });
    assert_eq!(command[0].1, "8080:80;53/udp", "the worker publishes what the user wrote");
}

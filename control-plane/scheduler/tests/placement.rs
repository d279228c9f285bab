//! What every placement decision must keep to, over arbitrary rooms and requests.

use proptest::prelude::*;
use xylem_scheduler::{
    ClusterCandidate, Reason, RefusalKind, Request, WorkerCandidate, rank_clusters, rank_workers,
    reserve,
};
use xylem_types::{
    port::{NodePort, Protocol, node_ports},
    session::WorkerRoom,
};

fn worker(id: &str, vcpus: f64, memory: f64) -> WorkerRoom {
    WorkerRoom {
        worker_id: id.into(),
        name: format!("host-{id}"),
        free_vcpus: vcpus,
        free_memory: memory,
        total_vcpus: vcpus,
        total_memory: memory,
        architecture: "amd64".into(),
        virtualization: vec!["docker".into()],
        ..WorkerRoom::default()
    }
}

fn candidates(rooms: &[WorkerRoom]) -> Vec<WorkerCandidate<'_>> {
    rooms.iter().map(|room| WorkerCandidate { room, same_service: 0 }).collect()
}

fn request(vcpus: f64, memory: u64) -> Request {
    Request { vcpus, memory, virtualization: "docker".into(), ..Request::default() }
}

/// One of a few, so that they meet.
fn node_port() -> impl Strategy<Value = NodePort> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)];
    (80..84u16, protocol).prop_map(|(port, protocol)| NodePort { port, protocol })
}

prop_compose! {
    fn any_room()(
        id in "[a-f]{1,4}",
        free_vcpus in 0.0..16.0f64,
        taken_vcpus in 0.0..16.0f64,
        free_memory in 0.0..4096.0f64,
        taken_memory in 0.0..4096.0f64,
        free_vgpus in 0..3u32,
        arm: bool,
        docker: bool,
        csi: bool,
        cordoned: bool,
        instances in 0..5u32,
        published in prop::collection::btree_set(node_port(), 0..3),
    ) -> WorkerRoom {
        WorkerRoom {
            name: format!("host-{id}"),
            worker_id: id,
            free_vcpus,
            free_memory,
            free_vgpus,
            total_vcpus: free_vcpus + taken_vcpus,
            total_memory: free_memory + taken_memory,
            instances,
            node_ports: published,
            cordoned,
            architecture: if arm { "arm64" } else { "amd64" }.into(),
            virtualization: if docker { vec!["docker".into()] } else { vec!["unikernel".into()] },
            csi_drivers: if csi { vec!["hostpath".into()] } else { vec![] },
            ..WorkerRoom::default()
        }
    }
}

prop_compose! {
    fn any_request()(
        vcpus in 0.0..16.0f64,
        memory in 0..4096u64,
        vgpus in 0..3u32,
        unikernel: bool,
        arm: bool,
        csi: bool,
        direct: bool,
        publish in prop::collection::btree_set(node_port(), 0..2),
    ) -> Request {
        Request {
            vcpus,
            memory,
            vgpus,
            node_ports: publish,
            virtualization: if unikernel { "unikernel" } else { "docker" }.into(),
            architectures: if arm { vec!["arm64".into()] } else { vec![] },
            csi_drivers: if csi { vec!["hostpath".into()] } else { vec![] },
            allowed_workers: if direct { vec!["host-a".into(), "b".into()] } else { vec![] },
            ..Request::default()
        }
    }
}

proptest! {
    #[test]
    fn a_chosen_worker_has_what_was_asked_for(
        request in any_request(), rooms in prop::collection::vec(any_room(), 0..8),
    ) {
        match rank_workers(&request, &candidates(&rooms)) {
            Ok(ranked) => for room in ranked {
                prop_assert!(!room.cordoned);
                prop_assert!(room.free_vcpus >= request.vcpus);
                prop_assert!(room.free_memory >= request.memory as f64);
                prop_assert!(room.free_vgpus >= request.vgpus);
                prop_assert!(room.node_ports.is_disjoint(&request.node_ports));
                prop_assert!(room.virtualization.contains(&request.virtualization));
                prop_assert!(request.architectures.is_empty()
                    || request.architectures.contains(&room.architecture));
                prop_assert!(request.csi_drivers.iter().all(|d| room.csi_drivers.contains(d)));
                prop_assert!(request.allowed_workers.is_empty()
                    || room.name == "host-a" || room.worker_id == "b");
            },
            Err(refusal) => prop_assert_eq!(refusal.reasons.len(), rooms.len()),
        }
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter(
        request in any_request(), rooms in prop::collection::vec(any_room(), 1..8),
    ) {
        let mut rooms = rooms;
        rooms.sort_by(|a, b| a.worker_id.cmp(&b.worker_id));
        rooms.dedup_by(|a, b| a.worker_id == b.worker_id);
        let forward = rank_workers(&request, &candidates(&rooms))
            .map(|r| r.into_iter().cloned().collect::<Vec<_>>());
        let mut reversed = rooms.clone();
        reversed.reverse();
        let backward = rank_workers(&request, &candidates(&reversed))
            .map(|r| r.into_iter().cloned().collect::<Vec<_>>());
        prop_assert_eq!(forward.ok(), backward.ok());
    }

    /// More room never makes a fitting worker unfit, nor ranks it behind one it was ahead of.
    #[test]
    fn more_room_never_hurts(
        request in any_request(),
        rooms in prop::collection::vec(any_room(), 1..6),
        which: prop::sample::Index,
        vcpus in 0.0..8.0f64,
        memory in 0.0..2048.0f64,
    ) {
        let mut rooms = rooms;
        rooms.sort_by(|a, b| a.worker_id.cmp(&b.worker_id));
        rooms.dedup_by(|a, b| a.worker_id == b.worker_id);
        let which = which.index(rooms.len());
        let id = rooms[which].worker_id.clone();
        let place = |rooms: &[WorkerRoom]| rank_workers(&request, &candidates(rooms))
            .ok()
            .and_then(|ranked| ranked.iter().position(|room| room.worker_id == id));
        let before = place(&rooms);
        // Somebody leaves: what was taken becomes free, the machine stays as it is.
        let room = &mut rooms[which];
        room.free_vcpus = (room.free_vcpus + vcpus).min(room.total_vcpus);
        room.free_memory = (room.free_memory + memory).min(room.total_memory);
        let after = place(&rooms);
        if let Some(before) = before {
            prop_assert!(after.is_some_and(|after| after <= before), "{before} -> {after:?}");
        }
    }

    #[test]
    fn a_burst_spreads_evenly_over_equal_workers(
        workers in 1..9usize,
        instances in 0..40usize,
        vcpus in prop_oneof![Just(0.0), 0.01..0.2f64],
        memory in prop_oneof![Just(0u64), 1..50u64],
    ) {
        let request = request(vcpus, memory);
        let mut rooms: Vec<_> =
            (0..workers).map(|i| worker(&format!("w{i}"), 16.0, 16_000.0)).collect();
        for _ in 0..instances {
            let chosen = rank_workers(&request, &candidates(&rooms)).unwrap()[0].worker_id.clone();
            reserve(&request, rooms.iter_mut().find(|r| r.worker_id == chosen).unwrap());
        }
        let placed = rooms.iter().map(|r| r.instances);
        prop_assert!(placed.clone().max().unwrap() - placed.min().unwrap() <= 1);
    }

    #[test]
    fn a_burst_spreads_evenly_over_equal_clusters(
        clusters in 1..5usize, workers in 1..4usize, instances in 0..30usize,
    ) {
        let request = request(0.1, 10);
        let mut rooms: Vec<Vec<WorkerRoom>> = (0..clusters)
            .map(|c| (0..workers).map(|w| worker(&format!("c{c}w{w}"), 16.0, 16_000.0)).collect())
            .collect();
        for _ in 0..instances {
            let ids: Vec<_> = (0..clusters).map(|c| format!("c{c}")).collect();
            let all: Vec<_> = rooms
                .iter()
                .zip(&ids)
                .map(|(workers, id)| ClusterCandidate { id, name: id, workers, same_service: 0 })
                .collect();
            let chosen = rank_clusters(&request, &all).unwrap()[0].worker.worker_id.clone();
            let room = rooms.iter_mut().flatten().find(|r| r.worker_id == chosen).unwrap();
            reserve(&request, room);
        }
        let placed = rooms.iter().map(|c| c.iter().map(|r| r.instances).sum::<u32>());
        prop_assert!(placed.clone().max().unwrap() - placed.min().unwrap() <= 1);
    }

    /// Placing until nobody fits never takes more than there was.
    #[test]
    fn reservations_never_exceed_the_machine(
        rooms in prop::collection::vec(any_room(), 1..6), vcpus in 0.5..4.0f64, memory in 64..512u64,
    ) {
        let request = request(vcpus, memory);
        let mut rooms = rooms;
        for (i, room) in rooms.iter_mut().enumerate() {
            room.worker_id = format!("w{i}");
        }
        while let Ok(ranked) = rank_workers(&request, &candidates(&rooms)) {
            let chosen = ranked[0].worker_id.clone();
            reserve(&request, rooms.iter_mut().find(|r| r.worker_id == chosen).unwrap());
        }
        prop_assert!(rooms.iter().all(|r| r.free_vcpus >= 0.0 && r.free_memory >= 0.0));
    }
}

#[test]
fn the_emptier_worker_is_taken() {
    let mut busy = worker("a", 8.0, 8000.0);
    busy.free_vcpus = 2.0;
    let rooms = [busy, worker("b", 4.0, 4000.0)];
    let ranked = rank_workers(&request(1.0, 100), &candidates(&rooms)).unwrap();
    assert_eq!(ranked.iter().map(|r| r.worker_id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
}

#[test]
fn instances_of_one_service_go_to_different_workers_first() {
    let rooms = [worker("big", 64.0, 64_000.0), worker("small", 4.0, 4000.0)];
    let candidates = [
        WorkerCandidate { room: &rooms[0], same_service: 1 },
        WorkerCandidate { room: &rooms[1], same_service: 0 },
    ];
    assert_eq!(rank_workers(&request(1.0, 100), &candidates).unwrap()[0].worker_id, "small");
}

#[test]
fn a_refusal_names_every_candidate_and_its_reason() {
    let mut unikernels = worker("u", 8.0, 8000.0);
    unikernels.virtualization = vec!["unikernel".into()];
    let rooms = [worker("a", 1.0, 8000.0), worker("b", 8.0, 64.0), unikernels];
    let refusal = rank_workers(&request(2.0, 128), &candidates(&rooms)).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "host-a: 2 vcpus needed, 1.00 free; host-b: 128 MB of memory needed, 64 free; \
         host-u: does not run docker"
    );
    assert_eq!(refusal.kind(), RefusalKind::NoCapacity);
}

#[test]
fn a_cluster_whose_workers_fit_only_together_is_refused() {
    let workers = [worker("a", 2.0, 1000.0), worker("b", 2.0, 1000.0)];
    let cluster = ClusterCandidate { id: "c", name: "edge", workers: &workers, same_service: 0 };
    let refusal = rank_clusters(&request(3.0, 100), &[cluster]).unwrap_err();
    assert_eq!(refusal.kind(), RefusalKind::NoCapacity);
    assert!(matches!(&refusal.reasons[0], (name, Reason::Workers(_)) if name == "edge"));
}

#[test]
fn constraints_that_nobody_meets_are_told_from_a_lack_of_room() {
    let workers = [worker("a", 2.0, 1000.0)];
    let cluster = ClusterCandidate { id: "c", name: "edge", workers: &workers, same_service: 0 };
    let elsewhere = Request { allowed_clusters: vec!["other".into()], ..request(0.0, 0) };
    assert_eq!(
        rank_clusters(&elsewhere, &[cluster]).unwrap_err().kind(),
        RefusalKind::NoneQualified
    );
    let here = Request { allowed_clusters: vec!["edge".into()], ..request(0.0, 0) };
    assert_eq!(rank_clusters(&here, &[cluster]).unwrap()[0].worker.worker_id, "a");
    assert_eq!(rank_workers(&request(0.0, 0), &[]).unwrap_err().kind(), RefusalKind::NoCapacity);
}

#[test]
fn a_port_of_a_node_is_given_once() {
    let publishing = |ports| Request { node_ports: node_ports(ports), ..request(0.1, 10) };
    let web = publishing("8080:80;53:53/udp");
    let mut rooms = [worker("a", 8.0, 8000.0), worker("b", 8.0, 8000.0)];
    for expected in ["a", "b"] {
        let chosen = rank_workers(&web, &candidates(&rooms)).unwrap()[0].worker_id.clone();
        assert_eq!(chosen, expected);
        reserve(&web, rooms.iter_mut().find(|r| r.worker_id == chosen).unwrap());
    }
    let refusal = rank_workers(&publishing("53/udp;9000"), &candidates(&rooms)).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "host-a: node port 53/udp is published by another instance there; \
         host-b: node port 53/udp is published by another instance there"
    );
    assert_eq!(refusal.kind(), RefusalKind::NoCapacity, "one may leave");
    assert!(rank_workers(&publishing("53/tcp;8080/udp"), &candidates(&rooms)).is_ok());
}

#[test]
fn a_cordoned_worker_is_told_from_one_that_would_never_do() {
    let cordoned = WorkerRoom { cordoned: true, ..worker("a", 8.0, 8000.0) };
    let refusal = rank_workers(&request(1.0, 100), &candidates(&[cordoned])).unwrap_err();
    assert_eq!(refusal.to_string(), "host-a: takes no new instances: it is cordoned or drained");
    assert_eq!(refusal.kind(), RefusalKind::NoCapacity, "it may be taken back");
}

#[test]
fn workers_of_one_host_name_can_be_named_by_id() {
    let mut rooms = [worker("1", 2.0, 1000.0), worker("2", 2.0, 1000.0)];
    for room in &mut rooms {
        room.name = "same".into();
    }
    let request = Request { allowed_workers: vec!["2".into()], ..request(0.0, 0) };
    let ranked = rank_workers(&request, &candidates(&rooms)).unwrap();
    assert_eq!(ranked.iter().map(|r| r.worker_id.as_str()).collect::<Vec<_>>(), ["2"]);
}

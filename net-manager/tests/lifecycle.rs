//! Instances come and go, net managers die and start, and nothing is left or lost.

mod support;

use hyper::StatusCode;
use support::{
    Host, UPLINK_MTU,
    cluster::{self, Cluster},
    on_a_new_host,
    process::Process,
    wait_for,
};

const WEB: &str = "shop.prod.web.prod";
const WEB_RR: [u8; 4] = [10, 30, 0, 1];
const WEB_0: [u8; 4] = [10, 30, 0, 2];

#[test]
fn an_instance_is_wired_when_deploy_answers_and_undeploy_leaves_nothing() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, WEB_RR, &[(0, WEB_0)]);
        let manager = host.start().await;
        let interfaces = host.interfaces().await;
        let links = host.links();
        manager.register().await;

        let process = Process::start().await;
        let deployed = manager.deploy(WEB, 0, &process).await;
        assert_eq!(deployed.ns_address.to_string(), "10.18.0.66");
        assert_eq!(deployed.ns_addressv6.unwrap().to_string(), "fc00::102");

        let address = process.ip("-o -4 addr show eth0");
        assert!(address.contains("inet 10.18.0.66/32"), "{address}");
        let route = process.ip("route show default");
        assert!(route.contains("default via 169.254.1.1 dev eth0"), "{route}");
        let neighbour = process.ip("neigh show 169.254.1.1");
        let ifname = host.instance_interface().await;
        let near = host.netlink.get(&ifname).await.unwrap();
        let mac = near.mac.map(|byte| format!("{byte:02x}")).join(":");
        assert!(neighbour.contains(&mac) && neighbour.contains("PERMANENT"), "{neighbour}");
        let link = process.ip("-o link show eth0");
        assert!(link.contains(&format!("mtu {}", UPLINK_MTU - 28)), "{link}");
        let address = process.ip("-o -6 addr show dev eth0");
        assert!(address.contains("inet6 fc00::102/128"), "{address}");
        assert!(!address.contains("fe80") && !address.contains("tentative"), "{address}");
        let route = process.ip("-6 route show default");
        assert!(route.contains("default via fe80::1 dev eth0"), "{route}");
        assert!(process.ip("-o link show lo").contains("UP"));

        let endpoints = host.maps().endpoints().unwrap();
        let by_v4: Vec<_> = endpoints.iter().filter(|(addr, _)| addr.is_v4()).collect();
        assert_eq!(by_v4.len(), 2, "by namespace IP and by instance IP: {endpoints:?}");
        assert!(by_v4.iter().all(|(_, e)| e.instance_ip.to_string() == "10.30.0.2"));
        assert!(endpoints.iter().any(|(addr, _)| addr.to_string() == "fc00::102"));
        assert!(endpoints.iter().all(|(_, endpoint)| endpoint.ifindex == near.index));
        assert!(host.links().contains(&ifname));

        manager.undeploy(WEB, 0).await;
        manager.undeploy(WEB, 0).await;
        let dropped: Vec<_> = host.maps().drops().unwrap();
        assert!(dropped.iter().all(|(_, count)| count.packets == 0), "{dropped:?}");
        assert_eq!(host.interfaces().await, interfaces);
        assert_eq!(host.links(), links);
        assert!(host.maps().endpoints().unwrap().is_empty());
        wait_for("announcement", || async {
            let undeployed = cluster.state.lock().unwrap().undeployed.len();
            if undeployed == 1 { Ok(()) } else { Err(format!("{undeployed} announcements")) }
        })
        .await;
        manager.stop().await;
    });
}

#[test]
fn deploy_is_idempotent_for_a_process_and_moves_to_another() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, WEB_RR, &[(0, WEB_0)]);
        let manager = host.start().await;
        manager.register().await;
        let (first, second) = (Process::start().await, Process::start().await);
        let deployed = manager.deploy(WEB, 0, &first).await;
        let before = host.netlink.get(&host.instance_interface().await).await.unwrap();
        assert_eq!(manager.deploy(WEB, 0, &first).await, deployed);
        let after = host.netlink.get(&host.instance_interface().await).await.unwrap();
        assert_eq!(before, after, "nothing was made anew");

        let moved = manager.deploy(WEB, 0, &second).await;
        assert_ne!(moved.ns_address, deployed.ns_address, "an address rests before its next use");
        assert!(second.ip("addr show eth0").contains(&moved.ns_address.to_string()));
        assert!(!first.ip("link").contains("eth0"));
        let endpoints = host.maps().endpoints().unwrap();
        assert_eq!(endpoints.iter().filter(|(addr, _)| addr.is_v4()).count(), 2, "{endpoints:?}");
        manager.stop().await;
    });
}

#[test]
fn refusals_say_why_and_leave_nothing() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, WEB_RR, &[]);
        let manager = host.start().await;
        let interfaces = host.interfaces().await;
        let process = Process::start().await;

        let early = manager.try_deploy(WEB, 0, process.pid()).await;
        assert_eq!(early.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(early.refusal().contains("POST /register"), "{}", early.refusal());
        manager.register().await;

        let nobody = manager.try_deploy(WEB, 0, i32::MAX).await;
        assert_eq!(nobody.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(nobody.refusal().contains("no process"), "{}", nobody.refusal());
        // Of this thread, which is in the net manager's own namespace.
        let ours = manager.try_deploy(WEB, 0, nix::unistd::gettid().as_raw()).await;
        assert_eq!(ours.status, StatusCode::UNPROCESSABLE_ENTITY);
        assert!(ours.refusal().contains("namespace of its own"), "{}", ours.refusal());
        let nameless = manager.try_deploy("", 0, process.pid()).await;
        assert_eq!(nameless.status, StatusCode::UNPROCESSABLE_ENTITY);
        let nonsense = manager.request(hyper::Method::POST, "/container/deploy", b"{".into());
        assert!(nonsense.await.unwrap().status.is_client_error());

        process.ip("link add eth0 type veth peer name other");
        let taken = manager.try_deploy(WEB, 0, process.pid()).await;
        assert_eq!(taken.status, StatusCode::CONFLICT);
        assert!(taken.refusal().contains("eth0"), "{}", taken.refusal());

        assert_eq!(host.interfaces().await, interfaces);
        assert!(host.maps().endpoints().unwrap().is_empty());
        manager.stop().await;
    });
}

#[test]
fn a_full_subnet_is_refused_and_an_undeploy_makes_room() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        let numbers: Vec<(u32, [u8; 4])> = (0..62).map(|n| (n, [10, 30, 1, n as u8])).collect();
        cluster.declare(WEB, WEB_RR, &numbers);
        let manager = host.start().await;
        manager.register().await;
        let processes = futures::future::join_all((0..62).map(|_| Process::start())).await;
        // At once, as a node engine does it after a restart.
        let deployments = (0..61).zip(&processes).map(|(n, p)| manager.deploy(WEB, n, p));
        let mut addresses: Vec<_> =
            futures::future::join_all(deployments).await.iter().map(|d| d.ns_address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 61);

        let interfaces = host.interfaces().await;
        let full = manager.try_deploy(WEB, 61, processes[61].pid()).await;
        assert_eq!(full.status, StatusCode::CONFLICT);
        assert!(full.refusal().contains("10.18.0.64/26"), "{}", full.refusal());
        assert_eq!(host.interfaces().await, interfaces);

        manager.undeploy(WEB, 7).await;
        manager.deploy(WEB, 61, &processes[61]).await;
        manager.stop().await;
    });
}

#[test]
fn a_net_manager_takes_over_what_the_one_before_left() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, WEB_RR, &[(0, WEB_0), (1, [10, 30, 0, 3])]);
        let manager = host.start().await;
        manager.register().await;
        let process = Process::start().await;
        let deployed = manager.deploy(WEB, 0, &process).await;
        let before = snapshot(&host).await;
        manager.kill().await;
        assert_eq!(snapshot(&host).await, before, "the data path stays while nobody is there");

        let manager = host.start().await;
        assert_eq!(snapshot(&host).await, before);
        assert_eq!(manager.deploy(WEB, 0, &process).await, deployed, "it is known again");
        let other = Process::start().await;
        let second = manager.deploy(WEB, 1, &other).await;
        assert_ne!(second.ns_address, deployed.ns_address, "its address is taken");
        manager.undeploy(WEB, 1).await;
        manager.undeploy(WEB, 0).await;
        assert!(host.maps().endpoints().unwrap().is_empty());
        manager.stop().await;
    });
}

/// The program on every interface's ingress, by its number.
async fn programs(host: &Host) -> Vec<(String, Vec<u32>)> {
    let mut programs = Vec::new();
    for link in host.netlink.links().await.unwrap() {
        let (_, attached) = aya::programs::SchedClassifier::query_tcx(
            &link.name,
            aya::programs::TcAttachType::Ingress,
        )
        .unwrap();
        if !attached.is_empty() {
            programs.push((link.name, attached.iter().map(|program| program.id()).collect()));
        }
    }
    programs.sort();
    programs
}

#[test]
fn an_upgrade_replaces_every_program_where_it_is() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, WEB_RR, &[(0, WEB_0)]);
        let manager = host.start().await;
        manager.register().await;
        let process = Process::start().await;
        manager.deploy(WEB, 0, &process).await;
        let before = programs(&host).await;
        manager.kill().await;
        assert_eq!(programs(&host).await, before);

        let manager = host.start().await;
        let after = programs(&host).await;
        assert_eq!(after.len(), before.len(), "{before:?} {after:?}");
        for ((interface, old), (same_interface, new)) in before.iter().zip(&after) {
            assert_eq!(interface, same_interface);
            assert_eq!((old.len(), new.len()), (1, 1), "one program on {interface}");
            assert_ne!(old, new, "the old program is still on {interface}");
        }
        manager.stop().await;
    });
}

#[test]
fn what_was_half_done_is_finished_at_the_start() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, WEB_RR, &[(0, WEB_0), (1, [10, 30, 0, 3])]);
        let manager = host.start().await;
        let (interfaces, links) = (host.interfaces().await, host.links());
        manager.register().await;
        let (undeployed, died) = (Process::start().await, Process::start().await);
        manager.deploy(WEB, 0, &undeployed).await;
        manager.deploy(WEB, 1, &died).await;
        manager.kill().await;

        // Killed in the middle of an undeploy: out of the maps, but the interface is there …
        let mut maps = host.maps();
        let (ns_ip, half) = maps
            .endpoints()
            .unwrap()
            .into_iter()
            .find(|(_, endpoint)| endpoint.instance_ip.to_string() == "10.30.0.2")
            .unwrap();
        maps.remove_endpoint(ns_ip).unwrap();
        maps.remove_endpoint(half.namespace_ip).unwrap();
        maps.remove_endpoint(half.instance_ip).unwrap();
        // … and another instance's namespace went meanwhile, with its interface.
        drop(died);
        wait_for("end of the namespace", || async {
            let count = host.interfaces().await.len();
            if count == interfaces.len() + 1 { Ok(()) } else { Err(format!("{count} interfaces")) }
        })
        .await;

        let manager = host.start().await;
        assert_eq!(host.interfaces().await, interfaces);
        assert_eq!(host.links(), links);
        assert!(host.maps().endpoints().unwrap().is_empty());
        wait_for("announcement", || async {
            let state = cluster.state.lock().unwrap();
            let gone: Vec<u32> = state.undeployed.iter().map(|r| r.instance_number).collect();
            if gone.contains(&1) { Ok(()) } else { Err(format!("{gone:?}")) }
        })
        .await;
        manager.deploy(WEB, 0, &undeployed).await;
        manager.stop().await;
    });
}

#[test]
fn one_data_path_has_one_net_manager_and_purge_leaves_nothing() {
    on_a_new_host(|host| async move {
        let before = host.interfaces().await;
        let cluster = Cluster::start().await;
        cluster.declare(WEB, WEB_RR, &[(0, WEB_0)]);
        let manager = host.start().await;
        manager.register().await;
        let process = Process::start().await;
        manager.deploy(WEB, 0, &process).await;
        let stop = tokio_util::sync::CancellationToken::new();
        let second = net_manager::daemon::start::run(host.config(), stop).await.unwrap_err();
        assert!(second.to_string().contains("another net manager"), "{second}");
        assert_eq!(manager.status().await.unwrap().instances, 1);

        manager.stop().await;
        net_manager::daemon::purge::purge(&host.bpffs()).await.unwrap();
        assert_eq!(host.interfaces().await, before);
        assert!(!host.bpffs().exists());
        assert!(!process.ip("link").contains("eth0"));
    });
}

#[test]
fn maps_of_another_size_are_refused_with_a_way_out() {
    on_a_new_host(|host| async move {
        host.start().await.stop().await;
        let mut config = host.config();
        config.map_sizes.flows *= 2;
        let stop = tokio_util::sync::CancellationToken::new();
        let refusal = net_manager::daemon::start::run(config, stop).await.unwrap_err().to_string();
        assert!(refusal.contains("flows") && refusal.contains("purge"), "{refusal}");
        host.start().await.stop().await;

        std::fs::create_dir(host.bpffs().join("v999")).unwrap();
        let stop = tokio_util::sync::CancellationToken::new();
        let refusal = net_manager::daemon::start::run(host.config(), stop).await.unwrap_err();
        assert!(refusal.to_string().contains("999"), "{refusal}");
    });
}

/// What a restart must not change.
async fn snapshot(host: &Host) -> String {
    let maps = host.maps();
    let mut endpoints = maps.endpoints().unwrap();
    endpoints.sort_by_key(|(addr, _)| *addr);
    let mut services = maps.services().unwrap();
    services.sort_by_key(|(addr, _)| *addr);
    let links = host.netlink.links().await.unwrap();
    let mut programs = Vec::new();
    for link in links {
        let attached = aya::programs::SchedClassifier::query_tcx(
            &link.name,
            aya::programs::TcAttachType::Ingress,
        );
        programs.push((link.name, attached.unwrap().1.len()));
    }
    programs.sort();
    format!(
        "{endpoints:?} {services:?} {:?} {:?} {:?} {programs:?}",
        maps.instances().unwrap(),
        maps.nodes().unwrap(),
        host.links(),
    )
}

#[test]
fn the_worker_goes_on_after_a_restart_without_being_registered_again() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, WEB_RR, &[(0, WEB_0)]);
        let manager = host.start().await;
        manager.register().await;
        let process = Process::start().await;
        manager.deploy(WEB, 0, &process).await;
        manager.stop().await;
        cluster.state.lock().unwrap().services.get_mut(WEB).unwrap().deployed.clear();

        let manager = host.start().await;
        let announced = wait_for("announcement", || async {
            let state = cluster.state.lock().unwrap();
            state.services[WEB].deployed.get(&0).cloned().ok_or("nothing deployed".to_owned())
        })
        .await;
        assert_eq!(announced.nsip, "10.18.0.66");
        let status = manager.status().await.unwrap();
        assert_eq!(status.worker_id.as_deref(), Some(cluster::WORKER));
        assert_eq!(status.subnet.as_deref(), Some("10.18.0.64/26"));
        manager.stop().await;
    });
}

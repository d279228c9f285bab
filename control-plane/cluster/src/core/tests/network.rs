//! Subnets, peers, table queries and interests.

use xylem_types::{
    instance::InstanceStatus::Running,
    mqtt::{InterestRemove, Peer, PeerKind, TableQuery},
};

use super::*;

pub(super) fn by_name(name: &str) -> FromWorker {
    FromWorker::Query(TableQuery { sname: name.into(), sip: String::new() })
}

fn by_ip(ip: &str) -> FromWorker {
    FromWorker::Query(TableQuery { sname: String::new(), sip: ip.into() })
}

pub(super) fn ready(workers: &[&str]) -> Bench {
    let mut bench = Bench::with_workers(workers);
    for (i, worker) in workers.iter().enumerate() {
        let i = u8::try_from(i).unwrap();
        bench.asks_subnet(worker, 50103 + u16::from(i));
        bench.grant(worker, i + 1);
    }
    bench.mqtt.clear();
    bench.root.clear();
    bench
}

/// Deploys instance `number`, and lets it run where it was placed. Returns the worker.
pub(super) fn run(bench: &mut Bench, number: u32, all: &[u32]) -> String {
    bench.deploy(web(number, 1));
    let others: Vec<u32> = all.iter().copied().filter(|n| *n != number).collect();
    bench.root_answers(&web_answer(&others));
    let (worker, ..) = bench.deploys().remove(0);
    bench.attached(&worker, number, &format!("10.18.1.{}", 10 + number));
    bench.root_answers(&web_answer(all));
    bench.report(&worker, number, 1, Running);
    worker
}

#[test]
fn a_subnet_is_asked_of_the_root_once_and_kept() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.asks_subnet("a", 50103);
    assert_eq!(bench.root, [FromCluster::Subnet { worker_id: "a".into() }]);
    assert_eq!(bench.subnets(), []);
    bench.grant("a", 1);
    assert_eq!(bench.subnets()[0].1.address, "10.18.1.0");
    assert_eq!(bench.peers()["a"], Vec::<String>::new());

    bench.cluster.root_gone();
    bench.restart();
    bench.root.clear();
    bench.asks_subnet("a", 50103);
    assert_eq!(bench.subnets()[0].1.address, "10.18.1.0");
    assert_eq!(bench.root, []);
}

#[test]
fn a_subnet_wanted_while_the_root_is_away_follows_when_it_is_back() {
    let mut bench = Bench::new();
    bench.register("a");
    bench.asks_subnet("a", 50103);
    bench.pass(secs(4), &["a"]);
    assert_eq!(bench.subnets(), [], "a refusal would fail its instances");
    bench.restart();
    bench.connect_root(vec![]);
    assert!(bench.root.contains(&FromCluster::Subnet { worker_id: "a".into() }));
    bench.grant("a", 1);
    assert_eq!(bench.subnets()[0].1.address, "10.18.1.0");
}

#[test]
fn others_are_told_of_a_new_peer_before_it_can_send() {
    let mut bench = ready(&["a"]);
    bench.register("b");
    bench.asks_subnet("b", 50104);
    bench.mqtt.clear();
    bench.grant("b", 2);
    let to: Vec<(&str, bool)> = bench
        .mqtt
        .iter()
        .filter_map(|message| match message {
            Message::To { worker, body } => {
                Some((worker.as_str(), matches!(body, ToWorker::Subnet(_))))
            }
            Message::Updates { .. } => None,
        })
        .collect();
    assert_eq!(to, [("a", false), ("b", false), ("b", true)], "a's list, b's list, b's subnet");
    let peers = bench.peers();
    assert_eq!(peers["a"], ["b"]);
    assert_eq!(peers["b"], ["a"]);
    let FromCluster::Workers { workers } = bench.root.last().unwrap() else { panic!() };
    assert_eq!(workers.len(), 2);
    assert_eq!(workers[1].endpoint.host_port, 50104);
    assert_eq!(workers[1].kind, PeerKind::Xylem);
}

#[test]
fn the_root_s_peers_are_passed_on_and_kept() {
    let mut bench = ready(&["a", "b"]);
    let far = Peer {
        worker_id: "far".into(),
        endpoint: TunnelEndpoint { host_ip: [198, 51, 100, 1].into(), host_port: 50103 },
        subnet: Some([10, 18, 9, 0].into()),
        subnet_v6: None,
        kind: PeerKind::Oakestra,
    };
    bench.root_says(FromRoot::Peers { peers: vec![far.clone()] });
    let peers = bench.peers();
    assert_eq!(peers["a"], ["b", "far"]);
    assert_eq!(peers["b"], ["a", "far"]);
    bench.root_says(FromRoot::Peers { peers: vec![far] });
    assert!(bench.peers().is_empty(), "nothing changed");

    bench.restart();
    bench.mqtt.clear();
    bench.beat("a");
    assert_eq!(bench.peers()["a"], ["b", "far"]);
}

#[test]
fn a_worker_of_the_older_kind_is_announced_by_what_it_registered_with() {
    let mut bench = ready(&["a"]);
    let node = Node {
        host: "old".into(),
        ip: "192.0.2.7".into(),
        net_manager_port: 50200,
        ..Node::default()
    };
    bench.cluster.register(node, None, bench.now).unwrap();
    let request = SubnetRequest { method: "GET".into(), endpoint: None };
    bench.says("old", FromWorker::Subnet(request));
    bench.grant("old", 9);
    let Some(FromCluster::Workers { workers }) = bench.root.last() else { panic!() };
    let old = workers.iter().find(|w| w.worker_id == "old").unwrap();
    assert_eq!(old.kind, PeerKind::Oakestra);
    assert_eq!(old.endpoint.host_ip.to_string(), "192.0.2.7");
    assert_eq!(old.endpoint.host_port, 50200);
}

#[test]
fn own_services_are_answered_from_what_the_cluster_knows() {
    let mut bench = ready(&["a", "b"]);
    let on = run(&mut bench, 0, &[0]);
    bench.cluster.root_gone();
    bench.settle();
    for (query, words) in [
        (by_name(WEB), WEB),
        (by_ip("10.30.0.1"), "10.30.0.1"),
        (by_ip("10.30.0.100"), "10.30.0.100"),
    ] {
        bench.says("b", query);
        let (to, answer) = bench.answers().remove(0);
        assert_eq!(to, "b");
        assert_eq!(answer.app_name, WEB);
        assert_eq!(answer.query_key, words);
        assert_eq!(answer.service_ip.len(), 1);
        assert_eq!(answer.instance_list[0].namespace_ip, "10.18.1.10");
        assert_eq!(answer.instance_list[0].host_ip, "192.0.2.1");
        let own = &answer.instance_list[0].service_ip;
        assert!(matches!(own.as_slice(), [a] if a.ip_type == IpType::Instance), "{own:?}");
    }
    assert!(bench.queries().is_empty());
    assert!(["a", "b"].contains(&on.as_str()));
}

#[test]
fn each_kind_of_worker_is_told_the_addresses_that_it_understands() {
    let mut bench = ready(&["a"]);
    bench.register("old");
    let mut answer = web_answer(&[0]);
    let round_robin = answer.service_ip[0].clone();
    let others = [IpType::Closest, IpType::Underutilized, IpType::Affinity];
    let all = [round_robin.clone()]
        .into_iter()
        .chain(others.map(|ip_type| ServiceAddress { ip_type, ..round_robin.clone() }));
    answer.service_ip = all.clone().collect();
    answer.instance_list[0].namespace_ip = "10.18.9.2".into();
    answer.instance_list[0].service_ip.splice(0..1, all);
    let kinds = |addresses: &[ServiceAddress]| -> Vec<IpType> {
        addresses.iter().map(|address| address.ip_type).collect()
    };
    bench.says("a", by_name(WEB));
    bench.says("old", by_name(WEB));
    bench.root_answers(&answer);
    let answers: BTreeMap<_, _> = bench.answers().into_iter().collect();
    assert_eq!(kinds(&answers["a"].service_ip).len(), 4);
    assert_eq!(kinds(&answers["a"].instance_list[0].service_ip), [IpType::Instance]);
    // Oakestra's net manager reads them at the instance only.
    assert_eq!(
        kinds(&answers["old"].instance_list[0].service_ip),
        [IpType::RoundRobin, IpType::Closest, IpType::Instance]
    );
}

#[test]
fn a_service_ip_that_a_service_gets_later_is_announced() {
    let mut bench = ready(&["a"]);
    bench.says("a", by_name(WEB));
    bench.root_answers(&web_answer(&[]));
    bench.root_says(changed(UpdateKind::Deployment));
    let mut answer = web_answer(&[]);
    answer.service_ip.push(ServiceAddress {
        ip_type: IpType::Affinity,
        address: Some([10, 30, 0, 9].into()),
        address_v6: None,
    });
    bench.root_answers(&answer);
    assert_eq!(bench.updates(), [UpdateKind::Deployment]);
    bench.says("a", by_ip("10.30.0.9"));
    assert_eq!(bench.answers().last().unwrap().1.app_name, WEB);
}

#[test]
fn a_query_waits_for_the_addresses_of_what_was_just_attached_and_for_nothing_else() {
    let mut bench = ready(&["a"]);
    bench.deploy(web(0, 1));
    bench.says("a", by_name(WEB));
    assert_eq!(bench.queries().len(), 1, "asked once, on the deployment");
    bench.root_says(FromRoot::TableAnswer { request_id: 1, answer: web_answer(&[]) });
    assert_eq!(bench.answers().len(), 1);
    bench.says("a", by_name(WEB));
    assert_eq!(bench.answers().len(), 1, "an instance that is not attached delays nobody");

    bench.root.clear();
    bench.attached("a", 0, "10.18.1.3");
    let attached_first = matches!(
        bench.root.as_slice(),
        [FromCluster::Instance(o), FromCluster::TableQuery { .. }] if o.namespace_ip.is_some()
    );
    assert!(attached_first, "{:?}", bench.root);
    bench.says("a", by_name(WEB));
    assert_eq!(bench.answers(), [], "its address is on the way");
    bench.updates();
    bench.root_answers(&web_answer(&[0]));
    assert_eq!(bench.answers()[0].1.instance_list[0].namespace_ip, "10.18.1.3");
    assert_eq!(bench.updates(), [UpdateKind::Deployment]);

    // Its address is known for life: placed again, also without the root, nobody waits.
    bench.cluster.root_gone();
    bench.report("a", 0, 1, xylem_types::instance::InstanceStatus::Dead);
    bench.pass(secs(2), &["a"]);
    bench.attached("a", 0, "10.18.1.4");
    bench.says("a", by_name(WEB));
    assert_eq!(bench.answers()[0].1.instance_list[0].namespace_ip, "10.18.1.4");
}

#[test]
fn the_root_forgets_an_instance_that_is_not_attached_and_we_do_not() {
    let mut bench = ready(&["a", "b"]);
    let on = run(&mut bench, 0, &[0]);
    bench.report(&on, 0, 1, xylem_types::instance::InstanceStatus::Dead);
    let change = UpdateKind::Undeployment;
    bench.root_says(changed(change));
    bench.root_answers(&web_answer(&[]));
    bench.pass(secs(2), &["a", "b"]);
    let (on, ..) = bench.deploys().remove(0);
    bench.queries();
    bench.attached(&on, 0, "10.18.1.77");
    assert!(bench.queries().is_empty());
    bench.says("a", by_ip("10.30.0.100"));
    assert_eq!(bench.answers()[0].1.instance_list[0].namespace_ip, "10.18.1.77");
}

#[test]
fn a_service_that_is_no_more_is_forgotten_and_asked_for_anew() {
    let mut bench = ready(&["a"]);
    bench.says("a", by_name(WEB));
    bench.root_answers(&web_answer(&[0]));
    bench.answers();
    let change = UpdateKind::Undeployment;
    bench.root_says(changed(change));
    bench.root_answers(&TableAnswer::default());
    assert_eq!(bench.updates(), [UpdateKind::Undeployment]);
    assert!(bench.records.services.is_empty());
    bench.pass(secs(3), &["a"]);
    bench.says("a", by_name(WEB));
    assert_eq!(bench.queries().len(), 1);
}

#[test]
fn a_flood_of_questions_is_asked_a_part_at_a_time() {
    let mut bench = ready(&["a"]);
    for i in 0..2000u32 {
        bench.says("a", by_name(&format!("s{i}")));
    }
    let mut asked = 0;
    loop {
        let queries = bench.queries();
        assert!(queries.len() <= 256, "{}", queries.len());
        if queries.is_empty() {
            break;
        }
        asked += queries.len();
        for request_id in queries {
            let answer = TableAnswer::default();
            bench.root_says(FromRoot::TableAnswer { request_id, answer });
        }
    }
    assert_eq!(asked, 1024);
    assert_eq!(bench.answers().len(), 2000, "everybody was answered");
}

#[test]
fn workers_hear_of_every_change_of_what_they_may_dial() {
    let mut bench = ready(&["a", "b"]);
    let on = run(&mut bench, 0, &[0]);
    let other = if on == "a" { "b" } else { "a" };
    assert_eq!(bench.updates(), [UpdateKind::Deployment], "attached");
    bench.report(&on, 0, 1, Running);
    assert_eq!(bench.updates(), [], "nothing new");

    run(&mut bench, 1, &[0, 1]);
    assert!(bench.updates().contains(&UpdateKind::Deployment));

    bench.root_says(undeploy(1, 1));
    assert_eq!(bench.updates(), [UpdateKind::Undeployment]);

    bench.says(&on, FromWorker::Undeployed(net_event("UNDEPLOYED", 0, "10.18.1.99")));
    assert_eq!(bench.updates(), [], "another copy's address");
    bench.says(&on, FromWorker::Undeployed(net_event("UNDEPLOYED", 0, "10.18.1.10")));
    assert_eq!(bench.updates(), [UpdateKind::Undeployment]);
    bench.attached(&on, 0, "10.18.1.10");
    bench.updates();

    // A lost worker's instances cannot be dialled any more.
    bench.pass(secs(12), &[other]);
    assert!(bench.updates().contains(&UpdateKind::Undeployment));
    bench.says(other, by_name(WEB));
    let answer = bench.answers().remove(0).1;
    assert!(answer.instance_list.iter().all(|e| e.namespace_ip.is_empty()), "{answer:?}");
}

#[test]
fn a_foreign_service_is_asked_of_the_root_once_for_all_who_wait() {
    let mut bench = ready(&["a", "b"]);
    bench.says("a", by_ip("10.30.0.1"));
    bench.says("b", by_ip("10.30.0.1"));
    bench.says("a", by_ip("10.30.0.1"));
    let mut answer = web_answer(&[0]);
    answer.instance_list[0].namespace_ip = "10.18.9.2".into();
    answer.instance_list[0].host_ip = "198.51.100.1".into();
    assert_eq!(bench.queries(), [1]);
    bench.root_says(FromRoot::TableAnswer { request_id: 1, answer: answer.clone() });
    assert_eq!(bench.answers().len(), 2);
    assert_eq!(bench.updates(), []);

    // Known from now on, by every address and also without the root.
    bench.cluster.root_gone();
    bench.restart();
    bench.says("b", by_ip("10.30.0.100"));
    assert_eq!(bench.answers()[0].1.instance_list[0].namespace_ip, "10.18.9.2");
}

#[test]
fn a_change_elsewhere_is_fetched_and_then_announced() {
    let mut bench = ready(&["a"]);
    bench.says("a", by_name(WEB));
    bench.root_answers(&web_answer(&[0]));
    bench.answers();
    let change = UpdateKind::Deployment;
    bench.root_says(changed(change));
    assert_eq!(bench.updates(), [], "not before there is something new to be told");
    // Another change while the answer is on its way.
    bench.root_says(changed(change));
    let mut answer = web_answer(&[0]);
    answer.instance_list[0].namespace_ip = "10.18.9.2".into();
    bench.root_answers(&answer);
    assert_eq!(bench.updates(), [UpdateKind::Deployment]);
    assert_eq!(bench.queries().len(), 1, "asked again, since it changed in between");
}

#[test]
fn what_the_root_does_not_know_is_asked_again_only_after_a_while() {
    let mut bench = ready(&["a"]);
    for _ in 0..3 {
        bench.says("a", by_ip("10.30.7.7"));
        bench.root_answers(&TableAnswer::default());
        let (_, answer) = bench.answers().remove(0);
        assert_eq!((answer.app_name.as_str(), answer.query_key.as_str()), ("", "10.30.7.7"));
    }
    bench.says("a", by_ip("10.30.7.7"));
    assert!(bench.queries().is_empty());
    bench.pass(secs(3), &["a"]);
    bench.says("a", by_ip("10.30.7.7"));
    assert_eq!(bench.queries().len(), 1);
}

#[test]
fn a_query_that_cannot_be_answered_is_said_so_in_time() {
    let mut bench = Bench::new();
    bench.register("a");
    bench.says("a", by_ip("10.30.0.1"));
    bench.pass(secs(2), &["a"]);
    assert_eq!(bench.answers(), []);
    bench.pass(secs(2), &["a"]);
    assert_eq!(bench.answers()[0].1.app_name, "");
    assert_eq!(bench.cluster.tally().unanswered_queries, 1);
    for nonsense in [by_name(""), by_ip("no address")] {
        bench.says("a", nonsense);
        assert_eq!(bench.answers()[0].1.app_name, "");
    }
}

#[test]
fn an_answer_that_comes_late_is_kept() {
    let mut bench = ready(&["a"]);
    bench.says("a", by_ip("10.30.0.1"));
    bench.pass(secs(4), &["a"]);
    assert_eq!(bench.answers()[0].1.app_name, "");
    bench.root_answers(&web_answer(&[0]));
    // Nobody waits and nobody is interested, so it is not even kept.
    assert!(bench.records.services.is_empty());
    assert!(bench.root.contains(&FromCluster::InterestRemove { job_name: WEB.into() }));
}

#[test]
fn the_root_hears_when_nobody_is_interested_any_more() {
    let mut bench = ready(&["a", "b"]);
    for worker in ["a", "b"] {
        bench.says(worker, by_name(WEB));
    }
    bench.root_answers(&web_answer(&[0]));
    let remove = || FromWorker::InterestRemove(InterestRemove { appname: WEB.into() });
    let told = FromCluster::InterestRemove { job_name: WEB.into() };
    bench.says("a", remove());
    bench.says("a", remove());
    assert!(!bench.root.contains(&told));
    bench.says("b", remove());
    assert_eq!(bench.root.iter().filter(|m| **m == told).count(), 1);
    assert!(bench.records.services.is_empty());

    // Whoever runs it is interested.
    let on = run(&mut bench, 0, &[0]);
    bench.root.clear();
    bench.says(&on, by_name(WEB));
    bench.says(&on, remove());
    assert!(!bench.root.contains(&told));
    bench.root_says(undeploy(0, 1));
    bench.report(&on, 0, 1, xylem_types::instance::InstanceStatus::Undeployed);
    assert!(bench.root.contains(&told));
}

#[test]
fn everything_known_is_compared_when_the_root_is_back() {
    let mut bench = ready(&["a"]);
    bench.says("a", by_name(WEB));
    bench.root_answers(&web_answer(&[0]));
    bench.mqtt.clear();
    bench.cluster.root_gone();
    bench.root.clear();
    bench.connect_root(vec![]);
    let FromCluster::Snapshot { interests, workers, .. } = &bench.root[1] else { panic!() };
    assert_eq!(interests, &[WEB]);
    assert_eq!(workers.len(), 1);
    let mut answer = web_answer(&[0]);
    answer.instance_list[0].namespace_ip = "10.18.9.2".into();
    bench.root_answers(&answer);
    assert_eq!(bench.updates(), [UpdateKind::Deployment]);
}

#[test]
fn a_worker_that_moves_is_announced_where_it_is() {
    let mut bench = ready(&["a", "b"]);
    let on = run(&mut bench, 0, &[0]);
    bench.mqtt.clear();
    bench.root.clear();
    bench.asks_subnet(&on, 60000);
    assert_eq!(bench.peers().len(), 2, "its own list, since it asked, and the other's");
    assert!(bench.updates().contains(&UpdateKind::Deployment));
    assert_eq!(bench.observed(0).unwrap().host_port, 60000);
    assert!(bench.root.iter().any(|m| matches!(m, FromCluster::Workers { .. })));
}

#[test]
fn a_refused_subnet_says_why() {
    let mut bench = Bench::with_workers(&["a"]);
    bench.asks_subnet("a", 50103);
    let result = SubnetResult::Refused { reason: "all subnets are taken".into() };
    bench.root_says(FromRoot::Subnet { worker_id: "a".into(), result });
    assert_eq!(bench.subnets()[0].1.error.as_deref(), Some("all subnets are taken"));
}

#[test]
fn workers_ask_again_for_what_may_have_changed_unheard() {
    let mut bench = ready(&["a"]);
    bench.says("a", by_name(WEB));
    bench.root_answers(&web_answer(&[0]));
    bench.mqtt.clear();
    bench.restart();
    assert_eq!(bench.updates(), [UpdateKind::Deployment]);
}

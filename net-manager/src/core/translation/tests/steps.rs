//! Any steps in any order.

use proptest::prelude::*;

use super::{published::ports_of, *};

#[derive(Clone, Debug)]
enum Step {
    Learn(u8, Vec<Policy>, Vec<(u32, u8, u8)>),
    /// Instances with these numbers drain.
    Drain(u8, Vec<Policy>, Vec<(u32, u8, u8)>, BTreeSet<u32>),
    /// A service IP, or the instance IP of an instance.
    Dial(u8, Policy),
    DialInstance(u8, u32),
    /// What was measured of a host.
    Path(u8, bool, u64),
    Wait(u64),
    Forget(u8),
    Attach(u8, u32, u8),
    Detach(u8, u32),
    Publish(u8, u32, Vec<u16>),
    Peers(Vec<u8>),
    /// Killed after so many writes of the next plan, and started again.
    Killed(usize),
    Apply,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let policy = || {
        prop::sample::select(vec![
            Policy::RoundRobin,
            Policy::Closest,
            Policy::Underutilized,
            Policy::Affinity,
        ])
    };
    let policies = || prop::collection::vec(policy(), 0..4);
    let instances = || prop::collection::vec((0..4_u32, 0..5_u8, 2..6_u8), 0..4);
    let draining = prop::collection::btree_set(0..4_u32, 0..3);
    let (policies, policies_too) = (policies(), policies());
    let (instances, instances_too) = (instances(), instances());
    let step = prop_oneof![
        2 => (0..5_u8, policies_too, instances_too, draining)
            .prop_map(|(n, p, i, d)| Step::Drain(n, p, i, d)),
        4 => (0..5_u8, policy()).prop_map(|(n, p)| Step::Dial(n, p)),
        2 => (0..5_u8, 0..4_u32).prop_map(|(n, number)| Step::DialInstance(n, number)),
        3 => (1..5_u8, any::<bool>(), 0..40_u64).prop_map(|(h, up, ms)| Step::Path(h, up, ms)),
        2 => (0..3000_u64).prop_map(Step::Wait),
        4 => (0..5_u8, policies, instances).prop_map(|(n, p, i)| Step::Learn(n, p, i)),
        1 => (0..5_u8).prop_map(Step::Forget),
        2 => (0..5_u8, 0..4_u32, 2..20_u8).prop_map(|(n, i, l)| Step::Attach(n, i, l)),
        1 => (0..5_u8, 0..4_u32).prop_map(|(n, i)| Step::Detach(n, i)),
        2 => (0..5_u8, 0..4_u32, prop::collection::vec(1..6_u16, 0..3))
            .prop_map(|(n, i, ports)| Step::Publish(n, i, ports)),
        1 => prop::collection::vec(1..7_u8, 0..4).prop_map(Step::Peers),
        2 => (0..12_usize).prop_map(Step::Killed),
        3 => Just(Step::Apply),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn plans_reach_what_is_desired_and_never_dangle(steps in steps()) {
        let mut translation = Translation::new(me(), SMALL);
        let mut maps = Maps::default();
        // Namespace IPs are unique, as the IPAM hands them out.
        let mut leased: BTreeSet<u8> = BTreeSet::new();
        for step in steps {
            match step {
                Step::Learn(n, policies, instances) => {
                    let _: Result<(), MapFull> = translation.learn(&view(n, &policies, &instances));
                }
                Step::Drain(n, policies, instances, draining) => {
                    let mut view = view(n, &policies, &instances);
                    for number in draining {
                        view.instances.entry(number).and_modify(|i| i.draining = true);
                    }
                    let _: Result<(), MapFull> = translation.learn(&view);
                }
                Step::Dial(n, policy) => {
                    let _: Result<bool, MapFull> = translation.dial(service_ip(n, policy));
                }
                Step::DialInstance(n, number) => {
                    let _: Result<bool, MapFull> = translation.dial(instance_ip(n, number));
                }
                Step::Path(n, is_up, ms) => {
                    let rtt = (ms != 0).then(|| Duration::from_millis(ms));
                    let path = Path { addr: host(n), is_up, rtt };
                    if let Some(id) = translation.desired().peers.get(host(n)).copied() {
                        translation.set_path(id, &path);
                    }
                }
                Step::Wait(ms) => {
                    maps.now += Duration::from_millis(ms);
                    translation.rebalance();
                }
                Step::Forget(n) => translation.forget(name(n)),
                Step::Attach(n, number, last) => {
                    if !leased.contains(&last)
                        && translation.attach(name(n), number, lease(last), 100).is_ok()
                    {
                        leased = translation
                            .local()
                            .map(|local| local.instance.namespace_ip_v4.octets()[15])
                            .collect();
                    }
                }
                Step::Detach(n, number) => translation.detach(name(n), number),
                Step::Publish(n, number, ports) => {
                    let ports = ports_of(&ports);
                    let is_here = translation.local_instance(name(n), number).is_some();
                    if is_here && translation.publish(name(n), number, &ports).is_ok() {
                        prop_assert_eq!(translation.ports(name(n), number), ports);
                    }
                }
                Step::Peers(hosts) => {
                    // The same workers, at other addresses each time.
                    let peers: Vec<Peer> = hosts.iter().enumerate().map(|(i, n)| Peer {
                        worker_id: i.to_string(),
                        endpoint: TunnelEndpoint {
                            host_ip: host(*n).addr.to_ip(),
                            host_port: host(*n).port,
                        },
                        subnet: None,
                        subnet_v6: None,
                        kind: PeerKind::Xylem,
                    }).collect();
                    let _: Result<(), MapFull> = translation.set_peers(&peers);
                }
                Step::Killed(until) => {
                    maps.apply(&mut translation, until);
                    translation = Translation::recover(&maps.held, me(), SMALL);
                    maps.apply(&mut translation, usize::MAX);
                    leased = translation
                        .local()
                        .map(|local| local.instance.namespace_ip_v4.octets()[15])
                        .collect();
                }
                Step::Apply => maps.apply(&mut translation, usize::MAX),
            }
        }
        maps.apply(&mut translation, usize::MAX);
        check_tables(&maps.held);

        // A restart without anything half done changes nothing, but what no service names.
        let mut again = Translation::recover(&maps.held, me(), SMALL);
        prop_assert_eq!(plan(&maps.held, again.desired()), []);
        maps.apply(&mut again, usize::MAX);
        let local = |t: &Translation| t.local().collect::<Vec<_>>();
        prop_assert_eq!(local(&again), local(&translation));
        prop_assert_eq!(&again.desired().published, &maps.held.published);
        prop_assert_eq!(again.names().collect::<Vec<_>>(), translation.names().collect::<Vec<_>>());

        // And everything can be forgotten.
        for local in local(&again) {
            again.detach(local.name, local.number);
        }
        for n in 0..5 {
            again.forget(name(n));
        }
        again.set_peers(&[]).unwrap();
        maps.apply(&mut again, usize::MAX);
        prop_assert!(maps.held.services.is_empty());
        prop_assert!(maps.held.tables.is_empty());
        prop_assert!(maps.held.names.is_empty());
        prop_assert!(maps.held.peers.is_empty());
        prop_assert!(maps.held.endpoints.is_empty());
        prop_assert!(maps.held.published.is_empty());
        prop_assert_eq!(maps.held.nodes.len(), 1);
        prop_assert!(maps.held.instances.iter().all(|(_, instance)| !is_present(instance)));
    }
}

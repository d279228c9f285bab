//! Which instance a service's lookup table names, and how often.

use super::*;

#[test]
fn a_draining_instance_and_one_on_a_dead_node_get_no_new_flows() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    let addresses = [Policy::RoundRobin, Policy::Closest, Policy::Underutilized, Policy::Affinity];
    let mut view = view(1, &addresses, &[(0, 1, 2), (1, 2, 2), (2, 3, 2)]);
    translation.learn(&view).unwrap();
    for policy in addresses {
        translation.dial(service_ip(1, policy)).unwrap();
    }
    maps.apply(&mut translation, usize::MAX);
    let places = |maps: &Maps, policy| maps.dialled(service_ip(1, policy)).unwrap();
    let generations =
        |maps: &Maps| maps.held.instances.iter().map(|(_, i)| i.generation).collect::<Vec<_>>();
    let before = generations(&maps);
    for policy in addresses {
        assert_eq!(places(&maps, policy).len(), 3, "{policy:?}");
    }

    view.instances.get_mut(&0).unwrap().draining = true;
    translation.learn(&view).unwrap();
    let id = *translation.desired().peers.get(host(2)).unwrap();
    let down = Path { addr: host(2), is_up: false, rtt: None };
    translation.set_path(id, &Path { addr: host(3), ..down });
    translation.set_path(id, &down);
    maps.apply(&mut translation, usize::MAX);
    let left = BTreeSet::from([(namespace_ip(3, 2), host(3))]);
    for policy in addresses {
        assert_eq!(places(&maps, policy), left, "{policy:?}");
    }
    assert_eq!(maps.held.instances.get(1).unwrap().state, InstanceState::Draining as u32);
    // The flows that are there stay: nobody has another generation.
    assert_eq!(generations(&maps), before);
    let moved: Vec<_> = translation.moved().collect();
    let [(of, Policy::Affinity, moved)] = moved[..] else { panic!("{moved:?}") };
    assert_eq!((of, moved.changes), (name(1), 1));
    assert!((0.6..0.75).contains(&moved.last_ratio), "{moved:?}");
    translation.forget(name(1));
    assert_eq!(translation.moved().count(), 0);

    // A net manager that starts now goes on from there.
    let mut again = Translation::recover(&maps.held, me(), Capacities::default());
    maps.apply(&mut again, usize::MAX);
    assert_eq!(places(&maps, Policy::Closest), left);
    again.set_path(id, &Path { is_up: true, ..down });
    maps.now += Duration::from_secs(5);
    maps.apply(&mut again, usize::MAX);
    assert_eq!(places(&maps, Policy::RoundRobin).len(), 2);
}

#[test]
fn the_closest_instance_is_chosen_by_the_measured_path() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    translation.learn(&view(1, &[Policy::Closest], &[(0, 1, 2), (1, 2, 2)])).unwrap();
    translation.dial(service_ip(1, Policy::Closest)).unwrap();
    let targets = translation.changed_targets().unwrap();
    assert_eq!(targets.values().map(|t| t.addr).collect::<Vec<_>>(), [host(1), host(2)]);
    assert_eq!(translation.changed_targets(), None);
    for (id, target) in targets {
        assert!(!target.must_answer, "nobody has announced it");
        let ms = if target.addr == host(1) { 30 } else { 5 };
        let path = Path { addr: target.addr, is_up: true, rtt: Some(Duration::from_millis(ms)) };
        translation.set_path(id, &path);
    }
    maps.apply(&mut translation, usize::MAX);
    let near = BTreeSet::from([(namespace_ip(2, 2), host(2))]);
    assert_eq!(maps.dialled(service_ip(1, Policy::Closest)), Some(near));

    // Nobody looks after the path to a node without instances.
    translation.learn(&view(1, &[Policy::Closest], &[(1, 2, 2)])).unwrap();
    let targets = translation.changed_targets().unwrap();
    assert_eq!(targets.values().map(|t| t.addr).collect::<Vec<_>>(), [host(2)]);
}

#[test]
fn load_and_flows_weigh_underutilized() {
    let mut translation = Translation::new(me(), Capacities::default());
    let mut maps = Maps::default();
    translation.learn(&view(1, &[Policy::Underutilized], &[(0, 1, 2), (1, 2, 2)])).unwrap();
    translation.dial(service_ip(1, Policy::Underutilized)).unwrap();
    let [first, second] = translation.weighed_by_flows()[..] else { panic!("two instances") };
    let share = |maps: &Maps| {
        let (_, ids) = maps.held.tables.iter().max_by_key(|(_, ids)| ids.len()).unwrap();
        ids.iter().filter(|id| **id == first).count() as f64 / ids.len() as f64
    };
    translation.set_flows([(first, 30)].into());
    maps.apply(&mut translation, usize::MAX);
    assert!(share(&maps) < 0.1, "{}", share(&maps));
    translation.set_flows([(first, 1), (second, 1)].into());
    let cpu = |instance_number, cpu_percent| InstanceLoad { instance_number, cpu_percent };
    translation.set_load(&Loads {
        services: vec![ServiceLoad {
            app_name: name(1).to_string(),
            instances: vec![cpu(0, 0.0), cpu(1, 100.0), cpu(7, 1.0)],
        }],
    });
    for _ in 0..20 {
        maps.now += Duration::from_millis(500);
        translation.rebalance();
        maps.apply(&mut translation, usize::MAX);
    }
    assert!((0.65..0.8).contains(&share(&maps)), "{}", share(&maps));
}

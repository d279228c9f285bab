//! The policies from the outside: candidates in, tables out.

use std::time::Duration;

use net_common::{InstanceState, Policy, limits::TABLE_SLOTS};
use proptest::prelude::*;

use super::{Candidate, LookupTable, Seed, Settings, closest};

const T0: Duration = Duration::from_secs(1000);
/// Longer than a round of closest.
const ROUND: Duration = Duration::from_millis(600);

fn ms(ms: f64) -> Option<Duration> {
    Some(Duration::from_secs_f64(ms / 1000.0))
}

/// Instance `number` with the id `number + 100` on node `number`, idle.
fn instance(number: u32) -> Candidate {
    Candidate {
        id: number + 100,
        number,
        node: number,
        state: InstanceState::Up,
        node_is_up: true,
        rtt: None,
        cpu_percent: None,
        flows: 0,
    }
}

fn at(number: u32, rtt_ms: f64) -> Candidate {
    Candidate { rtt: ms(rtt_ms), ..instance(number) }
}

fn with_flows(number: u32, flows: u32) -> Candidate {
    Candidate { flows, ..instance(number) }
}

struct Table {
    table: LookupTable,
    settings: Settings,
    now: Duration,
}

impl Table {
    fn of(policy: Policy) -> Self {
        let table = LookupTable::new(policy, Seed::of(b"shop.prod.cart.prod"));
        Self { table, settings: Settings::default(), now: T0 }
    }

    /// One more round.
    fn round(&mut self, candidates: &[Candidate]) -> Vec<u32> {
        self.now += ROUND;
        self.table.update(&self.settings, candidates, self.now);
        self.table.ids().to_vec()
    }

    fn rounds(&mut self, count: u32, candidates: &[Candidate]) -> Vec<u32> {
        (0..count).for_each(|_| drop(self.round(candidates)));
        self.table.ids().to_vec()
    }

    fn share(&self, number: u32) -> f64 {
        self.table.shares().get(&(number + 100)).copied().unwrap_or(0.0)
    }
}

#[test]
fn round_robin_has_each_instance_once_by_number() {
    let mut table = Table::of(Policy::RoundRobin);
    assert_eq!(table.round(&[instance(3), instance(1), instance(2)]), [101, 102, 103]);
    assert_eq!(table.table.update(&table.settings, &[2, 3, 1].map(instance), T0), None);
}

#[test]
fn an_instance_address_has_no_table() {
    assert_eq!(Table::of(Policy::Instance).round(&[instance(1)]), [0; 0]);
}

#[test]
fn this_node_is_closest_then_the_lan_then_the_rest() {
    let mut table = Table::of(Policy::Closest);
    let here = instance(0);
    let (lan, lan2, far) = (at(1, 0.1), at(2, 0.6), at(3, 20.0));
    let unknown = instance(4);
    assert_eq!(table.round(&[far, lan, here, unknown, lan2]), [100]);
    assert_eq!(table.round(&[far, lan, unknown, lan2]), [101, 102]);
    assert_eq!(table.round(&[far, unknown]), [103]);
    assert_eq!(table.round(&[unknown]), [104]);
}

#[test]
fn a_nearer_node_counts_after_three_rounds_and_noise_never() {
    let mut table = Table::of(Policy::Closest);
    assert_eq!(table.round(&[at(1, 10.0), at(2, 30.0)]), [101]);
    let nearer = [at(1, 10.0), at(2, 5.0)];
    assert_eq!(table.rounds(2, &nearer), [101]);
    assert_eq!(table.round(&[at(1, 10.0), at(2, 29.0)]), [101], "it starts again");
    assert_eq!(table.rounds(2, &nearer), [101]);
    // Calls within a round are none.
    for _ in 0..10 {
        table.table.update(&table.settings, &nearer, table.now);
    }
    assert_eq!(table.table.ids(), [101]);
    assert_eq!(table.round(&nearer), [102]);
}

#[test]
fn a_node_that_is_down_leaves_at_once() {
    let mut table = Table::of(Policy::Closest);
    assert_eq!(table.round(&[at(1, 1.0), at(2, 30.0)]), [101]);
    let down = Candidate { node_is_up: false, ..at(1, 1.0) };
    let change = table.table.update(&table.settings, &[down, at(2, 30.0)], table.now);
    assert_eq!(change.map(|change| change.moved), Some(1.0));
    assert_eq!(table.table.ids(), [102]);
}

#[test]
fn a_busy_ring_spills_in_proportion_and_a_full_one_all() {
    let mut table = Table::of(Policy::Closest);
    let near = |cpu: f32| Candidate { cpu_percent: Some(cpu), ..at(1, 1.0) };
    assert_eq!(table.round(&[near(69.0), at(2, 20.0)]), [101]);
    table.round(&[near(80.0), at(2, 20.0)]);
    assert!((table.share(1) - 0.5).abs() < 0.02, "{}", table.share(1));
    table.round(&[near(81.0), at(2, 20.0)]);
    assert!((table.share(1) - 0.5).abs() < 0.02, "held until it changes by an eighth");
    assert_eq!(table.round(&[near(95.0), at(2, 20.0)]), [102]);
    assert_eq!(table.round(&[near(95.0)]), [101], "better a full one than none");
    let far = Candidate { cpu_percent: Some(99.0), ..at(2, 20.0) };
    assert_eq!(table.round(&[near(95.0), far]), [101, 102], "nobody has room");
}

#[test]
fn a_limit_on_flows_spills_too() {
    let mut table = Table::of(Policy::Closest);
    let settings = closest::Settings { full_flows: Some(100), ..Default::default() };
    table.settings.closest = settings;
    assert_eq!(table.round(&[Candidate { flows: 79, ..at(1, 1.0) }, at(2, 20.0)]), [101]);
    assert_eq!(table.round(&[Candidate { flows: 100, ..at(1, 1.0) }, at(2, 20.0)]), [102]);
}

#[test]
fn a_node_that_answers_probes_no_more_ranks_last_after_three_rounds() {
    let mut table = Table::of(Policy::Closest);
    assert_eq!(table.round(&[at(1, 1.0), at(2, 30.0)]), [101]);
    assert_eq!(table.rounds(2, &[instance(1), at(2, 30.0)]), [101]);
    assert_eq!(table.round(&[instance(1), at(2, 30.0)]), [102]);
    assert_eq!(table.round(&[at(1, 1.0), at(2, 30.0)]), [101], "a measurement counts at once");
}

#[test]
fn flows_come_before_cpu() {
    let mut table = Table::of(Policy::Underutilized);
    let busy_cpu = Candidate { cpu_percent: Some(100.0), ..with_flows(1, 10) };
    let idle_cpu = Candidate { cpu_percent: Some(0.0), ..with_flows(2, 20) };
    table.round(&[busy_cpu, idle_cpu]);
    assert!(table.share(1) > table.share(2));

    let mut table = Table::of(Policy::Underutilized);
    let idle_cpu = Candidate { flows: 10, ..idle_cpu };
    table.round(&[busy_cpu, idle_cpu]);
    assert!((table.share(2) - 0.75).abs() < 0.02, "{}", table.share(2));
}

#[test]
fn the_first_table_knows_who_is_busy_and_nobody_starves() {
    let mut table = Table::of(Policy::Underutilized);
    table.round(&[with_flows(1, 20), with_flows(2, 0), with_flows(3, 0)]);
    assert!(table.share(1) > 0.0 && table.share(1) < 0.03);
    assert!((table.share(2) - table.share(3)).abs() < 0.02);
}

#[test]
fn equal_instances_are_a_short_table_that_stays() {
    let mut table = Table::of(Policy::Underutilized);
    assert_eq!(table.round(&[1, 2, 3].map(|n| with_flows(n, 50))), [101, 102, 103]);
    assert_eq!(table.round(&[with_flows(1, 51), with_flows(2, 50), with_flows(3, 49)]).len(), 3);
}

#[test]
fn a_newcomer_starts_with_an_equal_share_at_most() {
    let mut table = Table::of(Policy::Underutilized);
    table.rounds(3, &[with_flows(1, 100), with_flows(2, 100)]);
    let all = [with_flows(1, 100), with_flows(2, 100), with_flows(3, 0)];
    table.round(&all);
    let first = table.share(3);
    assert!(first < 0.37, "{first}");
    table.rounds(10, &all);
    assert!(table.share(3) > 0.8, "and then gets what it can take: {}", table.share(3));
}

/// Many nodes with one view, old by a second, fill instances of different speed: flows in
/// progress settle, no instance is flooded and emptied in turns.
#[test]
fn underutilized_settles_under_delayed_reports() {
    let mut table = Table::of(Policy::Underutilized);
    // Arrivals in each step of 600 ms, and how many steps a flow takes at each instance.
    let (arrivals, steps) = (300.0, [5.0, 5.0, 10.0, 40.0]);
    let mut flows = [0.0_f64; 4];
    let mut seen = [[0.0; 4]; 2];
    let mut shares = Vec::new();
    for step in 0..200 {
        let view = seen[step % 2];
        seen[step % 2] = flows;
        table.round(&[1, 2, 3, 4].map(|n| with_flows(n, view[n as usize - 1] as u32)));
        for n in 0..4 {
            flows[n] += arrivals * table.share(n as u32 + 1) - flows[n] / steps[n];
        }
        shares.push([1, 2, 3, 4].map(|n| table.share(n)));
    }
    // Equal shares would have the slow one hold 8 times the flows of a fast one.
    assert!(flows[3] < 2.5 * flows[0], "{flows:?}");
    for n in 0..4 {
        let late: Vec<f64> = shares[100..].iter().map(|shares| shares[n]).collect();
        let (least, most) =
            late.iter().fold((1.0_f64, 0.0_f64), |(l, m), s| (l.min(*s), m.max(*s)));
        assert!(most - least < 0.06, "instance {n} swings between {least} and {most}");
    }
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let state = prop_oneof![
        3 => Just(InstanceState::Up),
        1 => Just(InstanceState::Draining),
        1 => Just(InstanceState::Absent),
    ];
    let one = (
        (0..200_u32, 0..6_u32, state, any::<bool>()),
        prop::option::of(0..200_000_u64),
        prop::option::of(prop_oneof![9 => -10.0..150.0_f32, 1 => Just(f32::NAN)]),
        prop_oneof![0..10_u32, any::<u32>()],
    );
    prop::collection::vec(one, 0..40).prop_map(|all| {
        let numbered =
            all.into_iter().map(|((number, node, state, node_is_up), rtt, cpu, flows)| {
                let rtt = rtt.map(Duration::from_micros);
                let known = Candidate { node, state, node_is_up, rtt, flows, ..instance(number) };
                (number, Candidate { cpu_percent: cpu, ..known })
            });
        let once: std::collections::BTreeMap<_, _> = numbered.collect();
        once.into_values().collect()
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::RoundRobin),
        Just(Policy::Closest),
        Just(Policy::Underutilized),
        Just(Policy::Affinity),
    ]
}

proptest! {
    #[test]
    fn a_table_has_who_takes_flows_and_nobody_else(
        policy in policies(),
        views in prop::collection::vec(candidates(), 1..6),
    ) {
        let mut table = Table::of(policy);
        for view in views {
            let ids = table.round(&view);
            let eligible: Vec<u32> =
                view.iter().filter(|c| c.takes_flows()).map(|c| c.id).collect();
            prop_assert_eq!(ids.is_empty(), eligible.is_empty());
            prop_assert!(ids.len() <= TABLE_SLOTS as usize);
            prop_assert!(ids.iter().all(|id| eligible.contains(id)));
            if policy != Policy::Closest {
                prop_assert!(eligible.iter().all(|id| ids.contains(id)), "nobody starves");
            }
        }
    }

    #[test]
    fn the_order_of_candidates_does_not_matter(
        policy in policies(),
        (views, shuffled) in prop::collection::vec(candidates(), 1..4)
            .prop_flat_map(|views| {
                let shuffled: Vec<_> = views.iter().map(|v| Just(v.clone()).prop_shuffle()).collect();
                (Just(views), shuffled)
            }),
    ) {
        let (mut one, mut other) = (Table::of(policy), Table::of(policy));
        for (view, shuffled) in views.iter().zip(&shuffled) {
            prop_assert_eq!(one.round(view), other.round(shuffled));
        }
    }

    /// Whatever measurements do within what is alike, the table stays.
    #[test]
    fn closest_does_not_flap(
        base in prop::collection::vec(50..100_000_u64, 2..8),
        noise in prop::collection::vec(prop::collection::vec(-100..=100_i64, 8), 1..30),
    ) {
        let view = |noise: &[i64]| -> Vec<Candidate> {
            base.iter().zip(noise).enumerate().map(|(n, (us, noise))| {
                // Within a sixth or, for short ones, a millisecond.
                let most = (*us as i64 / 6).max(900);
                let us = (*us as i64 + most * noise / 100).max(1) as u64;
                Candidate { rtt: Some(Duration::from_micros(us)), ..instance(n as u32 + 1) }
            }).collect()
        };
        let mut table = Table::of(Policy::Closest);
        let first = table.round(&view(&[0; 8]));
        for noise in &noise {
            prop_assert_eq!(&table.round(&view(noise)), &first);
        }
    }

    /// What is chosen once measurements hold still is not far from the best there is.
    #[test]
    fn closest_is_close(
        before in prop::collection::vec(50..100_000_u64, 2..8),
        after in prop::collection::vec(50..100_000_u64, 8),
    ) {
        let view = |all: &[u64]| -> Vec<Candidate> {
            (1..=before.len()).map(|n| at(n as u32, all[n - 1] as f64 / 1000.0)).collect()
        };
        let mut table = Table::of(Policy::Closest);
        table.round(&view(&before));
        let chosen = table.rounds(3, &view(&after));
        let best = after[..before.len()].iter().min().expect("two or more");
        for id in chosen {
            let us = after[id as usize - 101];
            prop_assert!(us <= best * 1728 / 1000 + 3000, "{us} for {best}");
        }
    }

    /// In half a half-life no share goes further than it may, whatever is reported.
    #[test]
    fn underutilized_changes_at_a_bounded_rate(
        loads in prop::collection::vec(prop::collection::vec(0..5000_u32, 4), 2..20),
    ) {
        let mut table = Table::of(Policy::Underutilized);
        let mut before: Option<Vec<f64>> = None;
        for load in loads {
            table.round(&[1, 2, 3, 4].map(|n| with_flows(n, load[n as usize - 1])));
            let shares: Vec<f64> = (1..=4).map(|n| table.share(n)).collect();
            if let Some(before) = before {
                // 1 − 2^−0.6 of the way, one place and the tolerance.
                let most = 0.341 + 1.0 / 32.0 + 0.03;
                for (is, was) in shares.iter().zip(&before) {
                    prop_assert!((is - was).abs() < most, "{was} to {is}");
                }
            }
            before = Some(shares);
        }
    }
}

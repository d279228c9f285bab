//! The net manager is killed at any instant, again and again, while everything around it changes
//! and flows go on: no flow notices, and what is left in the kernel is what a net manager would
//! have written that nobody ever killed.
//!
//! Two real programs on hosts of their own, with a router between them; behind the router are
//! played nodes that die and return, and somebody outside of the overlay. Chance comes from a seed,
//! which is printed should it fail: `XYLEM_SEED` sets it, `XYLEM_KILLS` how often is killed.

#![expect(unreachable_pub, reason = "a test binary exports nothing")]

mod churn;
mod contents;
mod scene;
#[path = "../support/mod.rs"]
mod support;
mod traffic;

use std::{
    cell::Cell,
    env, fmt,
    time::{Duration, Instant},
};

use net_common::DropReason;
use rand::{Rng, SeedableRng, rngs::StdRng};

use churn::Churn;
use scene::Scene;
use support::{daemon::Daemon, on_a_new_host, wait_for};
use traffic::Traffic;

const SEED: u64 = 20_221_122;
const KILLS: u64 = 20;

/// What a packet of the dialler may meet: an instance that went, a node that does not answer, a
/// question that the net manager took with it, a port that it had used before. No other packet is
/// dropped.
const OF_CHURN: [DropReason; 6] = [
    DropReason::NoInstance,
    DropReason::NodeDown,
    DropReason::InstanceGone,
    DropReason::Unresolved,
    DropReason::MissLimited,
    DropReason::PortConflict,
];

#[test]
fn no_flow_notices_and_the_maps_are_as_if_nobody_had_been_killed() {
    let seed = number("XYLEM_SEED").unwrap_or(SEED);
    // Shown if it fails.
    println!("XYLEM_SEED={seed}");
    on_a_new_host(move |host| async move {
        let mut scene = Scene::start(&host).await;
        let mut churn = Churn::new(seed).await;
        let traffic = Traffic::start(&scene);

        let stop = Cell::new(false);
        let mut killer = Killer::new(seed);
        let Scene { here, there, cluster, peers, dialler, .. } = &mut scene;
        let world = churn::World { cluster, peers, is_asked: Cell::new(false) };
        let manager = here.net_manager();
        let killing = async {
            for _ in 0..number("XYLEM_KILLS").unwrap_or(KILLS) {
                killer.kill_one(here, there, &world).await;
            }
            stop.set(true);
        };
        tokio::join!(killing, churn.run(&world, &manager, dialler, &stop));
        eprintln!("{killer}; {churn}");
        here.ready().await;
        there.ready().await;
        for words in ["left-over interface", "left-over link", "interface is gone"] {
            eprintln!("said {} times: {words}", here.said(words));
        }
        churn.settle(&world, &manager).await;
        // What the net manager that is left had to take over last is what all of them left.
        here.kill();
        here.start();
        here.ready().await;

        eprintln!("{:?}", traffic.stop());
        for (which, instances) in scene.namespaces() {
            for counter in ["EstabResets", "InCsumErrors"] {
                assert_eq!(instances.tcp_counter(counter), 0, "{counter} of {which}");
            }
            // What was sent again, because nobody let the other end answer for a while, had arrived
            // the first time.
            let again = instances.tcp_counter("RetransSegs");
            let needless = instances.tcp_ext_counter("TCPDSACKRecv");
            eprintln!("{which}: {again} segments sent again, {needless} needlessly");
            assert_eq!(again, needless, "segments of {which} that were lost");
        }
        assert_eq!(dropped(&scene.there, &[]), [], "on the node without churn");
        assert_eq!(dropped(&scene.here, &OF_CHURN), []);

        let left = contents::at_rest(&host, &scene, &churn).await;
        contents::assert_nothing_leaked(&host).await;
        scene.start_anew(&host, &churn).await;
        let fresh = contents::at_rest(&host, &scene, &churn).await;
        contents::assert_nothing_leaked(&host).await;
        contents::assert_same(&left, &fresh);
    });
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value} is no number")))
}

/// Packets dropped for other reasons than these.
fn dropped(daemon: &Daemon, expected: &[DropReason]) -> Vec<(&'static str, u64)> {
    let drops = net_maps::PinnedMaps::open(&daemon.bpffs()).unwrap().drops().unwrap();
    drops
        .into_iter()
        .filter(|(reason, count)| count.packets != 0 && !expected.contains(reason))
        .map(|(reason, count)| (reason.name(), count.packets))
        .collect()
}

/// Chooses whom to kill and when.
struct Killer {
    chance: StdRng,
    /// How long a start takes.
    start: Duration,
    starting: u32,
    planning: u32,
    asked: u32,
    serving: u32,
}

impl fmt::Display for Killer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, starting, planning, asked, serving, .. } = self;
        write!(f, "killed {starting} times within a start or just after ({start:?}), {planning} ")?;
        write!(f, "amidst many changes, {asked} amidst a request, {serving} at another instant")
    }
}

impl Killer {
    fn new(seed: u64) -> Self {
        let chance = StdRng::seed_from_u64(seed);
        let start = Duration::from_millis(300);
        Self { chance, start, starting: 0, planning: 0, asked: 0, serving: 0 }
    }

    /// Kills one of the two, which runs or is about to, and starts it again.
    async fn kill_one(&mut self, here: &mut Daemon, there: &mut Daemon, world: &churn::World<'_>) {
        let is_there = self.chance.random_ratio(1, 5);
        let victim = if is_there { there } else { here };
        match self.chance.random_range(0..4) {
            0 => {
                self.starting += 1;
                let instant = self.start.mul_f64(self.chance.random_range(0.0..1.2));
                tokio::time::sleep(instant).await;
            }
            1 => {
                self.planning += 1;
                victim.ready().await;
                let manager = victim.net_manager();
                wait_for("session", || async {
                    match manager.status().await {
                        Ok(status) if status.connected => Ok(()),
                        other => Err(format!("{other:?}")),
                    }
                })
                .await;
                world.change_everything(&mut self.chance).await;
                let instant = Duration::from_micros(self.chance.random_range(0..60_000));
                tokio::time::sleep(instant).await;
            }
            // The other one is asked for nothing.
            2 if !is_there => {
                self.asked += 1;
                victim.ready().await;
                while !world.is_asked.get() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let instant = Duration::from_micros(self.chance.random_range(0..10_000));
                tokio::time::sleep(instant).await;
            }
            _ => {
                self.serving += 1;
                victim.ready().await;
                let instant = Duration::from_millis(self.chance.random_range(0..200));
                tokio::time::sleep(instant).await;
            }
        }
        victim.kill();
        let started = Instant::now();
        victim.start();
        if self.start == Duration::from_millis(300) {
            victim.ready().await;
            self.start = started.elapsed();
        }
    }
}

//! A peer that cannot be reached leaves the lookup tables, and returns by itself.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use xylem_tests::{
    relay::{Direction, Relay},
    suite,
    wait::wait_for,
};

use crate::{
    faults::with_line,
    scene::{LIMIT, Scene},
};

/// By then no new connection goes to a node that is cut off.
const FAILOVER: Duration = Duration::from_millis(500);

pub fn cut(scene: &Scene) -> Result<()> {
    with_line(scene, |relay| fail_over(scene, relay, Relay::cut))
}

/// Probes that are not answered are missed, whichever way is cut.
pub fn cut_forth(scene: &Scene) -> Result<()> {
    with_line(scene, |relay| fail_over(scene, relay, |relay| relay.cut_one(Direction::Forth)))
}

pub fn cut_back(scene: &Scene) -> Result<()> {
    with_line(scene, |relay| fail_over(scene, relay, |relay| relay.cut_one(Direction::Back)))
}

/// The service has an instance on each node. Half a second after the cut all connections reach the
/// one that can be reached; after it is healed both.
fn fail_over(scene: &Scene, relay: &Relay, cut: impl FnOnce(&Relay)) -> Result<()> {
    const CONNECTIONS: usize = 50;
    let all = wait_for_both(scene)?;
    let start = Instant::now();
    cut(relay);
    // Some of these are lost.
    while start.elapsed() < FAILOVER {
        ask(scene, FAILOVER / 10).ok();
    }
    let mut reached = BTreeSet::new();
    for number in 0..CONNECTIONS {
        let name = ask(scene, FAILOVER);
        reached.insert(name.with_context(|| {
            format!("connection {number}, {:?} after the cut", start.elapsed())
        })?);
    }
    ensure!(reached.len() == 1 && reached.is_subset(&all), "{reached:?} were reached");
    relay.heal();
    let again = wait_for_both(scene)?;
    ensure!(again == all, "{again:?} were reached, {all:?} before");
    Ok(())
}

/// Waits until successive connections reach both instances; their names.
fn wait_for_both(scene: &Scene) -> Result<BTreeSet<String>> {
    wait_for("both instances to be reached", LIMIT, || {
        let names = (0..4).map(|_| ask(scene, FAILOVER)).collect::<Result<BTreeSet<_>>>()?;
        ensure!(names.len() == 2, "{names:?} were reached");
        Ok(names)
    })
}

/// Connects once; the name of the instance that answered.
fn ask(scene: &Scene, patience: Duration) -> Result<String> {
    scene.client.run(|| suite::ask(scene.both.rr_ip, patience))
}

//! The packets never wait for a daemon.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rand::{Rng, SeedableRng, rngs::StdRng};
use xylem_tests::{load::transfer, suite::ask, wait::wait_for};

use crate::{
    faults::seed,
    scene::{LIMIT, Scene},
};

/// Of one of the two, one after the other.
const KILLS: u32 = 12;

/// For the answer to a connection.
const PATIENCE: Duration = Duration::from_secs(3);

/// Both net managers are killed during a transfer and a stream of new connections to a known
/// service, together and then one or the other at any instant, also while it starts: nothing
/// fails, and the flows are still there.
pub fn net_managers_may_die(scene: &Scene) -> Result<()> {
    let (stop, connections) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        let transfer = scope.spawn(|| scene.client.run(|| transfer(scene.far.rr_ip, 2 << 30)));
        let connects = scope.spawn(|| {
            scene.client.run(|| -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    let number = connections.load(Ordering::Relaxed);
                    ask(scene.far.rr_ip, PATIENCE)
                        .with_context(|| format!("connection {number}"))?;
                    connections.store(number + 1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let outcome = kill_and_restart(scene, &connections);
        stop.store(true, Ordering::Relaxed);
        connects.join().expect("it reports errors and does not panic")?;
        let received = transfer.join().expect("it reports errors and does not panic")?;
        ensure!(received.unharmed, "{received:?}");
        outcome
    })?;
    let flows = scene.xylem_net(0, &["flows"])?;
    ensure!(flows.contains(&scene.far.rr_ip.to_string()), "the flows are gone: {flows}");
    Ok(())
}

fn kill_and_restart(scene: &Scene, connections: &AtomicU32) -> Result<()> {
    let wait_more = |what: &str, more: u32| {
        let goal = connections.load(Ordering::Relaxed) + more;
        wait_for(what, LIMIT, || {
            let count = connections.load(Ordering::Relaxed);
            if count >= goal { Ok(()) } else { bail!("{count} of {goal} connections") }
        })
    };
    wait_more("connections before", 50)?;
    for worker in &mut scene.platform().workers {
        worker.net_manager.kill()?;
    }
    wait_more("connections without a net manager", 500)?;
    let flows = scene.xylem_net(0, &["flows"])?;
    ensure!(flows.contains(&scene.far.rr_ip.to_string()), "no flows while it is dead: {flows}");
    {
        let mut platform = scene.platform();
        for worker in 0..platform.workers.len() {
            platform.restart_net_manager(worker)?;
        }
    }
    wait_more("connections after", 500)?;
    let seed = seed()?;
    let mut chance = StdRng::seed_from_u64(seed);
    for kill in 0..KILLS {
        // At once, while it starts, or when it has been of use for a while.
        wait_more("connections", chance.random_range(0..100))
            .with_context(|| format!("kill {kill} with seed {seed}"))?;
        let mut platform = scene.platform();
        let worker = chance.random_range(0..platform.workers.len());
        platform.workers[worker].net_manager.kill()?;
        platform.restart_net_manager(worker)?;
    }
    wait_more("connections in the end", 100)
}

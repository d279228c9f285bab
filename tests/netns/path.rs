//! That packets stay in the kernel.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use net_common::{Counter, ProgramCounter};
use xylem_tests::{
    link,
    load::{bytes_per_second, transfer},
};

use crate::scene::Scene;

const LONG: Duration = Duration::from_secs(10);

/// A gigabyte arrives unharmed; and while the tunnel carries all that a connection can give, the
/// net managers have next to nothing to do.
pub fn gigabyte(scene: &Scene) -> Result<()> {
    let received = scene.client.run(|| transfer(scene.far.rr_ip, 1 << 30))?;
    ensure!(received.unharmed && received.bytes == 1 << 30, "{received:?}");

    let encapsulated = || -> Result<Counter> {
        let counters = scene.maps(0)?.program_counters()?;
        let found = counters.iter().find(|(program, _)| *program == ProgramCounter::Encapsulated);
        Ok(found.context("no such counter")?.1)
    };
    let cpu = || -> Result<Vec<Duration>> {
        scene.platform().workers.iter().map(|worker| worker.net_manager.cpu_time()).collect()
    };
    let (cpu_before, before, start) = (cpu()?, encapsulated()?, Instant::now());
    let speed = scene.client.run(|| bytes_per_second(scene.far.rr_ip, 1, LONG))?;
    let after = encapsulated()?;
    let (bytes, packets) = (after.bytes - before.bytes, after.packets - before.packets);
    for (before, after) in cpu_before.iter().zip(cpu()?) {
        let used = after - *before;
        println!(
            "net manager CPU during {:?} at {:.1} Gb/s: {used:?}",
            start.elapsed(),
            speed * 8e-9
        );
        // Ten probes a second and a look at the policies twice a second; who carried the packets
        // would need all of it.
        ensure!(used < start.elapsed() / 25, "a net manager used {used:?}");
    }
    let sent = speed * start.elapsed().as_secs_f64();
    ensure!(bytes as f64 >= sent * 0.9, "{sent:.0} bytes were sent, {bytes} went by the tunnel");
    // Several segments in one packet, acknowledgements not counted apart.
    let mean = bytes / packets.max(1);
    ensure!(mean > 10_000, "{mean} bytes a packet: large packets are cut before the tunnel");
    no_tun_and_no_bridge(scene)
}

fn no_tun_and_no_bridge(scene: &Scene) -> Result<()> {
    let platform = scene.platform();
    for host in &platform.topology.workers {
        for (name, kind) in host.netns.netlink(async |netlink| link::up(&netlink).await)? {
            let is_expected = kind == "veth" || name == "lo";
            ensure!(is_expected, "{name} on {} is a {kind}", host.netns.name());
        }
    }
    Ok(())
}

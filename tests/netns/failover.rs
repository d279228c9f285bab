//! A peer that cannot be reached leaves the lookup tables, and returns by itself; one that comes
//! and goes is kept out for longer each time.

use std::{
    collections::BTreeSet,
    net::UdpSocket,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use net_common::Probe;
use xylem_tests::{
    relay::{Direction, Relay},
    suite,
    wait::wait_for,
};
use zerocopy::FromBytes;

use crate::{
    faults::with_line,
    scene::{LIMIT, Scene},
    watch::{Nodes, Watch},
};

/// From a cut until the lookup tables lead new connections to others.
const FAILOVER: Duration = Duration::from_millis(500);
/// The same as the net manager's pace has it: so many probes, 100 ms apart, are sent meanwhile at
/// most, however little of a CPU it gets.
const PROBES: u64 = 5;
/// From one probe to the next.
const PACE: Duration = Duration::from_millis(100);
/// For the answer to a connection.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn cut(scene: &Scene) -> Result<()> {
    with_fresh_line(scene, |relay| fail_over(scene, relay, Relay::cut))
}

/// Probes that are not answered are missed, whichever way is cut.
pub fn cut_forth(scene: &Scene) -> Result<()> {
    with_fresh_line(scene, |relay| fail_over(scene, relay, |relay| relay.cut_one(Direction::Forth)))
}

pub fn cut_back(scene: &Scene) -> Result<()> {
    with_fresh_line(scene, |relay| fail_over(scene, relay, |relay| relay.cut_one(Direction::Back)))
}

/// The service has an instance on each node. Within half a second after the cut the table leads to
/// the one that can be reached alone, and from then on no connection fails; after it is healed,
/// connections reach both.
fn fail_over(scene: &Scene, relay: &Relay, cut: impl FnOnce(&Relay)) -> Result<()> {
    const CONNECTIONS: usize = 50;
    relay.mark(is_request);
    let all = wait_for_both(scene)?;
    let watch = Watch::start(scene, scene.both.rr_ip)?;
    let (near, both) = nodes(scene)?;
    watch.wait(&both, LIMIT)?;

    let sent = || relay.counts(Direction::Forth).taken;
    let before = sent();
    let start = Instant::now();
    cut(relay);
    let out = watch.wait(&near, LIMIT)?;
    let (took, missed) = (out.saturating_duration_since(start), sent() - before);
    println!("out of the table {took:?} after the cut, {missed} probes later");
    ensure!(missed <= PROBES, "it took {missed} probes: {watch}");
    ensure!(took <= FAILOVER, "it took {took:?} and {missed} probes: {watch}");

    let mut reached = BTreeSet::new();
    for number in 0..CONNECTIONS {
        let name = ask(scene).with_context(|| format!("connection {number}"));
        reached.insert(name.with_context(|| format!("after the cut; {watch}"))?);
    }
    ensure!(reached.len() == 1 && reached.is_subset(&all), "{reached:?} were reached");
    relay.heal();
    watch.wait(&both, LIMIT)?;
    let again = wait_for_both(scene)?;
    ensure!(again == all, "{again:?} were reached, {all:?} before");
    Ok(())
}

/// Each time that the line is cut as soon as the node is back, it takes more answers in a row to
/// bring it back, about twice as many; the table changes once when it goes and once when it comes,
/// and troubles while it is out change nothing but how long that lasts.
pub fn flapping(scene: &Scene) -> Result<()> {
    let outcome = with_fresh_line(scene, |relay| flap(scene, relay));
    // Trials to come are not to wait for it so long.
    outcome.and(start_anew(scene))
}

fn flap(scene: &Scene, relay: &Relay) -> Result<()> {
    const ROUNDS: usize = 5;
    /// In this round there is another cut before all answers are there.
    const TROUBLED: usize = 3;
    relay.mark(is_answer);
    wait_for_both(scene)?;
    let watch = Watch::start(scene, scene.both.rr_ip)?;
    let (near, both) = nodes(scene)?;
    watch.wait(&both, LIMIT)?;
    let back = || relay.counts(Direction::Back);
    let mut penalty = Penalty::default();
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        relay.cut();
        penalty.punish(watch.wait(&near, LIMIT)?);
        if round == TROUBLED {
            let before = back().delivered;
            relay.heal();
            wait_for("some answers", LIMIT, || {
                let came = back().delivered - before;
                ensure!(came >= 6, "{came} answers");
                Ok(())
            })?;
            // The other node's own probes pass, so that answers to this one's are all that is lost.
            relay.cut_one(Direction::Forth);
            let lost = relay.counts(Direction::Forth).cut;
            wait_for("answers to be lost", LIMIT, || {
                let now = relay.counts(Direction::Forth).cut - lost;
                ensure!(now >= 3, "{now} lost");
                Ok(())
            })?;
        }
        let before = back().delivered;
        relay.heal();
        let returned = watch.wait(&both, LIMIT).with_context(|| format!("in round {round}"))?;
        let came = back().delivered - before;
        // Fewer are wanted the later it is; and one more may come before they are counted.
        let wanted = penalty.answers(returned)..=penalty.answers(returned - PACE) + 1;
        ensure!(wanted.contains(&came), "round {round}: {came} answers, not {wanted:?}: {watch}");
        took.push(came);
        // Somebody uses the service, so that it is not forgotten.
        scene.client.run(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"?", (scene.both.rr_ip, 9)))?;
    }
    println!("answers that brought it back: {took:?}");
    ensure!(took.is_sorted_by(|earlier, later| earlier < later), "{took:?}");
    let changes = watch.changes();
    ensure!(changes.len() == 1 + 2 * ROUNDS, "it changed otherwise: {watch}");
    Ok(())
}

/// What the net manager's documentation says of its patience: after each failure twice as many
/// answers are wanted, 2 to 64, and half of the failures is forgiven in 30 s.
#[derive(Clone, Copy, Debug, Default)]
struct Penalty {
    failures: f64,
    since: Option<Instant>,
}

impl Penalty {
    fn left(&self, at: Instant) -> f64 {
        let past = self.since.map_or(Duration::ZERO, |since| at.saturating_duration_since(since));
        self.failures * (-past.as_secs_f64() / 30.0).exp2()
    }

    fn punish(&mut self, at: Instant) {
        *self = Self { failures: (self.left(at) + 1.0).min(6.0), since: Some(at) };
    }

    fn answers(&self, at: Instant) -> u64 {
        let wanted = 2.0 * (self.left(at) - 1.0).max(0.0).exp2();
        (wanted.ceil() as u64).min(64)
    }
}

/// A line between net managers that know nothing of what failed, and how slow it was, in the
/// trials before.
fn with_fresh_line(scene: &Scene, work: impl FnOnce(&Relay) -> Result<()>) -> Result<()> {
    start_anew(scene)?;
    with_line(scene, |relay| {
        relay.mark(is_answer);
        wait_for("the new net managers' probes", LIMIT, || {
            let [forth, back] = Direction::BOTH.map(|direction| relay.counts(direction).delivered);
            ensure!(forth >= 5 && back >= 5, "{forth} and {back} answers");
            Ok(())
        })?;
        work(relay)
    })
}

/// Starts both net managers anew.
fn start_anew(scene: &Scene) -> Result<()> {
    let mut platform = scene.platform();
    for worker in 0..platform.workers.len() {
        platform.workers[worker].net_manager.kill()?;
        platform.restart_net_manager(worker)?;
    }
    Ok(())
}

/// The first worker alone, and both, as its maps name them.
fn nodes(scene: &Scene) -> Result<(Nodes, Nodes)> {
    let near = Nodes::from([0]);
    let others = scene.maps(0)?.nodes()?.into_iter().filter(|(_, node)| node.state != 0);
    let both: Nodes = others.map(|(id, _)| id).chain([0]).collect();
    ensure!(both.len() == 2, "the nodes {both:?} are known");
    Ok((near, both))
}

fn is_request(packet: &[u8]) -> bool {
    is_probe(packet, Probe::REQUEST)
}

fn is_answer(packet: &[u8]) -> bool {
    is_probe(packet, Probe::REPLY)
}

/// Whether a packet of the underlay is a probe of this kind.
fn is_probe(packet: &[u8], kind: u8) -> bool {
    /// Of IPv4 and UDP.
    const OUTER_LEN: usize = 28;
    let payload = packet.get(OUTER_LEN..).unwrap_or_default();
    Probe::read_from_bytes(payload)
        .is_ok_and(|probe| (probe.magic, probe.kind) == (Probe::MAGIC, kind))
}

/// Waits until successive connections reach both instances; their names.
fn wait_for_both(scene: &Scene) -> Result<BTreeSet<String>> {
    wait_for("both instances to be reached", LIMIT, || {
        let names = (0..4).map(|_| ask(scene)).collect::<Result<BTreeSet<_>>>()?;
        ensure!(names.len() == 2, "{names:?} were reached");
        Ok(names)
    })
}

/// Connects once; the name of the instance that answered.
fn ask(scene: &Scene) -> Result<String> {
    scene.client.run(|| suite::ask(scene.both.rr_ip, PATIENCE))
}

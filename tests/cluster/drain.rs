//! A worker is emptied for its maintenance, and nobody notices.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use xylem_tests::{
    deployment::{Service, scale_up},
    inside::Inside,
    suite::DEMO_PORT,
    wait::wait_for,
};
use xylem_types::{
    instance::InstanceStatus,
    job::JobInstance,
    node::Availability,
    rest::{AvailabilityChange, Node},
};

use crate::scene::{LIMIT, Scene, ask};

/// Long enough to look at everything while the old instance drains.
const GRACE: Duration = Duration::from_secs(6);
/// A request that is not whole is waited for by the server for longer than this.
const HEADER_EVERY: Duration = Duration::from_secs(1);

pub fn worker_drained(scene: &Scene) -> Result<()> {
    scene.with_service(scene.serving("leaving"), 2, |service| {
        let instances = scene.with_rest(|rest| rest.service(&service.id))?.instance_list;
        let (old, other) = (&instances[0], &instances[1]);
        ensure!(old.worker_id != other.worker_id, "both on one worker: {instances:?}");
        let client = scene.inside(other)?;
        let old_address = old.instance_ip.context("no instance IP")?;
        let old_name = ask(&client, old_address)?;
        let mut requests: Vec<Request> = (0..4)
            .map(|_| Request::begin(&client, service.rr_ip))
            .chain([Request::begin(&client, old_address)])
            .collect::<Result<_>>()?;

        set_availability(scene, old, Availability::Draining, Some(GRACE))?;
        let successor = wait_for("another instance to take its place", LIMIT, || {
            for request in &mut requests {
                request.go_on()?;
            }
            let now = scene.with_rest(|rest| rest.service(&service.id))?.instance_list;
            let running: Vec<_> =
                now.iter().filter(|i| i.status == InstanceStatus::Running).collect();
            ensure!(running.len() >= 2, "less than was asked for: {now:?}");
            let taken_over = |i: &&&JobInstance| !instances.iter().any(|b| same(b, i));
            match running.iter().find(taken_over) {
                Some(successor) if !running.iter().any(|i| same(i, old)) => {
                    Ok((*successor).clone())
                }
                _ => bail!("{now:?}"),
            }
        })?;
        ensure!(successor.worker_id != old.worker_id, "on the same worker: {successor:?}");
        let others = |rounds: u32| -> Result<BTreeSet<String>> {
            let names = (0..rounds).map(|_| ask(&client, service.rr_ip));
            let names = names.collect::<Result<BTreeSet<_>>>()?;
            ensure!(!names.contains(&old_name), "{names:?} answer");
            ensure!(names.len() == 2, "only {names:?} answer");
            Ok(names)
        };
        wait_for("new connections to go to the others only", LIMIT, || others(4))?;
        others(12)?;

        // What was begun before is answered by whom it was begun with.
        let last = requests.pop().context("the last request")?;
        let answers = requests.into_iter().map(Request::finish).collect::<Result<Vec<_>>>()?;
        ensure!(answers.contains(&old_name), "none of {answers:?} is {old_name}");
        let drain = node(scene, old)?.drain.context("no word of the draining")?;
        ensure!((drain.left, drain.draining) == (0, 1), "{drain:?}");

        wait_for("the worker to be empty", LIMIT, || {
            let drain = node(scene, old)?.drain.context("no word of the draining")?;
            ensure!(drain.is_done(), "{drain:?}");
            Ok::<_, anyhow::Error>(())
        })?;
        let platform = scene.platform();
        let worker = platform.workers.iter().find(|worker| worker.name == old.worker_name);
        let processes = worker.context("no such worker")?.instances();
        drop(platform);
        ensure!(processes == 0, "{processes} processes on a drained worker");
        let answer = last.finish();
        ensure!(answer.is_err(), "{answer:?} after the drain time");
        taken_back(scene, service, old)
    })
}

/// A drained worker gets nothing until it is taken back, and then what comes next.
fn taken_back(scene: &Scene, service: &Service, old: &JobInstance) -> Result<()> {
    let there = |instances: Vec<JobInstance>| {
        instances.iter().filter(|i| i.worker_id == old.worker_id).count()
    };
    let instances = scene.with_rest(|rest| scale_up(rest, service, 1))?;
    ensure!(there(instances) == 0, "a drained worker got an instance");
    set_availability(scene, old, Availability::Active, None)?;
    let instances = scene.with_rest(|rest| scale_up(rest, service, 1))?;
    ensure!(there(instances) == 1, "the emptiest worker got none");
    Ok(())
}

fn same(a: &JobInstance, b: &JobInstance) -> bool {
    a.instance_number == b.instance_number
}

fn node(scene: &Scene, on: &JobInstance) -> Result<Node> {
    let nodes = scene.with_rest(|rest| rest.nodes())?;
    let node = nodes.into_iter().find(|node| node.room.worker_id == on.worker_id);
    node.with_context(|| format!("no worker {}", on.worker_id))
}

fn set_availability(
    scene: &Scene,
    on: &JobInstance,
    availability: Availability,
    grace: Option<Duration>,
) -> Result<()> {
    let drain_grace_ms = grace.map(|grace| u64::try_from(grace.as_millis())).transpose()?;
    let change = serde_json::to_string(&AvailabilityChange { availability, drain_grace_ms })?;
    let path = format!("/api/nodes/{}/availability", on.worker_id);
    let answer = scene.with_rest(|rest| rest.send("PUT", &path, Some(&change)))?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(())
}

/// A request that takes its time: the server answers when it is whole.
struct Request {
    stream: TcpStream,
    last: Instant,
}

impl Request {
    fn begin(client: &Inside, address: Ipv4Addr) -> Result<Self> {
        client.run(|| {
            let patience = Duration::from_secs(3);
            let target = SocketAddr::from((address, DEMO_PORT));
            let mut stream = TcpStream::connect_timeout(&target, patience)?;
            stream.set_read_timeout(Some(patience))?;
            stream.write_all(b"GET / HTTP/1.1\r\n")?;
            Ok(Self { stream, last: Instant::now() })
        })
    }

    /// One header more, now and then.
    fn go_on(&mut self) -> Result<()> {
        if self.last.elapsed() >= HEADER_EVERY {
            self.stream.write_all(b"X-More: 1\r\n").context("an established connection")?;
            self.last = Instant::now();
        }
        Ok(())
    }

    /// The name of who answers.
    fn finish(mut self) -> Result<String> {
        self.stream.write_all(b"\r\n").context("an established connection")?;
        let lines = BufReader::new(self.stream).lines();
        let body = lines.last().context("the connection was closed without an answer")??;
        ensure!(!body.is_empty(), "an answer without a name");
        Ok(body)
    }
}

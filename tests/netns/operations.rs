//! What an operator sees of a running platform: `xylem net` on its nodes.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use net_common::config::features;
use serde::Deserialize;
use xylem_tests::{daemon, suite::ask, wait::wait_for};

use crate::scene::{LIMIT, Scene};

/// For the answer to a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// On the first worker.
const HERE: usize = 0;

/// `xylem net …` in the network namespace of the first worker.
fn xylem_net(scene: &Scene, arguments: &[&str]) -> Command {
    let platform = scene.platform();
    let mut command = Command::new(daemon::program("xylem"));
    command.args(["net", "--output", "json", "--bpffs"]);
    command.arg(&platform.workers[HERE].paths.bpffs_root).args(arguments);
    platform.topology.workers[HERE].netns.enter(&mut command);
    command
}

fn json<T: for<'a> Deserialize<'a>>(scene: &Scene, arguments: &[&str]) -> Result<T> {
    let output = xylem_net(scene, arguments).output().context("cannot run xylem")?;
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "xylem net {arguments:?}: {stderr}\n{stdout}");
    serde_json::from_str(&stdout).with_context(|| stdout.into_owned())
}

#[derive(Debug, Deserialize)]
struct Explained {
    verdict: String,
    summary: String,
}

fn explain(scene: &Scene, dst: &str, proto: &str) -> Result<Explained> {
    json(scene, &["explain", "client", dst, "--proto", proto])
}

/// It says where a connection would go, and that connection goes there; asking places no flow and
/// takes no turn.
pub fn explain_agrees(scene: &Scene) -> Result<()> {
    for proto in ["tcp", "udp"] {
        scene.client.run(|| ask(scene.near.rr_ip, PATIENCE))?;
        scene.client.run(|| ask(scene.far.rr_ip, PATIENCE))?;
        let near = explain(scene, &format!("{}:8080", scene.near.rr_ip), proto)?;
        ensure!(near.verdict == "delivered" && near.summary.contains("near"), "{near:?}");
        let far = explain(scene, &format!("{}:8080", scene.far.rr_ip), proto)?;
        ensure!(far.verdict == "tunnelled" && far.summary.contains("far"), "{far:?}");
    }
    let pong = explain(scene, &scene.far.rr_ip.to_string(), "icmp")?;
    ensure!(pong.verdict == "tunnelled", "{pong:?}");

    let target = SocketAddr::from((scene.both.rr_ip, 8080));
    scene.client.run(|| ask(scene.both.rr_ip, PATIENCE))?;
    let said: Vec<_> =
        (0..4).map(|_| explain(scene, &target.to_string(), "tcp")).collect::<Result<_>>()?;
    ensure!(said.windows(2).all(|two| two[0].summary == two[1].summary), "it took turns: {said:?}");
    scene.client.run(|| ask(scene.both.rr_ip, PATIENCE))?;
    let next = explain(scene, &target.to_string(), "tcp")?;
    ensure!(next.summary != said[0].summary, "a connection takes a turn: {next:?}");

    // No client uses this port; explain does.
    let flows: Vec<Flow> = json(scene, &["flows"])?;
    let placed: Vec<_> = flows.iter().filter(|flow| flow.client.port() == 1).collect();
    ensure!(placed.is_empty(), "{placed:?}");
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Flow {
    client: SocketAddr,
    dialled: Option<SocketAddr>,
    state: String,
}

/// A connection is shown while it is open, as established, and is among the events.
pub fn connection_is_seen(scene: &Scene) -> Result<()> {
    let target = SocketAddr::from((scene.far.rr_ip, 8080));
    let mut child = xylem_net(scene, &["events", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run xylem")?;
    let seen = (|| {
        wait_for("the programs to tell events", LIMIT, || {
            let is_on = scene.maps(HERE)?.config()?.features & features::OBSERVE != 0;
            if is_on { Ok(()) } else { bail!("they do not") }
        })?;
        let patience = Duration::from_secs(3);
        let connect = || TcpStream::connect_timeout(&target, patience);
        let mut stream = scene.client.run(connect)?;
        let client = stream.local_addr()?;
        // The server waits to be asked.
        wait_for("the flow to be established", LIMIT, || {
            let flows: Vec<Flow> = json(scene, &["flows", "--proto", "tcp"])?;
            let ours = flows.iter().find(|flow| flow.client == client);
            let ours = ours.context("the flow is not shown")?;
            ensure!(ours.dialled == Some(target) && ours.state == "established", "{ours:?}");
            Ok(())
        })?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"who\n")?;
        BufReader::new(&stream).read_line(&mut String::new())?;
        drop(stream);
        let port = format!(":{}\"", client.port());
        let mut lines = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        let mut next = |kind: &str| -> Result<()> {
            for line in lines.by_ref() {
                let line = line?;
                if line.contains(&port) && line.contains(kind) {
                    ensure!(line.contains("far"), "no name: {line}");
                    return Ok(());
                }
            }
            bail!("the events ended")
        };
        next(r#""kind":"opened""#)?;
        next(r#""kind":"closed""#)
    })();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().cast_signed()),
        nix::sys::signal::Signal::SIGINT,
    )?;
    let status = child.wait()?;
    seen?;
    ensure!(status.success(), "an interrupted reader ends with {status}");
    let left = scene.maps(HERE)?.config()?.features & features::OBSERVE;
    ensure!(left == 0, "the programs go on telling events");
    Ok(())
}

/// Both workers are healthy, and each shows the other with a measured round-trip time.
pub fn doctor_and_nodes(scene: &Scene) -> Result<()> {
    #[derive(Debug, Deserialize)]
    struct Check {
        feature: String,
        status: String,
        why: String,
    }
    let checks: Vec<Check> = json(scene, &["doctor"])?;
    let bad: Vec<_> = checks.iter().filter(|check| check.status == "missing").collect();
    ensure!(bad.is_empty(), "{bad:?}");
    for feature in ["net manager", "uplink", "instances", "programs", "MTU"] {
        let check = checks.iter().find(|check| check.feature == feature);
        ensure!(check.is_some_and(|check| check.status == "ok"), "{feature}: {check:?}");
    }
    let xdp = checks.iter().find(|check| check.feature == "XDP on the uplink");
    ensure!(xdp.is_some_and(|xdp| xdp.status == "off" && xdp.why.contains("veth")), "{xdp:?}");

    #[derive(Debug, Deserialize)]
    struct Node {
        id: u32,
        state: String,
        rtt_us: Option<u32>,
    }
    scene.client.run(|| ask(scene.far.rr_ip, PATIENCE))?;
    wait_for("a round-trip time", LIMIT, || {
        let nodes: Vec<Node> = json(scene, &["nodes"])?;
        let other = nodes.iter().find(|node| node.id != 0).context("no other node")?;
        ensure!(other.state == "up" && other.rtt_us.is_some(), "{other:?}");
        Ok(())
    })
}

//! The same over IPv6, through the IPv4 underlay; and both through an IPv6 underlay.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use net_common::{Addr, Counter, NodeState, ProgramCounter};
use xylem_tests::{daemon, load::transfer, wait::wait_for};

use crate::scene::{LIMIT, Scene, Served};

const PORT: u16 = 9600;
const PATIENCE: Duration = Duration::from_secs(10);

pub fn tcp_and_udp(scene: &Scene) -> Result<()> {
    for served in [&scene.near, &scene.far] {
        let service = served.rr_ip_v6;
        stream(scene, served).with_context(|| format!("a stream to {service}"))?;
        datagrams(scene, served).with_context(|| format!("datagrams to {service}"))?;
    }
    Ok(())
}

/// Nodes that announce IPv6 addresses reach one another by them, with services of both families,
/// and large packets stay whole.
pub fn underlay(scene: &Scene) -> Result<()> {
    let addresses = scene.platform().topology.add_ipv6()?;
    restart_at(scene, &addresses)?;
    let checked = check_underlay(scene, &addresses);
    let v4: Vec<_> = scene.platform().topology.workers.iter().map(|host| host.address).collect();
    restart_at(scene, &v4)?;
    checked?;
    first_connection(scene).context("over IPv4 again")
}

fn restart_at<A: Copy + Into<IpAddr>>(scene: &Scene, addresses: &[A]) -> Result<()> {
    for (worker, address) in addresses.iter().enumerate() {
        let mut platform = scene.platform();
        platform.workers[worker].net_manager.stop()?;
        let command = daemon::net_manager(*address, &platform.workers[worker].paths);
        let name = platform.workers[worker].net_manager.name().to_owned();
        let process = platform.start_on(&platform.topology.workers[worker], &name, command)?;
        platform.workers[worker].net_manager = process;
    }
    for (worker, address) in addresses.iter().enumerate() {
        let address: Addr = (*address).into().into();
        wait_for("the new address", LIMIT, || {
            let config = scene.maps(worker)?.config()?;
            ensure!(config.node_addr_like(&address) == address, "{config:?}");
            // As long as the nodes know one another by it.
            let peer = scene.maps(1 - worker)?.nodes()?;
            let is_known = peer.iter().any(|(_, node)| node.addr == address);
            ensure!(is_known, "{peer:?}");
            Ok(())
        })?;
    }
    Ok(())
}

fn check_underlay(scene: &Scene, addresses: &[Ipv6Addr]) -> Result<()> {
    first_connection(scene)?;
    let encapsulated = || -> Result<Counter> {
        let counters = scene.maps(0)?.program_counters()?;
        let found = counters.iter().find(|(program, _)| *program == ProgramCounter::Encapsulated);
        Ok(found.context("no such counter")?.1)
    };
    let before = encapsulated()?;
    let received = scene.client.run(|| transfer(scene.far.rr_ip, 256 << 20))?;
    ensure!(received.unharmed && received.bytes == 256 << 20, "{received:?}");
    let after = encapsulated()?;
    let mean = (after.bytes - before.bytes) / (after.packets - before.packets).max(1);
    ensure!(mean > 10_000, "{mean} bytes a packet: large packets are cut before the tunnel");
    stream(scene, &scene.far).context("an IPv6 stream")?;
    for (worker, peer) in [(0, addresses[1]), (1, addresses[0])] {
        let nodes = scene.maps(worker)?.nodes()?;
        let is_up = nodes
            .iter()
            .any(|(_, node)| node.addr == peer.into() && node.state == NodeState::Up as u32);
        ensure!(is_up, "{peer} is not up: {nodes:?}");
    }
    Ok(())
}

fn first_connection(scene: &Scene) -> Result<()> {
    wait_for("a connection", LIMIT, || {
        let received = scene.client.run(|| transfer(scene.far.rr_ip, 1 << 20))?;
        ensure!(received.unharmed, "{received:?}");
        Ok(())
    })
}

/// 16 MB there, their number of bytes back; the server's view of its client is an instance IP.
fn stream(scene: &Scene, served: &Served) -> Result<()> {
    let listener = served.inside.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)))?;
    let sent: Vec<u8> = (0..16_u32 << 20).map(|index| (index ^ index >> 9) as u8).collect();
    thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<_> {
            let (mut client, peer) = listener.accept()?;
            client.set_read_timeout(Some(PATIENCE))?;
            let mut received = Vec::new();
            client.read_to_end(&mut received)?;
            client.write_all(&(received.len() as u64).to_be_bytes())?;
            Ok((received, peer))
        });
        let counted = scene.client.run(|| -> Result<u64> {
            let target = (served.rr_ip_v6, PORT).into();
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&sent)?;
            stream.shutdown(Shutdown::Write)?;
            let mut count = [0; 8];
            stream.read_exact(&mut count)?;
            Ok(u64::from_be_bytes(count))
        })?;
        let (received, peer) = server.join().expect("it reports errors and does not panic")?;
        ensure!(received == sent && counted == sent.len() as u64, "the stream came changed");
        let text = peer.ip().to_string();
        ensure!(text.starts_with("fdff::"), "the client is seen as {text}");
        Ok(())
    })
}

/// Up to what fits the MTU of 1472: 40 and 8 bytes are headers.
fn datagrams(scene: &Scene, served: &Served) -> Result<()> {
    let server = served.inside.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)))?;
    server.set_read_timeout(Some(PATIENCE))?;
    scene.client.run(|| -> Result<()> {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((served.rr_ip_v6, PORT))?;
        let mut buffer = [0; 2048];
        for size in [1, 64, 1424] {
            let sent = vec![size as u8; size];
            socket.send(&sent)?;
            let (len, client) = server.recv_from(&mut buffer)?;
            server.send_to(&buffer[..len], client)?;
            let len = socket.recv(&mut buffer).with_context(|| format!("{size} bytes"))?;
            ensure!(buffer[..len] == sent[..], "{size} bytes came back changed");
        }
        Ok(())
    })
}

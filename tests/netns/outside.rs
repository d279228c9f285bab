//! Ways in and out of the overlay that are no tunnel. The hub, which runs no net manager and is on
//! the underlay by way of a router, is the host outside.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use net_common::DropReason;
use xylem_tests::{
    daemon,
    deployment::{Service, Wanted, scale_up, sla},
    platform::Platform,
    wait::wait_for,
};

use crate::{
    scene::{LIMIT, Scene},
    traffic,
};

const PATIENCE: Duration = Duration::from_secs(5);
const PUBLISHED: u16 = 8088;
const CLOSED: u16 = 8089;

/// A service with `port` in its descriptor is dialled from outside at its node's address: over TCP
/// and UDP, and where nobody listens the instance's own refusal comes back.
pub fn published(scene: &Scene) -> Result<()> {
    let mut platform = scene.platform();
    let image = platform.rest()?.service(&scene.both.id)?.image;
    let wanted = Wanted {
        name: "web",
        rr_ip: None,
        node: Some("worker2"),
        image: &image,
        cmd: &["/demo-app", "serve", "--port", "8080"],
    };
    let mut descriptor: serde_json::Value = serde_json::from_str(&sla("outside", &[wanted]))?;
    descriptor["applications"][0]["microservices"][0]["port"] =
        format!("{PUBLISHED}:8080;{PUBLISHED}:9700/udp;{CLOSED}:9701/udp;{CLOSED}:9701").into();
    let application = platform.rest()?.create_application(&descriptor.to_string())?;
    let checked = check_published(&mut platform, &application.application_id);
    platform.rest()?.delete_application(&application.application_id)?;
    checked?;
    drop(platform);
    wait_for("end of the published ports", LIMIT, || {
        let left = scene.maps(1)?.published()?;
        if left.is_empty() { Ok(()) } else { bail!("{left:?}") }
    })
}

fn check_published(platform: &mut Platform, application: &str) -> Result<()> {
    let rest = platform.rest()?;
    let job = rest.services(application)?.pop().context("no service")?;
    let service =
        Service { id: job.id, name: job.job_name, rr_ip: job.rr_ip, rr_ip_v6: job.rr_ip_v6 };
    let instance = scale_up(&rest, &service, 1)?.pop().context("no instance")?;
    let inside = platform.inside(&instance)?;
    let node = platform.topology.workers[1].address;
    let hub = &platform.topology.hub;

    let who = || hub.netns.run(|| ask_who((node, PUBLISHED).into()));
    ensure!(!who()?.is_empty(), "nobody says who it is");
    let echo = inside.run(|| UdpSocket::bind("0.0.0.0:9700"))?;
    echo.set_read_timeout(Some(PATIENCE))?;
    let seen = thread::scope(|scope| {
        let client = scope.spawn(|| hub.netns.run(|| datagram((node, PUBLISHED).into())));
        let mut buffer = [0; 16];
        let (len, peer) = echo.recv_from(&mut buffer)?;
        echo.send_to(&buffer[..len], peer)?;
        client.join().expect("it reports errors and does not panic")?;
        Ok::<_, anyhow::Error>(peer.ip())
    })?;
    ensure!(seen == IpAddr::V4(hub.address), "the instance sees {seen} and not {}", hub.address);

    let refused = hub.netns.run(|| in_vain((node, CLOSED).into(), PATIENCE))?;
    ensure!(refused == [ErrorKind::ConnectionRefused; 2], "{refused:?}");

    // The packets wait for no daemon.
    platform.workers[1].net_manager.kill()?;
    let alone = hub.netns.run(|| ask_who((node, PUBLISHED).into()));
    platform.restart_net_manager(1)?;
    ensure!(!alone?.is_empty(), "nobody says who it is");
    Ok(())
}

/// An instance reaches a host outside where its node lets it out, as its node, and pings it; where
/// the node does not, that is dropped and counted.
pub fn masquerade(scene: &Scene) -> Result<()> {
    let (hub, node) = {
        let platform = scene.platform();
        (platform.topology.hub.address, platform.topology.workers[0].address)
    };
    let before = scene.dropped(0, DropReason::OutsideOverlay)?;
    scene.client.run(|| in_vain((hub, 9800).into(), Duration::from_millis(200)))?;
    let dropped = scene.dropped(0, DropReason::OutsideOverlay)? - before;
    ensure!(dropped >= 2, "{dropped} packets were dropped");

    let restart = |masquerade: bool| -> Result<()> {
        let mut platform = scene.platform();
        platform.workers[0].net_manager.stop()?;
        if !masquerade {
            return platform.restart_net_manager(0);
        }
        let host = &platform.topology.workers[0];
        let mut command = daemon::net_manager(host.address, &platform.workers[0].paths);
        command.arg("--masquerade");
        let name = platform.workers[0].net_manager.name().to_owned();
        let process = platform.start_on(host, &name, command)?;
        platform.workers[0].net_manager = process;
        Ok(())
    };
    restart(true)?;
    wait_for("leave to talk to the outside", LIMIT, || {
        let allowed = scene.maps(0)?.config()?.masquerades();
        if allowed { Ok(()) } else { bail!("not yet") }
    })?;
    let reached = check_masquerade(scene, hub, node);
    restart(false)?;
    reached
}

fn check_masquerade(scene: &Scene, hub: Ipv4Addr, node: Ipv4Addr) -> Result<()> {
    let (listener, socket) = {
        let platform = scene.platform();
        platform.topology.hub.netns.run(|| -> Result<_> {
            Ok((TcpListener::bind((hub, 9800))?, UdpSocket::bind((hub, 9800))?))
        })?
    };
    socket.set_read_timeout(Some(PATIENCE))?;
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            scene.client.run(|| -> Result<_> {
                let mut stream = TcpStream::connect_timeout(&(hub, 9800).into(), PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                let mut all = Vec::new();
                stream.read_to_end(&mut all)?;
                datagram((hub, 9800).into())?;
                Ok(all.len())
            })
        });
        let (mut stream, tcp) = listener.accept()?;
        stream.write_all(&vec![7; 4 << 20])?;
        drop(stream);
        let mut buffer = [0; 16];
        let (len, udp) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..len], udp)?;
        let received = client.join().expect("it reports errors and does not panic")?;
        ensure!(received == 4 << 20, "{received} bytes arrived");
        ensure!(tcp.ip() == node && udp.ip() == node, "{tcp} and {udp} and not {node}");
        ensure!(tcp.port() >= 61_000 && udp.port() >= 61_000, "{tcp} and {udp}");
        Ok(())
    })?;
    let closed = scene.client.run(|| in_vain((hub, 9801).into(), PATIENCE))?;
    ensure!(closed == [ErrorKind::ConnectionRefused; 2], "{closed:?}");
    scene.client.run(|| traffic::ping_once(hub, 0x4321)).context("ping")
}

/// The first line that the demo's application says.
fn ask_who(to: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"who\n")?;
    let mut buffer = [0; 128];
    let len = stream.read(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..len]).trim().to_owned())
}

/// There and back.
fn datagram(to: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"there")?;
    let mut buffer = [0; 16];
    let len = socket.recv(&mut buffer).context("no answer")?;
    ensure!(&buffer[..len] == b"there", "it came back changed");
    Ok(())
}

/// Why nobody answers there, over TCP and UDP.
fn in_vain(to: SocketAddr, patience: Duration) -> Result<[ErrorKind; 2]> {
    let tcp = TcpStream::connect_timeout(&to, patience).err().context("somebody answers")?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(to)?;
    socket.send(b"there")?;
    let udp = socket.recv(&mut [0; 9]).err().context("somebody answers")?;
    Ok([tcp.kind(), udp.kind()])
}

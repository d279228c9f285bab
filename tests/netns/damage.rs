//! Damaged packets leave nothing behind that harms others.

use std::{
    io::{Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpStream},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect,
        sendto, setsockopt, socket,
        sockopt::{ReceiveTimeout, SendTimeout},
    },
    time::{TimeVal, TimeValLike},
};
use xylem_tests::load::ECHO_PORT;

use crate::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(5);
const TUNNEL_PORT: u16 = 50103;

#[derive(Clone, Copy)]
enum Flag {
    Ack,
    Reset,
}

/// An answer whose port was damaged under way seems to belong to a flow that the server has opened.
/// The client may yet connect from that port.
pub fn port_stays_free(scene: &Scene) -> Result<()> {
    const PORT: u16 = 23_456;
    let answer = segment(
        (scene.far.instance_ip, ECHO_PORT).into(),
        (scene.client_ip, PORT).into(),
        Flag::Ack,
    );
    send_from_peer(scene, 1, 0, &answer)?;
    scene.client.run(|| -> Result<()> {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
        let patience = TimeVal::seconds(5);
        setsockopt(&socket, SendTimeout, &patience)?;
        setsockopt(&socket, ReceiveTimeout, &patience)?;
        bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, PORT))?;
        let server = SocketAddrV4::new(scene.far.rr_ip, ECHO_PORT);
        connect(socket.as_raw_fd(), &SockaddrIn::from(server)).context("no connection")?;
        echo(&mut TcpStream::from(socket))
    })
}

/// The server's kernel refuses a reset with a wrong checksum, so the connection lives, and its flow
/// is not one that has ended.
pub fn reset_ends_nothing(scene: &Scene) -> Result<()> {
    let server = SocketAddr::from((scene.far.rr_ip, ECHO_PORT));
    let mut stream = scene.client.run(|| TcpStream::connect_timeout(&server, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    echo(&mut stream)?;
    let client = SocketAddr::new(scene.client_ip.into(), stream.local_addr()?.port());
    let reset = segment(client, (scene.far.namespace_ip, ECHO_PORT).into(), Flag::Reset);
    send_from_peer(scene, 0, 1, &reset)?;
    echo(&mut stream)?;
    echo(&mut stream)?;
    let flows: Vec<Flow> = serde_json::from_str(&scene.xylem_net(1, &["flows"])?)?;
    let flow = flows.iter().find(|flow| flow.client == client.to_string());
    let flow = flow.context("the flow is gone")?;
    ensure!(flow.state == "established", "the flow is taken for {}", flow.state);
    Ok(())
}

#[derive(serde::Deserialize)]
struct Flow {
    client: String,
    state: String,
}

fn echo(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"alive?")?;
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).context("no echo")?;
    ensure!(&answer == b"alive?", "{answer:?} came back");
    Ok(())
}

/// Sends a tunnel packet from one worker to another, by their indexes; not from a socket of the
/// tunnel's port, which is the net manager's.
pub fn send_from_peer(scene: &Scene, from: usize, to: usize, packet: &[u8]) -> Result<()> {
    let platform = scene.platform();
    let [from, to] = [from, to].map(|worker| &platform.topology.workers[worker]);
    let mut outer = Vec::new();
    PacketBuilder::ipv4(from.address.octets(), to.address.octets(), 64)
        .udp(TUNNEL_PORT, TUNNEL_PORT)
        .write(&mut outer, packet)?;
    from.netns.run(|| -> Result<()> {
        let protocol = Some(SockProtocol::Raw);
        let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), protocol)?;
        let target = SockaddrIn::from(SocketAddrV4::new(to.address, 0));
        sendto(socket.as_raw_fd(), &outer, &target, MsgFlags::empty())?;
        Ok(())
    })
}

/// A TCP segment with a wrong checksum.
fn segment(from: SocketAddr, to: SocketAddr, flag: Flag) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
        unreachable!("all addresses here are IPv4")
    };
    let builder = PacketBuilder::ipv4(from.ip().octets(), to.ip().octets(), 64)
        .tcp(from.port(), to.port(), 1, 1000)
        .ack(1);
    let builder = match flag {
        Flag::Ack => builder,
        Flag::Reset => builder.rst(),
    };
    let mut packet = Vec::new();
    builder.write(&mut packet, b"x").expect("memory takes it");
    *packet.last_mut().expect("not empty") ^= 1;
    packet
}

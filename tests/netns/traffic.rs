//! Every protocol, on one node and between two; the receiver's kernel verifies the checksums.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use net_common::DropReason;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recvfrom, sendto,
    setsockopt, socket, sockopt::ReceiveTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};
use xylem_tests::load::{ECHO_PORT, tcp_latency, transfer};

use crate::{damage, scene::Scene};

const PATIENCE: Duration = Duration::from_secs(5);

pub fn tcp_stream(scene: &Scene, server: Ipv4Addr) -> Result<()> {
    let received = scene.client.run(|| transfer(server, 64 << 20))?;
    ensure!(received.unharmed, "{received:?}");
    Ok(())
}

pub fn tcp_requests(scene: &Scene) -> Result<()> {
    for server in [scene.near.rr_ip, scene.far.rr_ip, scene.near.instance_ip, scene.far.instance_ip]
    {
        scene
            .client
            .run(|| tcp_latency(server, Duration::from_millis(200)))
            .with_context(|| format!("requests to {server}"))?;
    }
    Ok(())
}

/// Up to what fits the instance's MTU: the underlay's 1500 less 28 of the tunnel, 20 and 8 of the
/// datagram's own headers.
pub fn udp_datagrams(scene: &Scene) -> Result<()> {
    for server in [scene.near.rr_ip, scene.far.rr_ip] {
        scene.client.run(|| -> Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect((server, ECHO_PORT))?;
            let mut buffer = [0; 2048];
            for size in [0, 1, 2, 17, 64, 511, 1200, 1443, 1444] {
                let sent: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
                socket.send(&sent)?;
                let len = socket
                    .recv(&mut buffer)
                    .with_context(|| format!("no echo of {size} bytes from {server}"))?;
                ensure!(buffer[..len] == sent[..], "{size} bytes came back changed");
            }
            Ok(())
        })?;
    }
    Ok(())
}

pub fn ping(scene: &Scene) -> Result<()> {
    let servers = [scene.near.rr_ip, scene.far.rr_ip, scene.far.instance_ip];
    for (id, server) in (0x1234_u16..).zip(servers) {
        scene.client.run(|| ping_once(server, id)).with_context(|| format!("ping {server}"))?;
    }
    Ok(())
}

/// One echo request from a raw socket; the answer must come from the address that was pinged.
pub fn ping_once(server: Ipv4Addr, id: u16) -> Result<()> {
    let socket =
        socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), Some(SockProtocol::Icmp))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(5))?;
    // Type 8, code 0, checksum, identifier, sequence 1, and data.
    let [high, low] = id.to_be_bytes();
    let mut request = [8, 0, 0, 0, high, low, 0, 1, b'x', b'y', b'l', b'e', b'm', 0];
    let sum: u32 = request.chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    request[2..4].copy_from_slice(&sum.to_be_bytes());
    let target = SockaddrIn::from(std::net::SocketAddrV4::new(server, 0));
    sendto(socket.as_raw_fd(), &request, &target, MsgFlags::empty())?;
    loop {
        let mut buffer = [0; 256];
        let (len, sender) = recvfrom::<SockaddrIn>(socket.as_raw_fd(), &mut buffer)?;
        let reply = buffer.get(20..len).context("shorter than an IP header")?;
        if reply.first() == Some(&0) && reply.get(4..6) == Some(&[high, low]) {
            let sender = sender.context("no sender")?.ip();
            ensure!(sender == server, "the answer is from {sender}");
            ensure!(reply[8..] == request[8..], "the data came back changed");
            return Ok(());
        }
    }
}

/// Each connection goes to the next instance, on both nodes.
pub fn even_spread(scene: &Scene) -> Result<()> {
    const CONNECTIONS: u32 = 100;
    let target = SocketAddr::from((scene.both.rr_ip, 8080));
    let tally = scene.client.run(|| -> Result<_> {
        let mut tally = BTreeMap::<String, u32>::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
            stream.write_all(b"who\n")?;
            let mut name = String::new();
            BufReader::new(stream).read_line(&mut name)?;
            *tally.entry(name.trim().to_owned()).or_default() += 1;
        }
        Ok(tally)
    })?;
    let counts: Vec<_> = tally.values().copied().collect();
    ensure!(counts == [CONNECTIONS / 2, CONNECTIONS / 2], "{tally:?}");
    Ok(())
}

pub fn self_dial(scene: &Scene) -> Result<()> {
    let received = scene.near.inside.run(|| transfer(scene.near.rr_ip, 1 << 20))?;
    ensure!(received.unharmed, "{received:?}");
    Ok(())
}

/// A tunnel packet whose inner checksum is wrong reaches the instance's kernel, which refuses it:
/// the outer datagram's absent checksum vouches for nothing.
pub fn corrupted(scene: &Scene) -> Result<()> {
    let errors = || scene.far.inside.snmp("Udp", "InCsumErrors");
    let before = errors()?;
    let listener = scene.far.inside.run(|| UdpSocket::bind("0.0.0.0:9000"))?;
    let (source, local) = (scene.client_ip, scene.far.namespace_ip);
    let (good, bad) =
        (datagram(source, local, b"good", false), datagram(source, local, b"bad!", true));
    for packet in [&bad, &good] {
        damage::send_from_peer(scene, 0, 1, packet)?;
    }
    listener.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; 64];
    let (len, _) = listener.recv_from(&mut buffer).context("not even the good one arrived")?;
    ensure!(&buffer[..len] == b"good", "{:?} arrived", &buffer[..len]);
    let refused = errors()? - before;
    ensure!(refused == 1, "the instance's kernel counts {refused} wrong checksums");
    ensure!(scene.dropped(1, DropReason::TunnelMalformed)? == 0, "dropped for another reason");
    Ok(())
}

fn datagram(source: Ipv4Addr, to: Ipv4Addr, payload: &[u8], corrupt: bool) -> Vec<u8> {
    let mut packet = Vec::new();
    etherparse::PacketBuilder::ipv4(source.octets(), to.octets(), 64)
        .udp(9001, 9000)
        .write(&mut packet, payload)
        .expect("memory takes it");
    if corrupt {
        *packet.last_mut().expect("not empty") ^= 1;
    }
    packet
}

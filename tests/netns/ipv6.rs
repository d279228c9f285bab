//! The same over IPv6, through the IPv4 underlay.

use std::{
    io::{Read, Write},
    net::{Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::scene::{Scene, Served};

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

//! What nobody has dialled before.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use net_common::{Addr, DropReason};
use xylem_tests::{load::ECHO_PORT, wait::wait_for};

use crate::scene::{LIMIT, Scene};

/// The first connect to a service that its node never heard of: the SYN waits for the answer and
/// is not sent again. TCP would send it again after a second.
pub fn not_lost(scene: &Scene) -> Result<()> {
    ensure!(!knows(scene, scene.unseen.rr_ip)?, "the service is known already");
    let retransmitted = scene.client.snmp("Tcp", "RetransSegs")?;
    let target = SocketAddr::from((scene.unseen.rr_ip, ECHO_PORT));
    let start = Instant::now();
    scene.client.run(|| TcpStream::connect(target)).context("no connection")?;
    let took = start.elapsed();
    let again = scene.client.snmp("Tcp", "RetransSegs")? - retransmitted;
    ensure!(again == 0, "{again} segments were sent again");
    ensure!(took < Duration::from_millis(200), "the first connect took {took:?}");
    println!("first connect to a never-resolved service: {took:?}");
    ensure!(knows(scene, scene.unseen.rr_ip)?, "the service is not known yet");
    Ok(())
}

/// A route that nobody uses is forgotten, and asked for again when it is dialled again. Somebody
/// has used it in [`not_lost`], so long ago that there is not much to wait for.
pub fn forgotten_and_found_again(scene: &Scene) -> Result<()> {
    let rr_ip = scene.unseen.rr_ip;
    // Not before its flow has ended: that connection is closed, so its entries are of no use any
    // more.
    wait_for("the unused service to be forgotten", LIMIT * 2, || {
        if knows(scene, rr_ip)? { anyhow::bail!("still known") } else { Ok(()) }
    })?;
    scene.client.run(|| -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect((rr_ip, ECHO_PORT))?;
        socket.send(b"again")?;
        let mut buffer = [0; 16];
        let len = socket.recv(&mut buffer).context("the first datagram was lost")?;
        ensure!(&buffer[..len] == b"again");
        Ok(())
    })
}

/// An address of the service range that belongs to nobody: the packet ends with a reason, and
/// others are not held up.
pub fn unknown_address(scene: &Scene) -> Result<()> {
    let nobody = Ipv4Addr::new(10, 30, 255, 77);
    let unresolved = || scene.dropped(0, DropReason::Unresolved);
    let before = unresolved()?;
    scene.client.run(|| -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.send_to(b"hello?", (nobody, 9))?;
        Ok(())
    })?;
    // The known service answers meanwhile.
    let target = SocketAddr::from((scene.far.rr_ip, ECHO_PORT));
    scene.client.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(1)))?;
    wait_for("the packet to be given up", LIMIT, || {
        let count = unresolved()? - before;
        if count == 1 { Ok(()) } else { anyhow::bail!("{count} unresolved packets") }
    })
}

/// Whether the client's node has `address` in its translation table.
fn knows(scene: &Scene, address: Ipv4Addr) -> Result<bool> {
    Ok(scene.maps(0)?.service(Addr::from(address))?.is_some())
}

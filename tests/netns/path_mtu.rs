//! An underlay that carries less than the nodes thought: they learn it from its routers, and
//! their instances from them.

use std::{
    io::IoSliceMut,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Result, bail, ensure};
use nix::{
    errno::Errno,
    libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt,
        sockopt::{IpMtu, Ipv4RecvErr},
    },
};
use xylem_tests::{
    load::ECHO_PORT,
    relay::{Direction, Relay},
    wait::wait_for,
};

use crate::{
    faults::{transfer, with_line},
    scene::{LIMIT, Scene},
};

const MTU: u16 = 1300;
/// What of it is left for an instance's packet.
const INNER_MTU: u16 = MTU - 28;

/// In both directions, each with a connection that begins before anybody knows of the small MTU.
pub fn streams(scene: &Scene) -> Result<()> {
    with_line(scene, |relay| {
        relay.set_mtu(Some(MTU));
        for (from, to) in [(&scene.client, scene.far.rr_ip), (&scene.far.inside, scene.near.rr_ip)]
        {
            let received = transfer(from, to, 4 << 20)?;
            ensure!(received.unharmed, "{received:?}");
        }
        let told = too_big(relay);
        ensure!(told > 0 && told < 200, "{told} packets were too long for the line");
        Ok(())
    })
}

/// The sender of a datagram that is too long is told so, as if the dialled address had said it.
pub fn datagrams(scene: &Scene) -> Result<()> {
    // One for which the client's kernel has not learned an MTU from a stream.
    let dialled = scene.far.instance_ip;
    with_line(scene, |relay| {
        relay.set_mtu(Some(MTU));
        scene.client.run(|| -> Result<()> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            socket.connect((dialled, ECHO_PORT))?;
            setsockopt(&socket, Ipv4RecvErr, &true)?;
            let [fits, too_long] = [INNER_MTU, INNER_MTU + 1].map(|len| vec![7; len as usize - 28]);
            let told = wait_for("the error", LIMIT, || {
                socket.send(&too_long).ok();
                error(&socket)
            })?;
            ensure!(told == (dialled, u32::from(INNER_MTU)), "{told:?} was told");
            let mtu = nix::sys::socket::getsockopt(&socket, IpMtu)?;
            ensure!(mtu == i32::from(INNER_MTU), "the kernel learned {mtu}");
            wait_for("the echo of what fits", LIMIT, || -> Result<()> {
                socket.send(&fits)?;
                let mut buffer = [0; 2048];
                let len = socket.recv(&mut buffer)?;
                ensure!(buffer[..len] == fits[..], "{len} bytes came back");
                Ok(())
            })
        })?;
        let told = too_big(relay);
        ensure!(told < 200, "{told} packets were too long for the line");
        Ok(())
    })
}

/// Who sent the error that waits in a socket's queue, and which MTU it names.
fn error(socket: &UdpSocket) -> Result<(Ipv4Addr, u32)> {
    let mut buffer = [0; 2048];
    let mut slices = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        match recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Err(Errno::EAGAIN) => bail!("there is none"),
            other => other?,
        };
    for control in message.cmsgs()? {
        if let ControlMessageOwned::Ipv4RecvErr(error, Some(from)) = control {
            // One from this kernel's own knowledge has no sender to speak of.
            ensure!(error.ee_origin == libc::SO_EE_ORIGIN_ICMP, "{error:?} is of this host");
            return Ok((u32::from_be(from.sin_addr.s_addr).into(), error.ee_info));
        }
    }
    bail!("it names no sender")
}

fn too_big(relay: &Relay) -> u64 {
    Direction::BOTH.map(|direction| relay.counts(direction).too_big).iter().sum()
}

//! New TCP connections, one after the other.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use nix::{
    libc::linger,
    sys::socket::{setsockopt, sockopt::Linger},
};

use super::CONNECT_PORT;

/// `clients` threads connect, wait for the server to close, and connect again, for `duration`.
/// Connections are ended by a reset, so that no port waits in TIME_WAIT.
///
/// # Errors
/// If a connection fails.
pub fn connections_per_second(
    server: Ipv4Addr,
    clients: u32,
    duration: Duration,
) -> io::Result<f64> {
    let start = Instant::now();
    let count = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..clients).map(|_| scope.spawn(|| connect_until(server, start, duration))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a client reports errors and does not panic"))
            .sum::<io::Result<u64>>()
    })?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

fn connect_until(server: Ipv4Addr, start: Instant, duration: Duration) -> io::Result<u64> {
    let mut count = 0;
    while start.elapsed() < duration {
        connect_once(server)?;
        count += 1;
    }
    Ok(count)
}

/// One such connection; it also makes known on the way what is learned from a first packet.
///
/// # Errors
/// If the connection fails.
pub fn connect_once(server: Ipv4Addr) -> io::Result<()> {
    let mut stream = TcpStream::connect((server, CONNECT_PORT))?;
    if stream.read(&mut [0])? != 0 {
        return Err(io::Error::other("this server sends nothing"));
    }
    setsockopt(&stream, Linger, &linger { l_onoff: 1, l_linger: 0 })?;
    Ok(())
}

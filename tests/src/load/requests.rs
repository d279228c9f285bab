//! Request and response over one TCP connection.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use super::{ECHO_PORT, tune};

/// Round-trip times of single-byte requests.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    pub p50: Duration,
    pub p99: Duration,
}

/// Sends one request at a time for `duration`.
///
/// # Errors
/// If the connection fails.
pub fn tcp_latency(server: Ipv4Addr, duration: Duration) -> io::Result<Latency> {
    let mut stream = TcpStream::connect((server, ECHO_PORT))?;
    tune(&stream)?;
    let mut times = Vec::new();
    let mut byte = [7];
    let start = Instant::now();
    while start.elapsed() < duration {
        let sent = Instant::now();
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        times.push(sent.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    Ok(Latency { p50: at(50), p99: at(99) })
}

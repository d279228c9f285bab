//! One TCP stream, as fast as it goes.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    thread,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use super::{SINK_PORT, tune};

const CHUNK: usize = 256 * 1024;

/// What came of a transfer.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    pub bytes: u64,
    /// The receiver's digest equals the sender's.
    pub unharmed: bool,
}

/// Sends `bytes` (rounded up to whole chunks) and compares digests.
///
/// # Errors
/// If the connection fails.
pub fn transfer(server: Ipv4Addr, bytes: u64) -> io::Result<Received> {
    transfer_over(TcpStream::connect((server, SINK_PORT))?, bytes)
}

/// As [`transfer`], over a connection to [`SINK_PORT`] that may have timeouts.
///
/// # Errors
/// If the connection fails.
pub fn transfer_over(mut stream: TcpStream, bytes: u64) -> io::Result<Received> {
    tune(&stream)?;
    stream.write_all(&[1])?;
    let mut chunk = vec![0; CHUNK];
    let mut digest = Sha256::new();
    let mut sent = 0;
    // Every chunk differs, so that a repeated or swapped one is noticed.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while sent < bytes {
        for word in chunk.chunks_exact_mut(8) {
            // Marsaglia, Xorshift RNGs, 2003.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        digest.update(&chunk);
        stream.write_all(&chunk)?;
        sent += chunk.len() as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut theirs = [0; 32];
    stream.read_exact(&mut theirs)?;
    Ok(Received { bytes: sent, unharmed: theirs[..] == digest.finalize()[..] })
}

/// What was sent, and arrived.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub bytes: f64,
    pub per_second: f64,
}

/// Sends on `streams` connections for `duration` and waits until all has arrived.
///
/// # Errors
/// If a connection fails.
pub fn bytes_per_second(server: Ipv4Addr, streams: u32, duration: Duration) -> io::Result<f64> {
    Ok(send_for(server, streams, duration)?.per_second)
}

/// As [`bytes_per_second`], with the number of bytes.
///
/// # Errors
/// If a connection fails.
pub fn send_for(server: Ipv4Addr, streams: u32, duration: Duration) -> io::Result<Sent> {
    let start = Instant::now();
    let bytes = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..streams).map(|_| scope.spawn(|| send_until(server, start, duration))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a client reports errors and does not panic"))
            .sum::<io::Result<f64>>()
    })?;
    Ok(Sent { bytes, per_second: bytes / start.elapsed().as_secs_f64() })
}

fn send_until(server: Ipv4Addr, start: Instant, duration: Duration) -> io::Result<f64> {
    let mut stream = TcpStream::connect((server, SINK_PORT))?;
    tune(&stream)?;
    let chunk = vec![0; CHUNK];
    stream.write_all(&[0])?;
    let mut sent = 0.0;
    while start.elapsed() < duration {
        stream.write_all(&chunk)?;
        sent += chunk.len() as f64;
    }
    stream.shutdown(Shutdown::Write)?;
    // Of joined sockets the kernel has a reader return for nothing, as after a timeout, when the
    // end of its own direction is acknowledged.
    loop {
        match stream.read_exact(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other.map(|()| sent),
        }
    }
}

//! Counting datagrams at the place where they arrive.

use std::{
    io::{self, IoSliceMut, Read, Write},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, setsockopt, sockopt::RcvBufForce},
};

use super::{
    SERVER_CPU, pin_to_cpu,
    server::{COUNT_PORT, LOOK},
};
use crate::wait::pause;

/// Longest datagram that is looked at; of a longer one the rest is dropped.
const DATAGRAM_BYTES: usize = 2048;
/// Datagrams taken by one system call at most.
const BATCH: usize = 64;
/// What arrives while the receiver naps or is not scheduled, and is kept.
const BUFFER_BYTES: usize = 8 << 20;
/// While datagrams come, the receiver looks for them instead of waiting: waking it for each one
/// costs the sender more than many a data path does.
const NAP: Duration = Duration::from_micros(200);
/// After so long without one it waits again.
const QUIET: Duration = Duration::from_millis(50);

/// What has arrived since a client asked for the first time.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Arrivals>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrivals {
    pub(super) datagrams: u64,
    /// From the look that found the first to the one that found the last.
    pub(super) span: Duration,
    first: Option<Instant>,
}

impl Arrivals {
    /// Of an answer.
    const BYTES: usize = 16;

    fn add(&mut self, count: u64, now: Instant) {
        self.datagrams += count;
        self.span = now - *self.first.get_or_insert(now);
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let nanos = u64::try_from(self.span.as_nanos()).unwrap_or(u64::MAX);
        let mut bytes = [0; Self::BYTES];
        for (word, value) in bytes.chunks_exact_mut(8).zip([self.datagrams, nanos]) {
            word.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let word = |at: usize| {
            u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes are eight"))
        };
        Self { datagrams: word(0), span: Duration::from_nanos(word(8)), first: None }
    }

    /// Asks a server over a connection to [`COUNT_PORT`].
    pub(super) fn ask(server: &mut TcpStream) -> io::Result<Self> {
        server.write_all(&[1])?;
        let mut bytes = [0; Self::BYTES];
        server.read_exact(&mut bytes)?;
        Ok(Self::from_bytes(bytes))
    }
}

/// The socket to [`Tally::count`] on.
pub(super) fn listen() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, COUNT_PORT))?;
    socket.set_read_timeout(Some(LOOK))?;
    setsockopt(&socket, RcvBufForce, &BUFFER_BYTES)?;
    Ok(socket)
}

impl Tally {
    /// Starts from zero and answers until the client closes.
    pub(super) fn answer(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        self.update(|arrivals| *arrivals = Arrivals::default());
        let mut question = [0];
        while client.read(&mut question)? == 1 {
            let arrivals = self.update(|arrivals| *arrivals);
            client.write_all(&arrivals.to_bytes())?;
        }
        Ok(())
    }

    /// Counts until it is told to stop.
    pub(super) fn count(&self, socket: &UdpSocket, stop: &AtomicBool) {
        // Only slower without.
        pin_to_cpu(SERVER_CPU).ok();
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let mut buffers = vec![[0; DATAGRAM_BYTES]; BATCH];
        while !stop.load(Ordering::Relaxed) {
            // Waits for one, or until it is time to look at `stop`.
            if socket.peek(&mut [0]).is_err() {
                continue;
            }
            let mut last = Instant::now();
            while last.elapsed() < QUIET && !stop.load(Ordering::Relaxed) {
                match receive(socket, &mut headers, &mut buffers) {
                    Ok(count) => {
                        last = Instant::now();
                        self.update(|arrivals| arrivals.add(count, last));
                        // More are likely there when so many were.
                        if count < BATCH as u64 {
                            pause(NAP);
                        }
                    }
                    Err(Errno::EAGAIN) => pause(NAP),
                    Err(error) => eprintln!("a load server cannot receive: {error}"),
                }
            }
        }
    }

    fn update<T>(&self, work: impl FnOnce(&mut Arrivals) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How many came, without waiting for one.
fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrIn>,
    buffers: &mut [[u8; DATAGRAM_BYTES]],
) -> nix::Result<u64> {
    let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
    let received =
        recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
    Ok(received.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_told_as_they_were_counted() {
        let start = Instant::now();
        let mut arrivals = Arrivals::default();
        arrivals.add(50, start);
        arrivals.add(10, start + Duration::from_millis(100));
        arrivals.add(20, start + Duration::from_millis(300));
        let told = Arrivals::from_bytes(arrivals.to_bytes());
        assert_eq!(told.datagrams, 80);
        assert_eq!(told.span, Duration::from_millis(300));
    }
}

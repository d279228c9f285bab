//! Datagrams, as fast as they are taken.

use std::{
    io::{self, IoSlice},
    net::{Ipv4Addr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg},
};

use super::{client_cpu, pin_to_cpu, server::COUNT_PORT, tally::Arrivals, tune};
use crate::wait::{pause, wait_for};

/// Datagrams handed over by one system call, so that it is their way that counts and not the
/// call.
const BATCH: usize = 64;
/// How long the last ones may take to be counted.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// Longer than a receiver is kept from its CPU by others.
const SETTLE_STEP: Duration = Duration::from_millis(20);

/// What came of a flood.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    pub sent: u64,
    pub arrived: u64,
    /// Datagrams that arrived.
    pub per_second: f64,
}

/// Sends datagrams with `payload` bytes for `duration`, without heed to how many arrive, and asks
/// the server how many did. Client and server are on CPUs of their own, where there are two.
///
/// # Errors
/// If the connection to the server fails, or no datagram arrives.
pub fn datagrams_per_second(
    server: Ipv4Addr,
    payload: usize,
    duration: Duration,
) -> io::Result<Flood> {
    pin_to_cpu(client_cpu()?)?;
    let mut control = TcpStream::connect((server, COUNT_PORT))?;
    tune(&control)?;
    // The server counts from zero from when it has accepted: this waits until it has.
    Arrivals::ask(&mut control)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, COUNT_PORT))?;

    let start = Instant::now();
    let sent = send_until(&socket, &vec![0; payload], start + duration)?;
    let sending = start.elapsed();
    let Arrivals { datagrams: arrived, span, .. } = settled(&mut control)?;
    // A receiver that was late catches up faster than datagrams can be sent.
    let per_second = arrived as f64 / span.max(sending).as_secs_f64();
    Ok(Flood { sent, arrived, per_second })
}

fn send_until(socket: &UdpSocket, payload: &[u8], end: Instant) -> io::Result<u64> {
    let slices = [[IoSlice::new(payload)]; BATCH];
    // The socket is connected.
    let nobody = [None::<SockaddrIn>; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let mut sent = 0;
    while Instant::now() < end {
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, nobody, [], MsgFlags::empty()) {
            Ok(batch) => sent += batch.count() as u64,
            // A queue on the way is full, which is no more than a loss.
            Err(Errno::ENOBUFS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(sent)
}

/// Asks until some are counted and no more come.
fn settled(control: &mut TcpStream) -> io::Result<Arrivals> {
    let mut last = Arrivals::ask(control)?;
    wait_for("the last datagrams to be counted", SETTLE_LIMIT, || {
        pause(SETTLE_STEP);
        let before = std::mem::replace(&mut last, Arrivals::ask(control)?);
        match last.datagrams {
            0 => Err(io::Error::other("none has arrived")),
            _ if before != last => Err(io::Error::other("they still come")),
            _ => Ok(last),
        }
    })
    .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{load::Server, netns::Netns};

    /// Needs root, for the namespace.
    #[test]
    fn each_flood_is_counted_from_zero_where_it_arrives() {
        let netns = Netns::create(&format!("xyt{}-flood", std::process::id())).unwrap();
        netns.run(|| {
            let _server = Server::start().unwrap();
            for payload in [1400, 64] {
                let duration = Duration::from_millis(100);
                let flood = datagrams_per_second(Ipv4Addr::LOCALHOST, payload, duration).unwrap();
                assert!(flood.sent > 100, "{flood:?}");
                assert!((1..=flood.sent).contains(&flood.arrived), "{flood:?}");
                let sent_per_second = flood.sent as f64 / duration.as_secs_f64();
                assert!(flood.per_second <= sent_per_second, "{flood:?}");
            }
        });
    }
}

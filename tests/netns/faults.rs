//! A bad underlay between the two nodes: what it damages is not delivered, and what can be
//! repaired is.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use etherparse::{SlicedPacket, TransportSlice};
use net_common::ProgramCounter;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use xylem_tests::{
    inside::Inside,
    load::{ECHO_PORT, Received, SINK_PORT, transfer_over},
    relay::{Counts, Direction, Faults, Relay},
    wait::wait_for,
};

use crate::{
    scene::{LIMIT, Scene},
    traffic,
};

/// Set to another seed to have other packets hit.
const SEED_VARIABLE: &str = "XYLEM_SEED";
const SEED: u64 = 20_221_107;

/// For one answer, over the worst of the lines here.
const PATIENCE: Duration = Duration::from_secs(10);

/// For one answer over the line without faults.
const MOMENT: Duration = Duration::from_secs(1);

const PORT: u16 = 9700;

/// Delay, loss, reordering and copies at once: TCP repairs it all, in both directions.
pub fn bad_line(scene: &Scene) -> Result<()> {
    let faults = Faults {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(1),
        loss: 0.02,
        duplication: 0.02,
        ..Faults::default()
    };
    with_line(scene, |relay| {
        relay.set(faults);
        let received = transfer(&scene.client, scene.far.rr_ip, 4 << 20)?;
        ensure!(received.unharmed, "{received:?}");
        for direction in Direction::BOTH {
            let Counts { lost, duplicated, reordered, .. } = relay.counts(direction);
            ensure!(lost > 0 && duplicated > 0 && reordered > 0, "the line was not bad enough");
        }
        Ok(())
    })
}

/// The inner checksums find every damage, since the outer datagram has none.
pub fn corrupted_stream(scene: &Scene) -> Result<()> {
    with_line(scene, |relay| {
        let before = scene.far.inside.snmp("Tcp", "InCsumErrors")?;
        let faults = Faults { corruption: 0.02, ..Faults::default() };
        relay.set(faults);
        let received = transfer(&scene.client, scene.far.rr_ip, 4 << 20)?;
        ensure!(received.unharmed, "{received:?}");
        let refused = scene.far.inside.snmp("Tcp", "InCsumErrors")? - before;
        let corrupted = relay.counts(Direction::Forth).corrupted;
        ensure!(refused > 0 && refused <= corrupted, "{refused} segments were refused");
        Ok(())
    })
}

/// Exactly those that the line damaged do not arrive, and the program says what it did with each.
pub fn corrupted_datagrams(scene: &Scene) -> Result<()> {
    let faults = Faults { corruption: 0.2, ..Faults::default() };
    for server in [IpAddr::from(scene.far.rr_ip), scene.far.rr_ip_v6.into()] {
        with_line(scene, |relay| {
            let datagrams = Datagrams::open(scene, relay, server)?;
            let before = handled(scene)?;
            let (arrived, counts) = datagrams.send(relay, faults)?;
            ensure!(counts.corrupted > 100, "the line was not bad enough");
            let arrived: u64 = arrived.values().sum();
            let unharmed = counts.delivered - counts.corrupted;
            // No checksum covers an IPv6 header's traffic class, flow label and hop limit: 36 of
            // the 2432 bits that the line may turn over.
            let harmless = if server.is_ipv6() { counts.corrupted / 10 } else { 0 };
            let wanted = unharmed..=unharmed + harmless;
            ensure!(wanted.contains(&arrived), "{arrived} arrived, not {wanted:?}");
            let came = counts.delivered + 1;
            let handled = handled(scene)? - before;
            ensure!(handled == came, "{came} came to the node, it dropped or delivered {handled}");
            Ok(())
        })
        .with_context(|| format!("datagrams to {server}"))?;
    }
    Ok(())
}

/// What the line sends twice arrives twice, and nothing else does.
pub fn copies(scene: &Scene) -> Result<()> {
    let jitter = Duration::from_millis(1);
    let faults = Faults { duplication: 0.5, jitter, ..Faults::default() };
    for server in [IpAddr::from(scene.far.rr_ip), scene.far.rr_ip_v6.into()] {
        with_line(scene, |relay| {
            let (arrived, counts) = Datagrams::open(scene, relay, server)?.send(relay, faults)?;
            let arrived = |times| arrived.values().filter(|count| **count == times).count() as u64;
            let (once, twice) = (arrived(1), arrived(2));
            ensure!(twice > 0 && counts.reordered > 0, "the line was not bad enough");
            ensure!(twice == counts.duplicated, "{twice} arrived twice");
            ensure!(once == counts.taken - twice, "{once} arrived once");
            Ok(())
        })
        .with_context(|| format!("datagrams to {server}"))?;
    }
    Ok(())
}

/// A copy of a SYN is no new connection, not even one that comes after the connection has ended.
pub fn copies_of_connections(scene: &Scene) -> Result<()> {
    let jitter = Duration::from_millis(1);
    with_line(scene, |relay| {
        relay.set(Faults { duplication: 0.5, jitter, ..Faults::default() });
        traffic::even_spread(scene)?;
        let Counts { duplicated, reordered, .. } = relay.counts(Direction::Forth);
        ensure!(duplicated > 0 && reordered > 0, "the line was not bad enough");
        Ok(())
    })
}

/// A round trip takes twice the line's delay, and a connection is there after one.
pub fn delay(scene: &Scene) -> Result<()> {
    const DELAY: Duration = Duration::from_millis(20);
    /// For everything else, on a busy machine; the fastest of several counts.
    const MORE: Duration = Duration::from_millis(15);
    const REQUESTS: u32 = 10;
    let server = SocketAddr::from((scene.far.rr_ip, ECHO_PORT));
    let round_trip = DELAY * 2..DELAY * 2 + MORE;
    with_line(scene, |relay| {
        relay.set(Faults { delay: DELAY, ..Faults::default() });
        let (request, connect) = scene.client.run(|| -> Result<_> {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect(server)?;
            let request = fastest(REQUESTS, || {
                socket.send(b"request")?;
                let mut buffer = [0; 16];
                let len = socket.recv(&mut buffer).context("no response")?;
                ensure!(&buffer[..len] == b"request", "{:?} came back", &buffer[..len]);
                Ok(())
            })?;
            let connect =
                fastest(REQUESTS, || Ok(TcpStream::connect_timeout(&server, PATIENCE).map(drop)?))?;
            Ok((request, connect))
        })?;
        ensure!(round_trip.contains(&request), "the fastest request took {request:?}");
        ensure!(round_trip.contains(&connect), "the fastest connect took {connect:?}");
        Ok(())
    })
}

/// A second without a line, in the middle of a transfer: the connection goes on afterwards.
pub fn cut(scene: &Scene) -> Result<()> {
    const CUT: Duration = Duration::from_secs(1);
    const BYTES: u64 = 8 << 20;
    with_line(scene, |relay| {
        // Two seconds are long enough to be cut in the middle.
        relay.set(Faults { bytes_per_second: Some(4 << 20), ..Faults::default() });
        thread::scope(|scope| {
            let transfer = scope.spawn(|| transfer(&scene.client, scene.far.rr_ip, BYTES));
            let forth = || relay.counts(Direction::Forth);
            let outcome = wait_for("the transfer to be under way", LIMIT, || {
                let is_under_way = forth().delivered > 500 || transfer.is_finished();
                if is_under_way { Ok(()) } else { bail!("{:?}", forth()) }
            })
            .and_then(|()| {
                let start = Instant::now();
                relay.cut();
                wait_for("the time of the cut", LIMIT, || {
                    let is_over = start.elapsed() >= CUT && forth().cut > 0;
                    if is_over { Ok(()) } else { bail!("{:?}", forth()) }
                })
            });
            let is_cut = !transfer.is_finished();
            // Also when that failed: the transfer is to end.
            relay.heal();
            let received = transfer.join().expect("it reports errors and does not panic");
            let received = received?;
            outcome?;
            ensure!(is_cut, "the transfer had ended: nothing was cut");
            ensure!(received.unharmed, "{received:?}");
            Ok(())
        })
    })
}

/// Requests arrive while their responses do not, and the flow is as before when it is healed.
pub fn cut_one_direction(scene: &Scene) -> Result<()> {
    const REQUESTS: u64 = 5;
    with_line(scene, |relay| {
        let datagrams = Datagrams::open(scene, relay, scene.far.rr_ip.into())?;
        relay.cut_one(Direction::Back);
        let back = || relay.counts(Direction::Back);
        let before = back();
        let mut buffer = [0; 16];
        for number in 0..REQUESTS {
            datagrams.client.send(&number.to_be_bytes())?;
            let (len, client) = datagrams.server.recv_from(&mut buffer).context("not there")?;
            datagrams.server.send_to(&buffer[..len], client)?;
        }
        wait_for("the responses at the cut", LIMIT, || {
            if back().cut == before.cut + REQUESTS { Ok(()) } else { bail!("{:?}", back()) }
        })?;
        ensure!(back().delivered == before.delivered, "something came through the cut");
        relay.heal();
        datagrams.round_trip(b"healed")
    })
}

/// What the program of the other node has dropped, for any reason, or delivered.
fn handled(scene: &Scene) -> Result<u64> {
    let maps = scene.maps(1)?;
    let dropped: u64 = maps.drops()?.iter().map(|(_, counter)| counter.packets).sum();
    let counters = maps.program_counters()?;
    let delivered = counters.iter().filter(|(name, _)| *name == ProgramCounter::Delivered);
    Ok(dropped + delivered.map(|(_, counter)| counter.packets).sum::<u64>())
}

/// The line between the two nodes by way of a relay, without faults and with nothing on it at
/// first.
pub fn with_line(scene: &Scene, work: impl FnOnce(&Relay) -> Result<()>) -> Result<()> {
    wait_for("earlier connections to end", LIMIT, || {
        match open_connections(&scene.client)? + open_connections(&scene.far.inside)? {
            0 => Ok(()),
            count => bail!("{count} are open"),
        }
    })?;
    let relay = scene.platform().topology.relay([0, 1], seed()?)?;
    work(&relay).with_context(|| relay.to_string())?;
    drop(relay);
    let server = SocketAddr::from((scene.far.rr_ip, ECHO_PORT));
    let connect = || scene.client.run(|| TcpStream::connect_timeout(&server, MOMENT));
    wait_for("the other node to be in use again", LIMIT, || connect().map(drop))
}

/// Where chance comes from.
pub fn seed() -> Result<u64> {
    match env::var(SEED_VARIABLE) {
        Ok(seed) => seed.parse().with_context(|| format!("{SEED_VARIABLE} is no number")),
        Err(_) => Ok(SEED),
    }
}

/// TCP sockets of an instance that may yet send something by themselves.
fn open_connections(inside: &Inside) -> Result<usize> {
    const LISTEN: &str = "0A";
    /// It only answers.
    const TIME_WAIT: &str = "06";
    let mut count = 0;
    for family in ["tcp", "tcp6"] {
        let table = inside.run(|| fs::read_to_string(format!("/proc/thread-self/net/{family}")))?;
        let states = table.lines().skip(1).filter_map(|line| line.split_whitespace().nth(3));
        count += states.filter(|state| ![LISTEN, TIME_WAIT].contains(state)).count();
    }
    Ok(count)
}

/// Sends over one connection, which gives up when it hangs.
pub fn transfer(client: &Inside, server: Ipv4Addr, bytes: u64) -> Result<Received> {
    client.run(|| {
        let server = SocketAddr::from((server, SINK_PORT));
        let stream = TcpStream::connect_timeout(&server, PATIENCE).context("no connection")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        transfer_over(stream, bytes).context("the transfer came to a halt")
    })
}

fn fastest(times: u32, mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut fastest = Duration::MAX;
    for _ in 0..times {
        let start = Instant::now();
        work()?;
        fastest = fastest.min(start.elapsed());
    }
    Ok(fastest)
}

/// A flow of datagrams from the client to the other node.
struct Datagrams {
    client: UdpSocket,
    server: UdpSocket,
}

impl Datagrams {
    const COUNT: u64 = 2000;
    const LEN: usize = 256;
    /// The first eight bytes are a number in all others.
    const LAST: [u8; Self::LEN] = [0xff; Self::LEN];

    /// Sockets at both ends, and a round trip, so that the way is known. The relay counts these
    /// datagrams and no other packets.
    fn open(scene: &Scene, relay: &Relay, address: IpAddr) -> Result<Self> {
        relay.mark(Self::is_one);
        let any = match address {
            IpAddr::V4(_) => "0.0.0.0",
            IpAddr::V6(_) => "::",
        };
        let any: IpAddr = any.parse()?;
        let server = scene.far.inside.run(|| UdpSocket::bind((any, PORT)))?;
        let client = scene.client.run(|| -> Result<_> {
            let client = UdpSocket::bind((any, 0))?;
            client.connect((address, PORT))?;
            Ok(client)
        })?;
        for socket in [&client, &server] {
            socket.set_read_timeout(Some(PATIENCE))?;
            // For all of them, should the receiver not run meanwhile.
            setsockopt(socket, RcvBufForce, &(8 << 20))?;
        }
        let datagrams = Self { client, server };
        datagrams.round_trip(b"first")?;
        Ok(datagrams)
    }

    /// Whether a packet of the underlay carries a datagram from or to the server's port.
    fn is_one(packet: &[u8]) -> bool {
        /// Of IPv4 and UDP.
        const OUTER_LEN: usize = 28;
        let inner = packet.get(OUTER_LEN..).and_then(|inner| SlicedPacket::from_ip(inner).ok());
        match inner.and_then(|inner| inner.transport) {
            Some(TransportSlice::Udp(udp)) => {
                [udp.source_port(), udp.destination_port()].contains(&PORT)
            }
            _ => false,
        }
    }

    fn round_trip(&self, request: &[u8]) -> Result<()> {
        self.client.send(request)?;
        let mut buffer = [0; 64];
        let (len, client) = self.server.recv_from(&mut buffer).context("no request came")?;
        self.server.send_to(&buffer[..len], client)?;
        let len = self.client.recv(&mut buffer).context("no response came")?;
        ensure!(buffer[..len] == *request, "{:?} came back", &buffer[..len]);
        Ok(())
    }

    /// Sends all over a line with these faults, and a last one over one without: how often each
    /// number arrived, unchanged, and what the line did.
    fn send(&self, relay: &Relay, faults: Faults) -> Result<(BTreeMap<u64, u64>, Counts)> {
        let before = relay.counts(Direction::Forth);
        relay.set_one(Direction::Forth, faults);
        for number in 0..Self::COUNT {
            self.client.send(&Self::numbered(number))?;
        }
        let counts = wait_for("the line to be empty", LIMIT, || {
            let now = relay.counts(Direction::Forth);
            let counts = Counts {
                taken: now.taken - before.taken,
                delivered: now.delivered - before.delivered,
                ..now
            };
            let left = counts.lost + counts.delivered;
            let is_empty = counts.taken == Self::COUNT && left == counts.taken + counts.duplicated;
            if is_empty { Ok(counts) } else { bail!("{counts:?}") }
        })?;
        relay.set_one(Direction::Forth, Faults::default());
        self.client.send(&Self::LAST)?;

        let mut arrived = BTreeMap::new();
        let mut buffer = [0; 2048];
        loop {
            let len = self.server.recv(&mut buffer).context("not even the last one arrived")?;
            let datagram = &buffer[..len];
            if *datagram == Self::LAST {
                return Ok((arrived, counts));
            }
            let number = datagram.first_chunk().copied().map_or(u64::MAX, u64::from_be_bytes);
            ensure!(*datagram == Self::numbered(number), "{datagram:02x?} arrived");
            *arrived.entry(number).or_default() += 1;
        }
    }

    fn numbered(number: u64) -> [u8; Self::LEN] {
        let mut datagram = [number as u8; Self::LEN];
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        datagram
    }
}

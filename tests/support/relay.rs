//! The bad line between two hosts, without Xylem.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use xylem_tests::{
    relay::{Direction, Faults, Relay},
    topology::{Host, Topology},
    wait::wait_until,
};

use crate::{LIMIT, own_prefix};

const PORT: u16 = 7000;

/// A socket on each of two workers, the first connected to the second; and the line between them.
struct Line {
    client: UdpSocket,
    server: UdpSocket,
    relay: Relay,
    net: Topology,
}

impl Line {
    fn new(test: &str) -> Self {
        let net = Topology::isolated(&own_prefix(test), 2).unwrap();
        let relay = net.relay([0, 1], 1).unwrap();
        let bind = |host: &Host| {
            let socket = host.netns.run(|| UdpSocket::bind((host.address, PORT))).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket
        };
        let (client, server) = (bind(&net.workers[0]), bind(&net.workers[1]));
        client.connect((net.workers[1].address, PORT)).unwrap();
        server.connect((net.workers[0].address, PORT)).unwrap();
        Self { client, server, relay, net }
    }

    /// How long a request and its response take.
    fn round_trip(&self) -> Duration {
        let start = Instant::now();
        self.client.send(b"request").unwrap();
        let mut buffer = [0; 100];
        let len = self.server.recv(&mut buffer).unwrap();
        self.server.send(&buffer[..len]).unwrap();
        assert_eq!(self.client.recv(&mut buffer).unwrap(), len);
        start.elapsed()
    }
}

#[test]
fn relay_delays_and_without_it_the_direct_way_is_back() {
    let mut line = Line::new("delay");
    let delay = Duration::from_millis(50);
    line.relay.set(Faults { delay, ..Faults::default() });
    assert!(line.round_trip() >= delay * 2);
    for direction in Direction::BOTH {
        let counts = line.relay.counts(direction);
        assert_eq!((counts.taken, counts.delivered), (1, 1), "{direction:?}");
    }
    // Another one may follow, and is asked from then on.
    drop(line.relay);
    line.relay = line.net.relay([1, 0], 1).unwrap();
    assert!(line.round_trip() < delay);
    assert_eq!(line.relay.counts(Direction::Forth).delivered, 1);
}

#[test]
fn relay_cuts_one_direction_and_heals() {
    let line = Line::new("cut");
    line.relay.cut_one(Direction::Back);
    line.client.send(b"there").unwrap();
    assert_eq!(line.server.recv(&mut [0; 100]).unwrap(), 5);
    line.server.send(b"back").unwrap();
    wait_until("the answer at the cut", LIMIT, || line.relay.counts(Direction::Back).cut == 1);
    line.client.set_nonblocking(true).unwrap();
    assert_eq!(line.client.recv(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock);
    line.client.set_nonblocking(false).unwrap();
    line.relay.heal();
    line.round_trip();
}

#[test]
fn relay_drops_copies_and_damages_as_often_as_it_says() {
    // No more than what a socket's buffer holds.
    const DATAGRAMS: u64 = 200;
    let line = Line::new("lots");
    let faults = Faults { loss: 0.2, duplication: 0.2, corruption: 0.2, ..Faults::default() };
    line.relay.set_one(Direction::Forth, faults);
    for number in 0..DATAGRAMS {
        line.client.send(&number.to_be_bytes()).unwrap();
    }
    let counts = || line.relay.counts(Direction::Forth);
    wait_until("all to pass", LIMIT, || counts().taken == DATAGRAMS);
    line.server.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 100];
    let mut harmed = 0;
    let mut arrived = 0;
    while let Ok(len) = line.server.recv(&mut buffer) {
        arrived += 1;
        let number = <[u8; 8]>::try_from(&buffer[..len]).map(u64::from_be_bytes);
        harmed += u64::from(number.is_ok_and(|number| number >= DATAGRAMS));
    }
    let counts = counts();
    assert!(counts.lost > 9 && counts.duplicated > 9 && counts.corrupted > 9, "{counts:?}");
    assert_eq!(counts.delivered, DATAGRAMS - counts.lost + counts.duplicated);
    // These datagrams have a checksum of their own: what was harmed does not arrive.
    assert_eq!((arrived, harmed), (counts.delivered - counts.corrupted, 0), "{counts:?}");
}

#[test]
fn tcp_learns_the_small_mtu_of_a_relay() {
    let Line { relay, net, .. } = Line::new("mtu");
    let [one, two] = &net.workers[..] else { panic!("two workers") };
    let listener = two.netns.run(|| TcpListener::bind((two.address, PORT))).unwrap();
    let mut stream = one.netns.run(|| TcpStream::connect((two.address, PORT))).unwrap();
    relay.set_mtu(Some(1300));
    let sent = vec![7; 1 << 20];
    let received = thread::scope(|scope| {
        let server = scope.spawn(|| {
            let mut received = Vec::new();
            let mut client = listener.accept().unwrap().0;
            client.set_read_timeout(Some(LIMIT)).unwrap();
            client.read_to_end(&mut received).unwrap();
            received
        });
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&sent).unwrap();
        drop(stream);
        server.join().unwrap()
    });
    assert!(received == sent);
    let counts = relay.counts(Direction::Forth);
    assert!(counts.too_big > 0 && counts.too_big < 100, "{counts:?}");
}

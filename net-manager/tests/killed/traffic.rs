//! Flows that are there from before the first kill until after the last, and count what they get.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    scene::{ECHO_PORT, FAR_RR, NEAR_RR, PUBLISHED, Scene},
    support::{NODE_ADDRESS, process::Process},
};

const STREAM_PORT: u16 = 7001;
const UDP_PORT: u16 = 7003;
/// A flow that hangs for so long has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two requests of a flow, and two pieces of a stream: both CPUs have other work as well.
const PAUSE: Duration = Duration::from_millis(2);
const PIECE: usize = 16 * 1024;

/// All flows.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    flows: Vec<(&'static str, JoinHandle<io::Result<u64>>)>,
    /// Pieces of the stream that arrived.
    arrived: JoinHandle<io::Result<u64>>,
}

/// How much went over each flow.
#[derive(Debug)]
#[expect(dead_code, reason = "printed")]
pub struct Sent(Vec<(&'static str, u64)>);

impl Traffic {
    pub fn start(scene: &Scene) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let arrived = serve_stream(&scene.far);
        for server in [&scene.near, &scene.far] {
            serve_echo(server);
            serve_udp(server);
        }
        let router = scene.router.namespace();
        let flow = |from: &Process,
                    work: fn(SocketAddr, &AtomicBool) -> io::Result<u64>,
                    address: Ipv4Addr,
                    port: u16| {
            let stop = Arc::clone(&stop);
            from.spawn(move || work((address, port).into(), &stop))
        };
        let client = &scene.client;
        let flows = vec![
            ("stream", flow(client, stream, FAR_RR, STREAM_PORT)),
            ("requests across", flow(client, requests, FAR_RR, ECHO_PORT)),
            ("datagrams across", flow(client, datagrams, FAR_RR, UDP_PORT)),
            ("requests", flow(client, requests, NEAR_RR, ECHO_PORT)),
            ("datagrams", flow(client, datagrams, NEAR_RR, UDP_PORT)),
            ("requests from outside", flow(router, requests, NODE_ADDRESS, PUBLISHED)),
        ];
        Self { stop, flows, arrived }
    }

    /// Ends all flows, of which none may have failed.
    pub fn stop(self) -> Sent {
        self.stop.store(true, Ordering::SeqCst);
        let mut sent = Vec::new();
        for (name, flow) in self.flows {
            let count = flow.join().unwrap();
            sent.push((name, count.unwrap_or_else(|error| panic!("{name}: {error}"))));
        }
        let arrived = self.arrived.join().unwrap().unwrap();
        assert_eq!(arrived, sent[0].1, "pieces of the stream that arrived unharmed");
        assert!(sent.iter().all(|(_, count)| *count > 100), "{sent:?}");
        Sent(sent)
    }
}

/// One that no other piece of the stream is like.
fn piece(number: u64) -> Vec<u8> {
    let mut piece = vec![number as u8; PIECE];
    piece[..8].copy_from_slice(&number.to_be_bytes());
    piece
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn stream(to: SocketAddr, stop: &AtomicBool) -> io::Result<u64> {
    let mut stream = connect(to)?;
    let mut sent = 0;
    while !stop.load(Ordering::SeqCst) {
        stream.write_all(&piece(sent))?;
        sent += 1;
        thread::park_timeout(PAUSE);
    }
    Ok(sent)
}

fn requests(to: SocketAddr, stop: &AtomicBool) -> io::Result<u64> {
    let mut stream = connect(to)?;
    let mut count = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let mut answer = [0; 8];
        stream.write_all(&count.to_be_bytes())?;
        stream.read_exact(&mut answer)?;
        assert_eq!(answer, count.to_be_bytes());
        count += 1;
        thread::park_timeout(PAUSE);
    }
    Ok(count)
}

/// Every one is answered, once, before the next is sent.
fn datagrams(to: SocketAddr, stop: &AtomicBool) -> io::Result<u64> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut count = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let mut answer = [0; 16];
        socket.send(&count.to_be_bytes())?;
        let len = socket.recv(&mut answer)?;
        assert_eq!(answer[..len], count.to_be_bytes());
        count += 1;
        thread::park_timeout(PAUSE);
    }
    Ok(count)
}

fn listen(server: &Process, port: u16) -> TcpListener {
    server.inside(|| TcpListener::bind(("0.0.0.0", port)).unwrap())
}

/// Counts the pieces of one stream until something else comes, or the end.
fn serve_stream(server: &Process) -> JoinHandle<io::Result<u64>> {
    let listener = listen(server, STREAM_PORT);
    thread::spawn(move || {
        let (mut stream, _) = listener.accept()?;
        let mut arrived = vec![0; PIECE];
        for number in 0.. {
            match stream.read_exact(&mut arrived) {
                Ok(()) => assert!(arrived == piece(number), "piece {number} is harmed"),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(number),
                Err(error) => return Err(error),
            }
        }
        unreachable!("a stream of so many pieces")
    })
}

fn serve_echo(server: &Process) {
    let listener = listen(server, ECHO_PORT);
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                stream.set_nodelay(true).unwrap();
                let mut buffer = [0; 64];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..len]).unwrap();
                }
            });
        }
    });
}

fn serve_udp(server: &Process) {
    let socket = server.inside(|| UdpSocket::bind(("0.0.0.0", UDP_PORT)).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..len], from).unwrap();
        }
    });
}

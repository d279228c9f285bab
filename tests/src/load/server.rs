//! The other end of every load.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};
use sha2::{Digest, Sha256};

use super::{
    SERVER_CPU, pin_to_cpu,
    tally::{self, Tally},
    tune,
};

/// Reads to the end and answers with the SHA-256 of everything, when the first byte is 1; else
/// reads to the end and answers with one byte.
pub const SINK_PORT: u16 = 7001;
/// Sends back what it gets; TCP and UDP.
pub const ECHO_PORT: u16 = 7002;
/// Accepts and closes.
pub const CONNECT_PORT: u16 = 7003;
/// Counts datagrams, and tells over TCP how many came.
pub const COUNT_PORT: u16 = 7004;

/// How often a waiting server looks whether it shall end.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// Servers on all ports of the namespace in which it was started; they end with it.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens in the calling thread's network namespace.
    ///
    /// # Errors
    /// If a port is taken.
    pub fn start() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        // A client that goes away ends its thread; nobody waits for it.
        listen(SINK_PORT, &stop, &mut threads, |client| drop(thread::spawn(|| sink(client))))?;
        listen(ECHO_PORT, &stop, &mut threads, |client| drop(thread::spawn(|| echo(client))))?;
        // No thread here: making one would be what is measured.
        listen(CONNECT_PORT, &stop, &mut threads, drop)?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, ECHO_PORT))?;
        socket.set_read_timeout(Some(LOOK))?;
        let told = Arc::clone(&stop);
        threads.push(thread::spawn(move || echo_datagrams(&socket, &told)));

        let tally = Arc::new(Tally::default());
        let counted = Arc::clone(&tally);
        listen(COUNT_PORT, &stop, &mut threads, move |client| {
            let tally = Arc::clone(&tally);
            drop(thread::spawn(move || tally.answer(client)));
        })?;
        let socket = tally::listen()?;
        let told = Arc::clone(&stop);
        threads.push(thread::spawn(move || counted.count(&socket, &told)));
        Ok(Self { stop, threads })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a server reports errors and does not panic");
        }
    }
}

fn listen(
    port: u16,
    stop: &Arc<AtomicBool>,
    threads: &mut Vec<JoinHandle<()>>,
    serve: impl Fn(TcpStream) + Send + 'static,
) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))?;
    // An accept that times out lets the thread look at `stop`.
    let look = TimeVal::milliseconds(i64::try_from(LOOK.as_millis()).expect("small"));
    setsockopt(&listener, ReceiveTimeout, &look)?;
    let stop = Arc::clone(stop);
    threads.push(thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((client, _)) => {
                    // It has the listener's, and may be silent for longer.
                    client.set_read_timeout(None).expect("none is a timeout that can be set");
                    serve(client);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => eprintln!("a load server cannot accept: {error}"),
            }
        }
    }));
    Ok(())
}

fn sink(mut client: TcpStream) -> io::Result<()> {
    tune(&client)?;
    let mut buffer = vec![0; 256 * 1024];
    let mut first = [0];
    client.read_exact(&mut first)?;
    let mut digest = Sha256::new();
    loop {
        let len = client.read(&mut buffer)?;
        if len == 0 {
            break;
        }
        if first[0] == 1 {
            digest.update(&buffer[..len]);
        }
    }
    if first[0] == 1 { client.write_all(&digest.finalize()) } else { client.write_all(&[0]) }
}

fn echo(mut client: TcpStream) -> io::Result<()> {
    // Who measures latency puts the client on the same CPU: else it is wake-ups that count.
    pin_to_cpu(SERVER_CPU)?;
    tune(&client)?;
    let mut buffer = [0; 4096];
    loop {
        match client.read(&mut buffer)? {
            0 => return Ok(()),
            len => client.write_all(&buffer[..len])?,
        }
    }
}

fn echo_datagrams(socket: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((len, client)) = socket.recv_from(&mut buffer) {
            // The client may be gone; that is its own affair.
            socket.send_to(&buffer[..len], client).ok();
        }
    }
}

//! Another node, played: it sends probes back, and says what else it gets through the tunnel.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use net_common::Probe;
use zerocopy::{FromBytes, IntoBytes};

use super::process::Process;

pub const TUNNEL_PORT: u16 = 50103;

/// A network namespace behind the uplink, in which peers have their addresses.
pub struct Underlay {
    namespace: Process,
}

impl Underlay {
    /// Takes the far end of the uplink.
    pub async fn start(addresses: &[Ipv4Addr]) -> Self {
        let namespace = Process::start().await;
        let moved = Command::new("ip")
            .args(["link", "set", "far", "netns", &namespace.pid().to_string()])
            .status()
            .unwrap();
        assert!(moved.success());
        namespace.ip("link set lo up");
        namespace.ip("link set far up");
        for address in addresses {
            namespace.ip(&format!("address add {address}/24 dev far"));
        }
        Self { namespace }
    }

    /// The hardware address of the far end.
    pub fn mac(&self) -> String {
        let shown = self.namespace.ip("-o link show far");
        let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether");
        words.nth(1).unwrap().to_owned()
    }

    pub fn namespace(&self) -> &Process {
        &self.namespace
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.inside(work)
    }

    /// A node at one of the addresses, whose answers to probes take so long.
    pub fn peer(&self, address: Ipv4Addr, delay: Duration) -> Peer {
        let socket = self.inside(|| UdpSocket::bind((address, TUNNEL_PORT)).unwrap());
        let state = Arc::new(State::default());
        let peer = Peer { address, socket: socket.try_clone().unwrap(), state: Arc::clone(&state) };
        thread::spawn(move || serve(&socket, &state, delay));
        peer
    }
}

#[derive(Default)]
struct State {
    is_mute: AtomicBool,
    is_over: AtomicBool,
    received: Mutex<Vec<Vec<u8>>>,
}

/// One node; it ends when it is dropped.
pub struct Peer {
    pub address: Ipv4Addr,
    socket: UdpSocket,
    state: Arc<State>,
}

impl Peer {
    /// Answers no probes any more, or answers again.
    pub fn mute(&self, is_mute: bool) {
        self.state.is_mute.store(is_mute, Ordering::SeqCst);
    }

    /// Inner packets that came, since this was last asked.
    pub fn received(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.state.received.lock().unwrap())
    }

    /// Sends a packet through the tunnel.
    pub fn send(&self, to: Ipv4Addr, packet: &[u8]) {
        self.socket.send_to(packet, (to, TUNNEL_PORT)).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::SeqCst);
    }
}

fn serve(socket: &UdpSocket, state: &State, delay: Duration) {
    let mut late: Vec<(Instant, Probe, SocketAddr)> = Vec::new();
    let mut buffer = [0; 9000];
    while !state.is_over.load(Ordering::SeqCst) {
        socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            match Probe::read_from_bytes(&buffer[..len]) {
                Ok(probe) if (probe.magic, probe.kind) == (Probe::MAGIC, Probe::REQUEST) => {
                    let reply = Probe { kind: Probe::REPLY, ..probe };
                    late.push((Instant::now() + delay, reply, from));
                }
                _ => state.received.lock().unwrap().push(buffer[..len].to_vec()),
            }
        }
        late.retain(|(due, reply, to)| {
            if *due > Instant::now() {
                return true;
            }
            if !state.is_mute.load(Ordering::SeqCst) {
                socket.send_to(reply.as_bytes(), to).unwrap();
            }
            false
        });
    }
}

/// A UDP datagram in an IPv4 packet, without UDP checksum.
pub fn datagram(src: ([u8; 4], u16), dst: ([u8; 4], u16), payload: &[u8]) -> Vec<u8> {
    let udp_len = 8 + payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_len).to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(src.0);
    packet.extend(dst.0);
    let sum = packet.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(src.1.to_be_bytes());
    packet.extend(dst.1.to_be_bytes());
    packet.extend(udp_len.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

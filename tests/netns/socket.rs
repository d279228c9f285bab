//! The same-node socket path: what is sent goes from socket to socket, and nobody can tell.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::{AsRawFd, OwnedFd},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{HashMap, Map, MapData};
use net_common::{Counter, Joined, ProgramCounter, SocketKey};
use net_maps::layout_dir;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use sha2::{Digest, Sha256};
use xylem_tests::{
    daemon,
    deployment::{Wanted, create, scale_up},
    image::Image,
    load::{ECHO_PORT, transfer},
    wait::wait_for,
};

use crate::scene::{LIMIT, Scene};

const PORT: u16 = 9100;
const PATIENCE: Duration = Duration::from_secs(10);

/// Unless it is asked for, every byte goes packet by packet.
pub fn off_by_default(scene: &Scene) -> Result<()> {
    let before = counter(scene)?;
    ensure!(scene.client.run(|| transfer(scene.near.rr_ip, 1 << 20))?.unharmed);
    ensure!(counter(scene)? == before, "something went from socket to socket");
    let mut pair = Pair::open(scene)?;
    pair.exchange()?;
    ensure!(joined(scene)?.is_empty(), "{:?} are joined", joined(scene)?);
    Ok(())
}

/// Streams both ways at once, whose sides end one after the other, arrive unharmed, past the stack,
/// and are counted for the flow and the instance; by either family.
pub fn streams(scene: &Scene) -> Result<()> {
    const BYTES: usize = 32 << 20;
    with_path(scene, || {
        let addresses = [scene.near.rr_ip.into(), scene.near.rr_ip_v6.into()];
        for address in addresses {
            let before = counter(scene)?;
            let Pair { mut client, mut server } = Pair::open_to(scene, address)?;
            let known = joined(scene)?;
            ensure!(known.len() == 2, "both ends are not joined: {known:?}");
            thread::scope(|scope| -> Result<()> {
                let serve = scope.spawn(|| -> io::Result<_> {
                    let question = digest(&mut server)?;
                    // The client has shut its side down by now; this side stays open, so that the
                    // flow is still there when its bytes are looked up.
                    Ok((question, send(&mut server, BYTES)?))
                });
                let question = send(&mut client, BYTES)?;
                client.shutdown(Shutdown::Write)?;
                let answer = digest_of(&mut client, BYTES)?;
                let theirs = serve.join().expect("it reports errors and does not panic")?;
                ensure!(theirs == (question, answer), "what arrived is not what was sent");
                Ok(())
            })?;
            let went = counter(scene)?.bytes - before.bytes;
            println!("{went} of {} bytes to {address} went from socket to socket", 2 * BYTES);
            ensure!(went > 0, "nothing went from socket to socket");
            let maps = scene.maps(0)?;
            let counted = |joined: &Joined| -> Result<u64> {
                Ok(maps.flow(&joined.flow)?.context("its flow is gone")?.bytes)
            };
            let flows = known.values().map(counted).sum::<Result<u64>>()?;
            ensure!(flows >= 2 * BYTES as u64, "{flows} bytes are counted");
        }
        Ok(())
    })
}

/// Known connections and new ones need no net manager.
pub fn without_net_manager(scene: &Scene) -> Result<()> {
    with_path(scene, || {
        let mut before = Pair::open(scene)?;
        before.exchange()?;
        scene.platform().workers[0].net_manager.kill()?;
        let count = counter(scene)?.packets;
        before.exchange()?;
        Pair::open(scene)?.exchange()?;
        let went = counter(scene)?.packets - count;
        ensure!(went == 4, "{went} of 4 messages went from socket to socket");
        // Nor are those in flight when another takes over.
        before.client.write_all(b"!")?;
        set_path(scene, "on")?;
        before.server.read_exact(&mut [0])?;
        before.exchange()?;
        set_path(scene, "off")?;
        let count = counter(scene)?.packets;
        before.exchange()?;
        ensure!(counter(scene)?.packets == count, "it still goes from socket to socket");
        Ok(())
    })
}

/// What a server has sent before it closed is read to the end, however late.
pub fn late_reader(scene: &Scene) -> Result<()> {
    with_path(scene, || {
        let Pair { mut client, mut server } = Pair::open(scene)?;
        client.write_all(b"?")?;
        client.shutdown(Shutdown::Write)?;
        server.read_exact(&mut [0])?;
        let answer = send(&mut server, 32 << 10)?;
        let before = counter(scene)?;
        ensure!(before.bytes > 0, "the answer went by TCP");
        let local = server.local_addr()?;
        drop(server);
        wait_for("the server's socket to be gone", LIMIT, || {
            let known = joined(scene)?;
            let is_there = known.keys().any(|key| port(key.local_port) == local.port());
            if is_there { bail!("{known:?}") } else { Ok(()) }
        })?;
        ensure!(digest(&mut client)? == answer, "bytes were lost");
        Ok(())
    })
}

/// Many connections, each with a question and an answer; nothing is left of them.
pub fn short_connections(scene: &Scene) -> Result<()> {
    with_path(scene, || {
        let target = SocketAddr::from((scene.near.rr_ip, ECHO_PORT));
        let before = counter(scene)?;
        scene.client.run(|| -> Result<()> {
            for number in 0_u32..500 {
                let mut client = TcpStream::connect(target)?;
                client.set_read_timeout(Some(PATIENCE))?;
                client.write_all(&number.to_be_bytes())?;
                let mut answer = [0; 4];
                client.read_exact(&mut answer).with_context(|| format!("connection {number}"))?;
                ensure!(answer == number.to_be_bytes(), "{answer:?} instead of {number}");
            }
            Ok(())
        })?;
        let messages = counter(scene)?.packets - before.packets;
        ensure!(messages >= 900, "only {messages} of 1000 messages went from socket to socket");
        wait_for("the sockets to be gone", LIMIT, || {
            let count = joined(scene)?.len();
            if count == 0 { Ok(()) } else { bail!("{count} are there") }
        })
    })
}

/// Who reads nothing is sent a bounded number of bytes, and gets all of them in the end.
pub fn slow_reader(scene: &Scene) -> Result<()> {
    with_path(scene, || {
        let Pair { mut client, mut server } = Pair::open(scene)?;
        client.set_nonblocking(true)?;
        let (mut sent, mut sum) = (0_u64, Sha256::new());
        let mut chunk = vec![0; 64 << 10];
        // Full: nothing more is taken while the reader does not read.
        loop {
            chunk.fill((sent >> 16) as u8);
            match client.write(&chunk) {
                Ok(len) => {
                    sum.update(&chunk[..len]);
                    sent += len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            ensure!(sent < 64 << 20, "{sent} bytes wait for a reader who does not read");
        }
        println!("{sent} bytes wait");
        client.set_nonblocking(false)?;
        let tail = thread::scope(|scope| -> Result<_> {
            let reading = scope.spawn(|| digest(&mut server));
            // The rest goes by TCP, behind what was put there directly.
            chunk.fill(0xee);
            client.write_all(&chunk)?;
            sum.update(&chunk);
            client.shutdown(Shutdown::Write)?;
            Ok(reading.join().expect("it reports errors and does not panic")?)
        })?;
        ensure!(tail[..] == sum.finalize()[..], "what arrived is not what was sent");
        Ok(())
    })
}

/// The death of a process ends its connections, whoever waits at the other end.
pub fn killed(scene: &Scene) -> Result<()> {
    with_path(scene, || {
        let Pair { mut client, server } = Pair::open(scene)?;
        client.write_all(&[0; 1000])?;
        let mut holder = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::from(OwnedFd::from(server)))
            .spawn()
            .context("cannot start sleep")?;
        holder.kill()?;
        holder.wait()?;
        match read(&mut client, &mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            other => bail!("{other:?} instead of the end"),
        }
        let error = wait_for("an error", LIMIT, || match client.write(&[0; 1000]) {
            Ok(_) => Err("it still writes"),
            Err(error) => Ok(error.kind()),
        })?;
        let expected = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        ensure!(expected.contains(&error), "{error:?}");
        Ok(())
    })
}

/// Whoever sends to an instance that is taken away is told that it is gone.
pub fn instance_removed(scene: &Scene) -> Result<()> {
    let (application, service, instance) = {
        let platform = scene.platform();
        let image = Image::of_binary("demo-app", &daemon::demo_app())?;
        let image = platform.registry.add(&platform.topology.hub.netns, "demo-app", "2", &image)?;
        let rest = platform.rest()?;
        let (application, mut services) = create(
            &rest,
            "brief",
            &[Wanted {
                name: "brief",
                rr_ip: None,
                node: Some("worker1"),
                image: &image,
                cmd: &["/demo-app", "serve", "--port", "8080"],
            }],
        )?;
        let service = services.pop().context("no service")?;
        let instance = scale_up(&rest, &service, 1)?.pop().context("no instance")?;
        (application, service, instance)
    };
    with_path(scene, || {
        let inside = scene.platform().inside(&instance)?;
        let listener = inside.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)))?;
        let client = scene.client.run(|| TcpStream::connect((service.rr_ip, PORT)))?;
        let (server, _) = listener.accept()?;
        let mut pair = Pair { client, server };
        pair.client.set_write_timeout(Some(PATIENCE))?;
        pair.exchange()?;
        ensure!(joined(scene)?.len() == 2, "both ends are not joined");

        // Its socket is in our hands and outlives it; its network does not.
        scene.platform().rest()?.remove_instance(&service.id, instance.instance_number)?;
        let error = wait_for("an error", LIMIT, || match pair.client.write(b"?") {
            Ok(_) => Err("it still writes"),
            Err(error) => Ok(error),
        })?;
        ensure!(error.kind() != io::ErrorKind::WouldBlock, "nobody says that it is gone");
        ensure!(joined(scene)?.is_empty(), "its sockets are still joined");
        Ok(())
    })?;
    scene.platform().rest()?.delete_application(&application)
}

/// An instance that gives itself the addresses of a connection of others gets none of its bytes.
pub fn anothers_address(scene: &Scene) -> Result<()> {
    with_path(scene, || {
        let Pair { mut client, mut server } = Pair::open(scene)?;
        let key = joined(scene)?
            .into_iter()
            .find(|(key, _)| port(key.local_port) == PORT)
            .context("the server's socket is not joined")?;
        let (theirs, remote) = (scene.near.namespace_ip, scene.client_ip);
        let client_port = client.local_addr()?.port();

        // The client's own namespace plays the thief, for both ends.
        let address = |verb: &str, address: Ipv4Addr| -> Result<()> {
            let address = format!("{address}/32");
            let status = Command::new("ip").args(["addr", verb, &address, "dev", "lo"]).status()?;
            ensure!(status.success(), "ip addr {verb} {address}");
            Ok(())
        };
        let thief = scene.client.run(|| -> Result<_> {
            address("add", theirs)?;
            address("add", remote)?;
            let listener = TcpListener::bind((theirs, PORT))?;
            let (family, kind) = (AddressFamily::Inet, SockType::Stream);
            let socket = socket(family, kind, SockFlag::empty(), None)?;
            bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(remote, client_port)))?;
            connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(theirs, PORT)))?;
            Ok((listener.accept()?.0, socket))
        });
        let outcome = thief.and_then(|(mut stolen, _socket)| {
            let now = joined(scene)?;
            ensure!(now.get(&key.0) == Some(&key.1), "the thief's socket is joined: {now:?}");
            client.write_all(b"secret")?;
            let mut read = [0; 6];
            server.read_exact(&mut read)?;
            stolen.set_nonblocking(true)?;
            ensure!(stolen.read(&mut read).is_err(), "the thief reads {read:?}");
            Ok(())
        });
        scene.client.run(|| address("del", theirs).and(address("del", remote)))?;
        outcome
    })
}

/// A connection through the service IP, between instances of the first worker.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn open(scene: &Scene) -> Result<Self> {
        Self::open_to(scene, scene.near.rr_ip.into())
    }

    fn open_to(scene: &Scene, address: IpAddr) -> Result<Self> {
        // For both families: an IPv4 client then has a v4-mapped address.
        let listener =
            scene.near.inside.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)))?;
        let client = scene.client.run(|| TcpStream::connect((address, PORT)))?;
        let (server, _) = listener.accept()?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(Self { client, server })
    }

    /// A question and its answer.
    fn exchange(&mut self) -> io::Result<()> {
        self.client.write_all(b"?")?;
        self.server.read_exact(&mut [0])?;
        self.server.write_all(b"!")?;
        self.client.read_exact(&mut [0])
    }
}

/// Runs a check while the first worker's net manager joins sockets; afterwards it does not.
fn with_path(scene: &Scene, check: impl FnOnce() -> Result<()>) -> Result<()> {
    set_path(scene, "on")?;
    let outcome = check();
    set_path(scene, "off")?;
    ensure!(joined(scene)?.is_empty(), "sockets are still joined");
    outcome
}

fn set_path(scene: &Scene, value: &str) -> Result<()> {
    let mut platform = scene.platform();
    platform.workers[0].net_manager.stop()?;
    // One that was killed leaves its socket behind.
    let socket = platform.workers[0].paths.socket.clone();
    if let Err(error) = fs::remove_file(&socket) {
        ensure!(error.kind() == io::ErrorKind::NotFound, "{error}");
    }
    platform.restart_net_manager_with(0, &["--socket-path", value])?;
    platform.workers[0]
        .net_manager
        .wait_ready(LIMIT, || if socket.exists() { Ok(()) } else { bail!("it does not listen") })
}

/// The sockets that are joined on the first worker.
fn joined(scene: &Scene) -> Result<std::collections::HashMap<SocketKey, Joined>> {
    let root = scene.platform().workers[0].paths.bpffs_root.clone();
    let map = MapData::from_pin(layout_dir(&root).join("joined"))?;
    let map: HashMap<MapData, SocketKey, Joined> = HashMap::try_from(Map::HashMap(map))?;
    Ok(map.iter().filter_map(Result::ok).collect())
}

fn counter(scene: &Scene) -> Result<Counter> {
    let counters = scene.maps(0)?.program_counters()?;
    let found = counters.iter().find(|(counter, _)| *counter == ProgramCounter::SocketToSocket);
    Ok(found.context("no such counter")?.1)
}

fn port(port: u16) -> u16 {
    u16::from_be(port)
}

/// Sends bytes that differ from chunk to chunk; their digest.
fn send(stream: &mut TcpStream, bytes: usize) -> io::Result<[u8; 32]> {
    let mut sum = Sha256::new();
    for (number, chunk) in vec![0; bytes].chunks_mut(10_007).enumerate() {
        for (at, byte) in chunk.iter_mut().enumerate() {
            *byte = (at ^ number.wrapping_mul(31)) as u8;
        }
        stream.write_all(chunk)?;
        sum.update(&chunk);
    }
    Ok(sum.finalize().into())
}

/// Of all that comes until the end.
fn digest(stream: &mut TcpStream) -> io::Result<[u8; 32]> {
    digest_of(stream, usize::MAX)
}

/// Of what comes until the end, or of so many bytes.
fn digest_of(stream: &mut TcpStream, bytes: usize) -> io::Result<[u8; 32]> {
    let (mut sum, mut buffer) = (Sha256::new(), vec![0; 64 << 10]);
    let mut left = bytes;
    while left > 0 {
        let most = left.min(buffer.len());
        match read(stream, &mut buffer[..most])? {
            0 => break,
            len => {
                sum.update(&buffer[..len]);
                left -= len;
            }
        }
    }
    Ok(sum.finalize().into())
}

/// Reads once. The kernel wakes readers of joined sockets for nothing and has them return, as after
/// a timeout, when what the socket itself has ended is acknowledged.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    for _ in 0..2 {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
    stream.read(buffer)
}

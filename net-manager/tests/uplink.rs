//! The uplink changes while instances run: another interface, another address, another MTU.

mod support;

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use hyper::StatusCode;
use net_common::{Addr, NodeState, ProgramCounter};
use nix::unistd::gettid;
use support::{
    Host, NODE_ADDRESS, NetManager, UPLINK,
    cluster::{self, Cluster},
    on_a_new_host,
    peer::{Underlay, datagram},
    process::Process,
    wait_for,
};
use xylem_types::net_api::RegisterRequest;

const WEB: &str = "shop.prod.web.prod";
const WEB_0: [u8; 4] = [10, 30, 0, 2];
const FAR: &str = "shop.prod.far.prod";
const FAR_0: [u8; 4] = [10, 30, 1, 10];
/// Beyond the gateways of both uplinks.
const PEER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const SECOND: &str = "second";
const SECOND_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const PATIENCE: Duration = Duration::from_secs(5);
const PORT: u16 = 8080;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

async fn index(host: &Host, ifname: &str) -> u32 {
    host.netlink.get(ifname).await.unwrap().index
}

/// Another interface, to the same network of other nodes.
fn second_way(underlay: &Underlay) {
    let here = gettid();
    underlay.inside(|| {
        ip(&format!("link add far2 type veth peer name {SECOND} netns {here}"));
        ip("address add 198.51.100.254/24 dev far2");
        ip("link set far2 up");
        ip(&format!("address add {PEER}/32 dev lo"));
    });
    ip(&format!("address add {SECOND_ADDRESS}/24 dev {SECOND}"));
    ip(&format!("link set {SECOND} up"));
}

fn links_of_uplinks(host: &Host) -> Vec<String> {
    host.links().into_iter().filter(|link| link.starts_with("uplink_")).collect()
}

fn counted(host: &Host, counter: ProgramCounter) -> u64 {
    let counters = host.maps().program_counters().unwrap();
    counters.into_iter().find(|(other, _)| *other == counter).unwrap().1.packets
}

/// The MTU of an interface in a namespace, from `ip link`.
fn mtu(shown: &str) -> u32 {
    let mut words = shown.split_whitespace().skip_while(|word| *word != "mtu");
    words.nth(1).unwrap().parse().unwrap()
}

/// MTU inside of the instance, of its other end here, and as the programs know it.
async fn sizes(host: &Host, instance: &Process) -> [u32; 3] {
    let near = host.netlink.get(&host.instance_interface().await).await.unwrap().mtu;
    let inside = mtu(&instance.ip("-o link show eth0"));
    [inside, near, host.maps().config().unwrap().instance_mtu]
}

async fn wait_sizes(host: &Host, instance: &Process, wanted: [u32; 3]) {
    wait_for("size", || async {
        let sizes = sizes(host, instance).await;
        if sizes == wanted { Ok(()) } else { Err(format!("{sizes:?} instead of {wanted:?}")) }
    })
    .await;
}

#[test]
fn the_programs_follow_the_default_route_and_flows_go_on() {
    on_a_new_host(|host| async move {
        let underlay = Underlay::start(&[GATEWAY]).await;
        second_way(&underlay);
        ip(&format!("route add default via {GATEWAY} dev {UPLINK}"));
        let peer = underlay.peer(PEER, Duration::ZERO);
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, WEB_0)]);
        cluster.declare(FAR, [10, 30, 1, 1], &[(0, FAR_0)]);
        cluster.place(FAR, 0, [10, 18, 7, 2], PEER);
        let mut config = host.config();
        config.uplink = None;
        let manager = host.start_with(config).await;
        manager.register().await;
        let client = Process::start().await;
        manager.deploy(WEB, 0, &client).await;
        let socket = client
            .run(|| {
                let socket = UdpSocket::bind(("0.0.0.0", 1001)).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect((Ipv4Addr::from(FAR_0), PORT)).unwrap();
                socket
            })
            .await;
        // A question, and its answer from the instance that is not there.
        let exchange = async |node: Ipv4Addr| {
            socket.send(b"hello").unwrap();
            wait_for("question", || async {
                let received = peer.received();
                let ours =
                    |packet: &Vec<u8>| packet.get(20..22) == Some(&1001_u16.to_be_bytes()[..]);
                if received.iter().any(ours) { Ok(()) } else { Err("none came".to_owned()) }
            })
            .await;
            peer.send(node, &datagram((FAR_0, PORT), (WEB_0, 1001), b"and you"));
            let received = socket.try_clone().unwrap();
            let answer = tokio::task::spawn_blocking(move || received.recv(&mut [0; 64]));
            assert_eq!(answer.await.unwrap().unwrap(), 7);
        };
        exchange(NODE_ADDRESS).await;
        let old = index(&host, UPLINK).await;
        assert_eq!(links_of_uplinks(&host), [format!("uplink_{old}")]);
        let flows = host.maps().flow_keys().unwrap().len();

        ip(&format!("link set {SECOND} mtu 1400"));
        let moved = Instant::now();
        ip(&format!("route replace default via 198.51.100.254 dev {SECOND}"));
        let new = index(&host, SECOND).await;
        wait_for("announcement", || async {
            let endpoints = cluster.state.lock().unwrap().endpoints.clone();
            match endpoints.last() {
                Some(endpoint) if endpoint.host_ip == SECOND_ADDRESS => Ok(()),
                _ => Err(format!("{endpoints:?}")),
            }
        })
        .await;
        eprintln!("announced {:?} after the route moved", moved.elapsed());
        assert!(moved.elapsed() < Duration::from_secs(1), "{:?}", moved.elapsed());
        let config = host.maps().config().unwrap();
        assert_eq!((config.uplink_ifindex, config.node_addr), (new, Addr::from(SECOND_ADDRESS)));
        assert_eq!(links_of_uplinks(&host), [format!("uplink_{new}")], "no program on the old one");
        wait_sizes(&host, &client, [1372; 3]).await;
        exchange(SECOND_ADDRESS).await;
        assert_eq!(host.maps().flow_keys().unwrap().len(), flows, "it is the same flow");

        // Probes leave and return by the new way, and so do frames without a look-up.
        let until = counted(&host, ProgramCounter::ProbeAnswered) + 20;
        wait_for("answers to probes", || async {
            let answered = counted(&host, ProgramCounter::ProbeAnswered);
            if answered >= until { Ok(()) } else { Err(format!("{answered} of {until}")) }
        })
        .await;
        let source = host.netlink.get(SECOND).await.unwrap().mac;
        wait_for("next hop", || async {
            let nodes = host.maps().nodes().unwrap();
            let (_, node) = nodes.iter().find(|(_, node)| node.addr == PEER.into()).unwrap();
            assert_eq!(node.state, NodeState::Up as u32);
            let macs: Vec<u8> = node.macs.iter().flat_map(|word| word.to_ne_bytes()).collect();
            if macs[6..] == source { Ok(()) } else { Err(format!("{node:?}")) }
        })
        .await;
        exchange(SECOND_ADDRESS).await;

        // It is the new one that is watched now.
        ip(&format!("link set {SECOND} mtu 1350"));
        wait_sizes(&host, &client, [1322; 3]).await;

        // The interface goes, and the other way is the one that is left.
        ip(&format!("route add default via {GATEWAY} dev {UPLINK} metric 100"));
        ip(&format!("link del {SECOND}"));
        wait_for("other way", || async {
            let config = host.maps().config().unwrap();
            if config.uplink_ifindex == old { Ok(()) } else { Err(format!("{config:?}")) }
        })
        .await;
        wait_sizes(&host, &client, [1422; 3]).await;
        assert_eq!(links_of_uplinks(&host), [format!("uplink_{old}")]);
        exchange(NODE_ADDRESS).await;
        manager.stop().await;
    });
}

#[test]
fn instances_shrink_and_grow_with_the_uplink() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, WEB_0)]);
        let server = outside().await;
        let manager = masquerading(&host).await;
        let client = Process::start().await;
        manager.deploy(WEB, 0, &client).await;
        cluster.announce_peers(&[OUTSIDE]).await;
        assert_eq!(sizes(&host, &client).await, [1422; 3]);
        let mut stream = connected(&client, &server, OUTSIDE.into(), 4000).await;
        let uplink = host.maps().config().unwrap().uplink_ifindex;
        // It was configured, so routes are of no interest.
        second_default_route();

        ip("link set uplink mtu 1400");
        server.ip("link set far mtu 1400");
        wait_sizes(&host, &client, [1372; 3]).await;
        bulk(&mut stream);
        let limits = || {
            let nodes = host.maps().nodes().unwrap();
            nodes.into_iter().filter(|(id, _)| *id != 0).map(|(_, n)| n.mtu).collect::<Vec<u32>>()
        };
        wait_for("end of the checks", || async {
            if limits() == [0] { Ok(()) } else { Err(format!("{:?}", limits())) }
        })
        .await;

        // IPv6 would end below 1280: the interface keeps that, and each packet is looked at.
        ip("link set uplink mtu 1200");
        server.ip("link set far mtu 1200");
        wait_sizes(&host, &client, [1280, 1280, 1172]).await;
        assert_eq!(limits(), [1172]);
        let shown = client.ip("-6 address show dev eth0");
        assert!(shown.contains("fc00::1"), "its address is still there: {shown}");

        // What changed while nobody watched is seen at the start.
        manager.kill().await;
        ip("link set uplink mtu 1450");
        server.ip("link set far mtu 1450");
        let manager = masquerading(&host).await;
        wait_sizes(&host, &client, [1422; 3]).await;
        wait_for("end of the checks", || async {
            if limits() == [0] { Ok(()) } else { Err(format!("{:?}", limits())) }
        })
        .await;
        bulk(&mut stream);
        assert_eq!(host.maps().config().unwrap().uplink_ifindex, uplink);
        manager.stop().await;
    });
}

#[test]
fn ports_and_ways_out_move_with_the_address_and_what_cannot_go_on_is_reset() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, WEB_0)]);
        let elsewhere = outside().await;
        let manager = masquerading(&host).await;
        let instance = Process::start().await;
        let reply = manager.try_deploy_with_ports(WEB, 0, &instance, "8080:80").await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        let families: [(IpAddr, IpAddr, IpAddr, u8); 2] = [
            (NODE_ADDRESS.into(), OTHER.into(), OUTSIDE.into(), 25),
            (NODE_V6.into(), OTHER_V6.into(), OUTSIDE_V6.into(), 64),
        ];
        for (old, new, remote, prefix) in families {
            let mut stream = connected(&instance, &elsewhere, remote, 4000).await;
            let before = if old.is_ipv4() { 24 } else { 64 };
            // Another address beside it changes nothing.
            ip(&format!("address add {new}/{prefix} dev uplink{}", nodad(new)));
            bulk(&mut stream);
            assert!(TcpListener::bind((old, 8080)).is_err());
            ip(&format!("address del {old}/{before} dev uplink"));
            wait_for("reservation", || async {
                match TcpListener::bind((new, 8080)) {
                    Ok(_) => Err("a process gets the port".to_owned()),
                    Err(_) => Ok(()),
                }
            })
            .await;
            let config = host.maps().config().unwrap();
            assert_eq!(config.node_addr_like(&new.into()), Addr::from(new));
            wait_for("removal", || async {
                let flows = host.maps().flows().unwrap();
                let stale = flows.iter().filter(|(_, flow)| flow.src == Addr::from(old)).count();
                if stale == 0 { Ok(()) } else { Err(format!("{stale} flows by the old address")) }
            })
            .await;
            // The connection cannot go on, and the instance learns it.
            let asked = Instant::now();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let outcome = stream.write_all(b"still there?").and_then(|()| {
                let read = stream.read(&mut [0; 64])?;
                Ok(read)
            });
            let error = outcome.expect_err("it goes on");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
            eprintln!("{old}: reset after {:?}", asked.elapsed());
            let mut stream = connected(&instance, &elsewhere, remote, 4001).await;
            let mut seen = [0; 64];
            let len = stream.read(&mut seen).unwrap();
            let seen: SocketAddr = std::str::from_utf8(&seen[..len]).unwrap().parse().unwrap();
            assert_eq!(seen.ip(), new);
            bulk(&mut stream);
            // And hosts elsewhere reach the instance there.
            let any: IpAddr = if new.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let mut stream = connected_to(&elsewhere, &instance, any, 80, (new, 8080).into()).await;
            bulk(&mut stream);
        }
        manager.stop().await;
    });
}

#[test]
fn the_session_moves_with_the_address() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, WEB_0)]);
        let elsewhere = outside().await;
        let relay = elsewhere.run(|| TcpListener::bind((OUTSIDE, 1883)).unwrap()).await;
        std::thread::spawn(move || relay_to_the_broker(&relay));
        let manager = host.start().await;
        let request = RegisterRequest {
            client_id: cluster::WORKER.into(),
            cluster_address: OUTSIDE.to_string(),
            mqtt_port: Some(1883),
        };
        assert_eq!(manager.post("/register", &request).await.status, StatusCode::OK);
        wait_for("session", || async {
            let status = manager.status().await.unwrap();
            if status.subnet.is_some() { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
        let moved = Instant::now();
        ip(&format!("address add {OTHER}/25 dev uplink"));
        ip(&format!("address del {NODE_ADDRESS}/24 dev uplink"));
        wait_for("announcement", || async {
            let endpoints = cluster.state.lock().unwrap().endpoints.clone();
            match endpoints.last() {
                Some(endpoint) if endpoint.host_ip == OTHER => Ok(()),
                _ => Err(format!("{endpoints:?}")),
            }
        })
        .await;
        let took = moved.elapsed();
        eprintln!("announced by another connection after {took:?}");
        // The broker's keep-alive would find the old one dead after five seconds at the earliest.
        assert!(took < Duration::from_secs(3), "it took {took:?}");
        manager.stop().await;
    });
}

#[test]
fn a_node_of_the_ipv6_world_is_reached_over_it() {
    on_a_new_host(|host| async move {
        let elsewhere = outside().await;
        ip(&format!("address del {NODE_ADDRESS}/24 dev uplink"));
        let socket = elsewhere.run(|| UdpSocket::bind((OUTSIDE_V6, 50103)).unwrap()).await;
        accept_without_checksum(&socket);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, WEB_0)]);
        cluster.declare(FAR, [10, 30, 1, 1], &[(0, FAR_0)]);
        cluster.place(FAR, 0, [10, 18, 7, 2], OUTSIDE);
        {
            let mut state = cluster.state.lock().unwrap();
            let deployed = &mut state.services.get_mut(FAR).unwrap().deployed;
            deployed.get_mut(&0).unwrap().host_ip = OUTSIDE_V6.to_string();
        }
        let manager = host.start().await;
        manager.register().await;
        let client = Process::start().await;
        manager.deploy(WEB, 0, &client).await;
        let endpoints = cluster.state.lock().unwrap().endpoints.clone();
        assert!(endpoints.iter().all(|endpoint| endpoint.host_ip == NODE_V6), "{endpoints:?}");
        let config = host.maps().config().unwrap();
        assert_eq!((config.node_addr, config.node_addr_v6), (Addr::UNSPECIFIED, NODE_V6.into()));
        assert_eq!(sizes(&host, &client).await, [1402; 3], "48 bytes less than the uplink");

        let dial = || {
            let socket = UdpSocket::bind("0.0.0.0:1001").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect((Ipv4Addr::from(FAR_0), PORT)).unwrap();
            socket.send(b"hello").unwrap();
            socket
        };
        let dialled = client.run(dial).await;
        let peer = wait_for("peer with its next hop", || async {
            let nodes = host.maps().nodes().unwrap();
            match nodes.into_iter().find(|(_, node)| node.addr == OUTSIDE_V6.into()) {
                Some((_, node)) if node.next_hop_until_ns != 0 => Ok(node),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!(peer.mtu, 0, "as large as an instance sends");
        let source = host.netlink.get(UPLINK).await.unwrap().mac;
        let macs: Vec<u8> = peer.macs.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(macs[6..], source);
        // Probes come, and the packet in the tunnel, which is answered.
        let serve = move || {
            let (mut is_probed, mut is_dialled) = (false, false);
            while !(is_probed && is_dialled) {
                let mut packet = [0; 256];
                let (_, from) = socket.recv_from(&mut packet).unwrap();
                assert_eq!(from, SocketAddr::from((NODE_V6, 50103)));
                if packet[0] >> 4 == 4 {
                    assert_eq!(packet[20..22], 1001_u16.to_be_bytes());
                    is_dialled = true;
                    let answer = datagram((FAR_0, PORT), (WEB_0, 1001), b"and you");
                    socket.send_to(&answer, from).unwrap();
                } else {
                    is_probed = true;
                }
            }
        };
        tokio::task::spawn_blocking(serve).await.unwrap();
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = [0; 64];
            let len = dialled.recv(&mut answer).unwrap();
            answer[..len].to_vec()
        });
        assert_eq!(answer.await.unwrap(), b"and you");

        // With an IPv4 address it is of that world again, where older nodes are.
        ip(&format!("address add {NODE_ADDRESS}/24 dev uplink"));
        wait_for("announcement", || async {
            let endpoints = cluster.state.lock().unwrap().endpoints.clone();
            match endpoints.last() {
                Some(endpoint) if endpoint.host_ip == NODE_ADDRESS => Ok(()),
                _ => Err(format!("{endpoints:?}")),
            }
        })
        .await;
        wait_sizes(&host, &client, [1422; 3]).await;
        let nodes = host.maps().nodes().unwrap();
        let (_, peer) = nodes.iter().find(|(_, node)| node.addr == OUTSIDE_V6.into()).unwrap();
        assert_eq!(peer.mtu, 1402, "the larger headers of the way there");
        manager.stop().await;
    });
}

/// Probes leave without checksums, which only who asks for it gets over IPv6.
fn accept_without_checksum(socket: &UdpSocket) {
    use std::os::fd::AsRawFd;

    use nix::libc;
    let on: libc::c_int = 1;
    // SAFETY: the socket is open, and the option is an int of the size given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_NO_CHECK6_RX,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    assert_eq!(set, 0);
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv6() { " nodad" } else { "" }
}

/// A host at the other end of the uplink, which knows nothing of Xylem.
async fn outside() -> Process {
    ip(&format!("address add {NODE_V6}/64 dev uplink nodad"));
    let outside = Process::start().await;
    ip(&format!("link set far netns {}", outside.pid()));
    outside.ip("link set lo up");
    outside.ip(&format!("address add {OUTSIDE}/24 dev far"));
    outside.ip(&format!("address add {OUTSIDE_V6}/64 dev far nodad"));
    outside.ip("link set far up");
    outside
}

async fn masquerading(host: &Host) -> NetManager {
    let mut config = host.config();
    config.masquerade = Some("62000-62999".parse().unwrap());
    let manager = host.start_with(config).await;
    manager.register().await;
    manager
}

fn second_default_route() {
    ip(&format!("link add {SECOND} type veth peer name unused"));
    ip(&format!("address add {SECOND_ADDRESS}/24 dev {SECOND}"));
    ip("link set unused up");
    ip(&format!("link set {SECOND} up"));
    ip(&format!("route add default via 198.51.100.254 dev {SECOND}"));
}

/// A connection from an instance to a host outside, whose first bytes are the client's address as
/// that sees it, and which echoes what follows.
async fn connected(client: &Process, server: &Process, at: IpAddr, port: u16) -> TcpStream {
    connected_to(client, server, at, port, (at, port).into()).await
}

async fn connected_to(
    client: &Process,
    server: &Process,
    at: IpAddr,
    port: u16,
    to: SocketAddr,
) -> TcpStream {
    let listener = server.run(move || TcpListener::bind((at, port)).unwrap()).await;
    std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(peer.to_string().as_bytes()).unwrap();
        let mut buffer = [0; 65_536];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..len]).is_err() {
                return;
            }
        }
    });
    let dial = move || -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    };
    client.run(dial).await.unwrap_or_else(|error| panic!("no connection to {to}: {error}"))
}

/// Many full packets there and back.
fn bulk(stream: &mut TcpStream) {
    let sent: Vec<u8> = (0..100_000_u32).map(|byte| byte as u8).collect();
    let mut writing = stream.try_clone().unwrap();
    let to_send = sent.clone();
    let writer = std::thread::spawn(move || writing.write_all(&to_send).unwrap());
    // The address that the server has seen may come first.
    let mut received = Vec::new();
    let mut buffer = [0; 65_536];
    while !received.ends_with(&sent) {
        let len = stream.read(&mut buffer).unwrap_or_else(|error| {
            panic!("{} bytes of {} came: {error}", received.len(), sent.len())
        });
        assert_ne!(len, 0, "the connection has ended");
        received.extend_from_slice(&buffer[..len]);
    }
    writer.join().unwrap();
}

fn relay_to_the_broker(relay: &TcpListener) {
    while let Ok((near, _)) = relay.accept() {
        let far = TcpStream::connect(("127.0.0.1", cluster::PORT)).unwrap();
        let pairs = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
        for (from, to) in pairs {
            let (mut from, mut to) = (from.unwrap(), to.unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        }
    }
}

//! Ways in and out that are no tunnel, over real sockets: a host elsewhere dials published ports,
//! and instances dial that host.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    time::Duration,
};

use hyper::StatusCode;
use net_common::{DropReason, ProgramCounter};
use net_manager::core::{expiry, port_range::PortRange, xdp::UplinkXdp};
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto,
        setsockopt, socket, sockopt::ReceiveTimeout,
    },
    time::{TimeVal, TimeValLike},
};
use support::{Host, NODE_ADDRESS, NetManager, cluster::Cluster, on_a_new_host, process::Process};

const WEB: &str = "shop.prod.web.prod";
const OTHER: &str = "shop.prod.other.prod";
const NODE_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
const OUTSIDE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const PATIENCE: Duration = Duration::from_secs(5);
const MASQUERADE: &str = "62000-62999";

const NODE: [IpAddr; 2] = [IpAddr::V4(NODE_ADDRESS), IpAddr::V6(NODE_ADDRESS_V6)];
const ELSEWHERE: [IpAddr; 2] = [IpAddr::V4(OUTSIDE), IpAddr::V6(OUTSIDE_V6)];

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// A host at the other end of the uplink, which knows nothing of Xylem.
async fn outside() -> Process {
    ip(&format!("addr add {NODE_ADDRESS_V6}/64 dev uplink nodad"));
    let outside = Process::start().await;
    ip(&format!("link set far netns {}", outside.pid()));
    outside.ip("link set lo up");
    outside.ip(&format!("addr add {OUTSIDE}/24 dev far"));
    outside.ip(&format!("addr add {OUTSIDE_V6}/64 dev far nodad"));
    outside.ip("link set far up");
    outside
}

async fn registered(host: &Host, masquerade: Option<&str>) -> NetManager {
    let mut config = host.config();
    config.masquerade = masquerade.map(|ports| ports.parse().unwrap());
    let manager = host.start_with(config).await;
    manager.register().await;
    manager
}

fn any(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}

/// Tells each of so many connections whom it sees, and echoes.
async fn serve_tcp(server: &Process, address: IpAddr, port: u16, connections: usize) {
    let listener = server.run(move || TcpListener::bind((address, port)).unwrap()).await;
    std::thread::spawn(move || {
        for _ in 0..connections {
            let (mut stream, peer) = listener.accept().unwrap();
            std::thread::spawn(move || {
                stream.write_all(peer.to_string().as_bytes()).unwrap();
                let mut buffer = [0; 64];
                while let Ok(len @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..len]).unwrap();
                }
            });
        }
    });
}

async fn serve_udp(server: &Process, address: IpAddr, port: u16) {
    let socket = server.run(move || UdpSocket::bind((address, port)).unwrap()).await;
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        let (_, peer) = socket.recv_from(&mut buffer).unwrap();
        socket.send_to(peer.to_string().as_bytes(), peer).unwrap();
    });
}

/// The connection, its own address and the one that the server sees.
async fn dial_tcp(client: &Process, to: SocketAddr) -> (TcpStream, SocketAddr, SocketAddr) {
    let dial = move || -> std::io::Result<_> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let own = stream.local_addr()?;
        let mut buffer = [0; 64];
        let len = stream.read(&mut buffer)?;
        let seen = std::str::from_utf8(&buffer[..len]).unwrap().parse().unwrap();
        Ok((stream, own, seen))
    };
    client.run(dial).await.unwrap_or_else(|error| panic!("no connection to {to}: {error}"))
}

async fn dial_udp(client: &Process, to: SocketAddr) -> (SocketAddr, SocketAddr) {
    let dial = move || -> std::io::Result<_> {
        let socket = UdpSocket::bind((any(to.ip()), 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(to)?;
        socket.send(b"who")?;
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer)?;
        let seen = std::str::from_utf8(&buffer[..len]).unwrap().parse().unwrap();
        Ok((socket.local_addr()?, seen))
    };
    client.run(dial).await.unwrap_or_else(|error| panic!("no answer from {to}: {error}"))
}

/// Why nobody answers there, over TCP and UDP.
async fn dial_in_vain(client: &Process, to: SocketAddr, patience: Duration) -> [ErrorKind; 2] {
    client
        .run(move || {
            let tcp = TcpStream::connect_timeout(&to, patience).unwrap_err().kind();
            let socket = UdpSocket::bind((any(to.ip()), 0)).unwrap();
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.connect(to).unwrap();
            let sent = socket.send(b"who");
            let udp = sent.and_then(|_| socket.recv(&mut [0; 9])).unwrap_err().kind();
            [tcp, udp]
        })
        .await
}

fn echo(stream: &mut TcpStream) {
    stream.write_all(b"still there?").unwrap();
    let mut buffer = [0; 12];
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(&buffer, b"still there?");
}

/// One echo request, and its answer.
fn ping(to: IpAddr) {
    let (family, protocol, request, answer) = if to.is_ipv4() {
        (AddressFamily::Inet, SockProtocol::Icmp, 8, 0)
    } else {
        (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129)
    };
    let socket = socket(family, SockType::Raw, SockFlag::empty(), Some(protocol)).unwrap();
    setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(5)).unwrap();
    // Identifier 7, sequence 1; of ICMPv6 the kernel sums up.
    let mut packet = [request, 0, 0, 0, 0, 7, 0, 1, b'x', b'y'];
    if to.is_ipv4() {
        let sum: u32 = packet.chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
        packet[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    let target = SockaddrStorage::from(SocketAddr::new(to, 0));
    sendto(socket.as_raw_fd(), &packet, &target, MsgFlags::empty()).unwrap();
    loop {
        let mut buffer = [0; 128];
        let len = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("no answer");
        let header = if to.is_ipv4() { 20 } else { 0 };
        let icmp = &buffer[header..len];
        if icmp[0] == answer {
            assert_eq!(icmp[4..], packet[4..]);
            return;
        }
    }
}

fn dropped(host: &Host, reason: DropReason) -> u64 {
    let drops = host.maps().drops().unwrap();
    drops.iter().find(|(known, _)| *known == reason).unwrap().1.packets
}

/// As the programs have written them: each half of a flow knows where the other is.
fn assert_paired(host: &Host) {
    let flows = host.maps().flows().unwrap();
    assert!(!flows.is_empty());
    for (key, flow) in &flows {
        let partners = expiry::partners(key, flow, None);
        let is_there = flows.iter().any(|(other, _)| partners.contains(&Some(*other)));
        assert!(is_there, "{key:?} {flow:?}: {partners:?} not in {flows:?}");
    }
}

fn assert_nothing_dropped(host: &Host) {
    let drops = host.maps().drops().unwrap();
    let drops: Vec<_> = drops.iter().filter(|(_, count)| count.packets != 0).collect();
    assert!(drops.is_empty(), "{drops:?}");
}

#[test]
fn clients_outside_reach_published_ports_and_are_seen_as_they_are() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, [10, 30, 0, 2])]);
        let client = outside().await;
        let manager = registered(&host, None).await;
        let server = Process::start().await;
        manager.deploy_with_ports(WEB, 0, &server, "8080:80;5353:53/udp;7000;7000/udp").await;
        assert_eq!(host.maps().config().unwrap().published_count, 4);

        for (node, elsewhere) in NODE.into_iter().zip(ELSEWHERE) {
            serve_tcp(&server, any(node), 80 + u16::from(node.is_ipv6()), 1).await;
            let port = if node.is_ipv4() { 8080 } else { 8081 };
            if node.is_ipv6() {
                let ports = "8081:81;5353:53/udp;7000;7000/udp";
                manager.deploy_with_ports(WEB, 0, &server, ports).await;
            }
            let (mut stream, own, seen) = dial_tcp(&client, (node, port).into()).await;
            assert_eq!(seen, own, "the instance sees its client's own address");
            echo(&mut stream);
            serve_udp(&server, any(node), 53).await;
            let (own, seen) = dial_udp(&client, (node, 5353).into()).await;
            assert_eq!((seen.ip(), seen.port()), (elsewhere, own.port()));
            // Nobody listens on 7000 of the instance: its reset and its ICMP error come back.
            let refused = dial_in_vain(&client, (node, 7000).into(), PATIENCE).await;
            assert_eq!(refused, [ErrorKind::ConnectionRefused; 2], "{node}");
        }
        let counters = host.maps().program_counters().unwrap();
        let counted = |name: &str| {
            counters.iter().find(|(counter, _)| counter.name() == name).unwrap().1.packets
        };
        assert!(counted("entered-overlay") > 0 && counted("error-translated") >= 2, "{counters:?}");
        assert_nothing_dropped(&host);
        assert_paired(&host);
        manager.stop().await;
    });
}

/// Datagrams leave without a checksum (RFC 768), which a veth would leave unfinished.
fn leave_out_checksums(socket: &UdpSocket) -> std::io::Result<()> {
    use nix::libc;
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the option is read from `on`, which is as long as told.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn xdp_translates_for_published_ports_where_it_is_wanted() {
    const DATAGRAMS: u64 = 10;
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, [10, 30, 0, 2])]);
        let client = outside().await;
        let mut config = host.config();
        config.uplink_xdp = UplinkXdp::Generic;
        let manager = host.start_with(config.clone()).await;
        manager.register().await;
        assert!(
            host.links().iter().any(|link| link.starts_with("xdp_generic")),
            "{:?}",
            host.links()
        );
        let server = Process::start().await;
        manager.deploy_with_ports(WEB, 0, &server, "5353:53/udp").await;

        let echo = server.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap()).await;
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            for _ in 0..DATAGRAMS {
                let (len, peer) = echo.recv_from(&mut buffer).unwrap();
                echo.send_to(&buffer[..len], peer).unwrap();
            }
        });
        let dial = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            leave_out_checksums(&socket)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.connect((NODE_ADDRESS, 5353))?;
            for number in 0..DATAGRAMS {
                socket.send(&number.to_be_bytes())?;
                let mut buffer = [0; 64];
                let len = socket.recv(&mut buffer)?;
                assert_eq!(buffer[..len], number.to_be_bytes());
            }
            std::io::Result::Ok(())
        };
        client.run(dial).await.unwrap();
        // What XDP translates and `from_uplink` does not deliver would be left to the kernel.
        let counters = host.maps().program_counters().unwrap();
        let count = |counter| counters.iter().find(|(own, _)| *own == counter).unwrap().1.packets;
        assert_eq!(count(ProgramCounter::EnteredOverlay), DATAGRAMS);
        assert_eq!(count(ProgramCounter::Delivered), DATAGRAMS);
        assert_eq!(count(ProgramCounter::LeftOverlay), DATAGRAMS);
        assert_nothing_dropped(&host);
        manager.stop().await;

        config.uplink_xdp = UplinkXdp::Auto;
        let manager = host.start_with(config).await;
        assert!(!host.links().iter().any(|link| link.starts_with("xdp")), "a veth gets none");
        manager.stop().await;
    });
}

#[test]
fn published_ports_outlive_the_net_manager_and_go_with_the_instance() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, [10, 30, 0, 2])]);
        let client = outside().await;
        let manager = registered(&host, None).await;
        let server = Process::start().await;
        manager.deploy_with_ports(WEB, 0, &server, "8080:80").await;
        serve_tcp(&server, any(NODE[0]), 80, 2).await;
        let to = SocketAddr::from((NODE[0], 8080));
        let (mut stream, ..) = dial_tcp(&client, to).await;
        let before = host.maps().published().unwrap();
        manager.kill().await;
        echo(&mut stream);
        drop(dial_tcp(&client, to).await);

        let manager = registered(&host, None).await;
        assert_eq!(host.maps().published().unwrap(), before);
        assert_eq!(host.maps().config().unwrap().published_count, 1);
        echo(&mut stream);
        let taken = manager.try_deploy_with_ports(OTHER, 1, &server, "8080:80").await;
        assert_eq!(taken.status, StatusCode::CONFLICT, "it knows whose the port is");
        assert!(taken.refusal().contains(WEB), "{}", taken.refusal());
        assert!(TcpListener::bind((NODE[0], 8080)).is_err(), "no process gets it");

        // Other ports for the same process.
        manager.deploy_with_ports(WEB, 0, &server, "8081:80").await;
        let published = host.maps().published().unwrap();
        let ports: Vec<u16> = published.iter().map(|(key, _)| u16::from_be(key.port)).collect();
        assert_eq!(ports, [8081]);
        echo(&mut stream);
        TcpListener::bind((NODE[0], 8080)).expect("it is free again");

        manager.undeploy(WEB, 0).await;
        assert_eq!(host.maps().published().unwrap(), []);
        assert_eq!(host.maps().config().unwrap().published_count, 0);
        TcpListener::bind((NODE[0], 8081)).unwrap();
        let gone = dial_in_vain(&client, (NODE[0], 8081).into(), PATIENCE).await;
        assert_eq!(gone[0], ErrorKind::ConnectionRefused, "by the node itself");

        // An entry whose instance went while nobody was there.
        manager.deploy_with_ports(WEB, 0, &server, "8082:80").await;
        let ifname = host.instance_interface().await;
        manager.kill().await;
        ip(&format!("link del {ifname}"));
        let manager = registered(&host, None).await;
        support::wait_for("no port", || async {
            let left = host.maps().published().unwrap();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        })
        .await;
        manager.stop().await;
    });
}

#[test]
fn ports_that_cannot_be_are_refused_and_nothing_is_attached() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, [10, 30, 0, 2])]);
        let manager = registered(&host, None).await;
        let process = Process::start().await;
        let listener = TcpListener::bind(("0.0.0.0", 8085)).unwrap();
        let interfaces = host.interfaces().await;
        for (ports, status, why) in [
            ("80:http", StatusCode::UNPROCESSABLE_ENTITY, "\"http\" is no port"),
            ("80:80/sctp", StatusCode::UNPROCESSABLE_ENTITY, "\"sctp\" is unknown"),
            ("80:1;80:2", StatusCode::UNPROCESSABLE_ENTITY, "given twice"),
            ("80:80;50103:80/udp", StatusCode::UNPROCESSABLE_ENTITY, "tunnel"),
            ("80:80;8085:80", StatusCode::CONFLICT, "8085/tcp of this node is used by a process"),
        ] {
            let refused = manager.try_deploy_with_ports(WEB, 0, &process, ports).await;
            let reason = refused.refusal();
            assert_eq!(refused.status, status, "{reason}");
            assert!(reason.contains(why) && reason.contains("`portMappings`"), "{reason}");
        }
        assert_eq!(host.interfaces().await, interfaces);
        assert_eq!(host.maps().published().unwrap(), []);
        drop(listener);
        manager.deploy_with_ports(WEB, 0, &process, "80:80;8085:80").await;
        manager.stop().await;
    });
}

#[test]
fn instances_talk_to_the_outside_where_the_node_allows_it() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, [10, 30, 0, 2])]);
        let server = outside().await;
        let manager = registered(&host, Some(MASQUERADE)).await;
        let client = Process::start().await;
        manager.deploy(WEB, 0, &client).await;
        let range: PortRange = MASQUERADE.parse().unwrap();

        for (node, elsewhere) in NODE.into_iter().zip(ELSEWHERE) {
            serve_tcp(&server, elsewhere, 4000, 1).await;
            let (mut stream, own, seen) = dial_tcp(&client, (elsewhere, 4000).into()).await;
            assert_eq!(seen.ip(), node, "the server sees the node");
            assert!(range.contains(seen.port()) && own.ip() != node, "{own} as {seen}");
            echo(&mut stream);
            serve_udp(&server, elsewhere, 4000).await;
            let (_, seen) = dial_udp(&client, (elsewhere, 4000).into()).await;
            assert!(seen.ip() == node && range.contains(seen.port()), "{seen}");
            let closed = dial_in_vain(&client, (elsewhere, 4001).into(), PATIENCE).await;
            assert_eq!(closed, [ErrorKind::ConnectionRefused; 2], "{elsewhere}");
            client.run(move || ping(elsewhere)).await;
        }
        assert_paired(&host);
        assert_nothing_dropped(&host);

        // The node's own connections are its own.
        serve_tcp(&server, ELSEWHERE[0], 4002, 1).await;
        let mut own = TcpStream::connect_timeout(&(ELSEWHERE[0], 4002).into(), PATIENCE).unwrap();
        own.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(own.read(&mut [0; 64]).unwrap() > 0);
        manager.stop().await;

        let manager = registered(&host, None).await;
        let to = SocketAddr::from((ELSEWHERE[0], 4003));
        let refused = dial_in_vain(&client, to, Duration::from_millis(200)).await;
        assert!(dropped(&host, DropReason::OutsideOverlay) >= 2, "{refused:?}");
        manager.stop().await;
    });
}

#[test]
fn masquerade_ports_that_the_node_itself_uses_are_refused() {
    on_a_new_host(|host| async move {
        let mut config = host.config();
        config.masquerade = Some("40000-40009".parse().unwrap());
        let stop = tokio_util::sync::CancellationToken::new();
        let run = net_manager::daemon::start::run(config.clone(), stop).await;
        let refused = run.unwrap_err().to_string();
        assert!(refused.contains("40000") && refused.contains("--masquerade-ports"), "{refused}");
        std::fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", "40000-40009").unwrap();
        host.start_with(config).await.stop().await;
    });
}

//! What happens to the first packet for a service that nobody here has heard of.

mod support;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use net_common::DropReason;
use support::{Host, NetManager, cluster::Cluster, on_a_new_host, process::Process, wait_for};

const WEB: &str = "shop.prod.web.prod";
const WEB_RR: [u8; 4] = [10, 30, 0, 1];
const WEB_0: [u8; 4] = [10, 30, 0, 2];
const CART: &str = "shop.prod.cart.prod";
const CART_RR: [u8; 4] = [10, 30, 0, 3];
const CART_0: [u8; 4] = [10, 30, 0, 4];
const NOBODY: [u8; 4] = [10, 30, 9, 9];
const PORT: u16 = 8080;

fn address(ip: [u8; 4]) -> SocketAddr {
    (ip, PORT).into()
}

/// Answers every connection with what it sent, and the sender's address.
fn serve_tcp(process: &Process) {
    let listener = process.inside(|| TcpListener::bind(("0.0.0.0", PORT)).unwrap());
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let mut question = [0; 64];
            let len = stream.read(&mut question).unwrap_or(0);
            let answer =
                format!("{} from {}", String::from_utf8_lossy(&question[..len]), from.ip());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    });
}

fn ask_tcp(to: [u8; 4]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address(to), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    stream.write_all(b"hello")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn dropped(host: &Host, reason: DropReason) -> u64 {
    let drops = host.maps().drops().unwrap();
    drops.into_iter().find(|(other, _)| *other == reason).unwrap().1.packets
}

/// A client and a server on one node. The cluster has not told the server's round-robin address
/// yet, so whoever dials it asks first.
async fn client_and_server(cluster: &Cluster, host: &Host) -> (NetManager, Process, Process) {
    cluster.declare(WEB, WEB_RR, &[(0, WEB_0)]);
    cluster.declare(CART, CART_RR, &[(0, CART_0)]);
    cluster.set_rr(WEB, None);
    let manager = host.start().await;
    manager.register().await;
    let (client, server) = (Process::start().await, Process::start().await);
    manager.deploy(CART, 0, &client).await;
    manager.deploy(WEB, 0, &server).await;
    cluster.set_rr(WEB, Some(WEB_RR));
    serve_tcp(&server);
    (manager, client, server)
}

#[test]
fn a_first_connection_waits_for_the_answer_and_retransmits_nothing() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        let (manager, client, _server) = client_and_server(&cluster, &host).await;
        cluster.set_delay(Duration::from_millis(100));

        let retransmitted = client.tcp_counter("RetransSegs");
        let started = Instant::now();
        let answer = client.run(|| ask_tcp(WEB_RR)).await;
        assert_eq!(answer.unwrap(), "hello from 10.30.0.4");
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(100), "it was known already: {took:?}");
        // A retransmission would come a second after the first SYN.
        assert_eq!(client.tcp_counter("RetransSegs"), retransmitted);
        assert_eq!(cluster.asked("10.30.0.1"), 1);

        let answer = client.run(|| ask_tcp(WEB_RR)).await;
        assert_eq!(answer.unwrap(), "hello from 10.30.0.4");
        assert_eq!(cluster.asked("10.30.0.1"), 1, "it is known now");
        manager.stop().await;
    });
}

#[test]
fn datagrams_are_kept_in_order_with_their_checksums_finished() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        let (manager, client, server) = client_and_server(&cluster, &host).await;
        cluster.set_delay(Duration::from_millis(100));
        let receiver = server.inside(|| UdpSocket::bind(("0.0.0.0", PORT)).unwrap());
        receiver.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        client
            .run(|| {
                let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
                for number in 0..20_u8 {
                    // Odd lengths, and one that fills the MTU.
                    let len = if number == 7 { 1394 } else { 2 * usize::from(number) + 1 };
                    assert_eq!(socket.send_to(&vec![number; len], address(WEB_RR)).unwrap(), len);
                }
            })
            .await;
        let received = server
            .run(move || {
                let mut datagram = [0; 2000];
                let mut receive = || {
                    let (len, from) = receiver.recv_from(&mut datagram).unwrap();
                    assert_eq!(from.ip().to_string(), "10.30.0.4");
                    (datagram[0], len)
                };
                (0..20).map(|_| receive()).collect::<Vec<_>>()
            })
            .await;
        let numbers: Vec<u8> = received.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (0..20).collect::<Vec<_>>());
        assert_eq!(received[7].1, 1394);
        assert_eq!(cluster.asked("10.30.0.1"), 1, "one question for all of them");
        manager.stop().await;
    });
}

#[test]
fn an_unknown_destination_is_dropped_and_counted_and_delays_nobody() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        let (manager, client, _server) = client_and_server(&cluster, &host).await;
        let send = || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
            socket.send_to(b"anybody?", address(NOBODY)).unwrap();
        };
        assert_eq!(dropped(&host, DropReason::Unresolved), 0);
        client.run(send).await;
        wait_dropped(&host, 1).await;
        client.run(send).await;
        wait_dropped(&host, 2).await;
        assert_eq!(cluster.asked("10.30.9.9"), 1, "a refusal is remembered for a while");

        // Nobody answers this one, and another is answered all the same.
        cluster.set_mute(true);
        let silent = || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
            socket.send_to(b"anybody?", address([10, 30, 9, 8])).unwrap();
        };
        client.run(silent).await;
        wait_for("question", || async {
            if cluster.asked("10.30.9.8") == 1 { Ok(()) } else { Err("none".to_owned()) }
        })
        .await;
        cluster.set_mute(false);
        let started = Instant::now();
        client.run(|| ask_tcp(WEB_RR)).await.unwrap();
        // Had it waited for the other's answer, that would have taken two seconds.
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
        manager.stop().await;
    });
}

#[test]
fn a_question_that_is_never_answered_ends() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        let (manager, client, _server) = client_and_server(&cluster, &host).await;
        cluster.set_mute(true);
        let started = Instant::now();
        client
            .run(|| {
                let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
                socket.send_to(b"anybody?", address(WEB_RR)).unwrap();
            })
            .await;
        wait_dropped(&host, 1).await;
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(1900), "{took:?}");
        assert!(cluster.asked("10.30.0.1") > 1, "a lost question is asked again");
        manager.stop().await;
    });
}

#[test]
fn an_interest_ends_when_the_service_is_not_used() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        let (manager, client, _server) = client_and_server(&cluster, &host).await;
        let far = "shop.prod.far.prod";
        cluster.declare(far, [10, 30, 0, 5], &[(0, [10, 30, 0, 6])]);
        cluster.place(far, 0, [10, 18, 7, 2], "192.0.2.9".parse().unwrap());
        let dial = || {
            let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
            socket.send_to(b"hello", address([10, 30, 0, 5])).unwrap();
        };
        client.run(dial).await;
        let known = || host.maps().services().unwrap().len();
        // Of each service what was dialled, and of what runs here its own address.
        wait_for("service", || async {
            if known() == 3 { Ok(()) } else { Err(format!("{} addresses", known())) }
        })
        .await;
        let peers = host.maps().peers().unwrap();
        assert_eq!(peers.len(), 1, "its host is a peer now: {peers:?}");

        // An update makes this node ask again, and the maps follow.
        cluster.place(far, 0, [10, 18, 7, 2], "192.0.2.10".parse().unwrap());
        cluster.announce_update(far).await;
        wait_for("move", || async {
            let peers = host.maps().peers().unwrap();
            let moved = peers.iter().all(|(peer, _)| peer.addr.to_string() == "192.0.2.10");
            if moved { Ok(()) } else { Err(format!("{peers:?}")) }
        })
        .await;

        // The flow keeps the interest until it ends itself.
        let mut maps = host.maps();
        for key in maps.flow_keys().unwrap() {
            maps.remove_flow(&key).unwrap();
        }
        let started = Instant::now();
        wait_for("end of the interest", || async {
            let removed = cluster.state.lock().unwrap().removed.clone();
            if removed == [far] { Ok(()) } else { Err(format!("{removed:?}")) }
        })
        .await;
        assert!(started.elapsed() > Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(known(), 2, "what runs here stays");
        assert!(host.maps().peers().unwrap().is_empty());
        manager.stop().await;
    });
}

async fn wait_dropped(host: &Host, packets: u64) {
    wait_for("drop", || async {
        let dropped = dropped(host, DropReason::Unresolved);
        if dropped == packets { Ok(()) } else { Err(format!("{dropped} dropped")) }
    })
    .await;
}

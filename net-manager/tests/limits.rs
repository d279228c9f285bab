//! What is full, large or over.

mod support;

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use net_manager::{
    core::ifname::DataPathId,
    kernel::{inject::Injector, veth},
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use support::{cluster::Cluster, on_a_new_host, process::Process, wait_for};

const WEB: &str = "shop.prod.web.prod";

#[test]
fn a_full_map_is_counted_and_shown_and_the_rest_works() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, [10, 30, 0, 2])]);
        for n in 0..10 {
            let far = format!("far{n}.prod.web.prod");
            cluster.declare(&far, [10, 30, 1, n], &[]);
        }
        let mut config = host.config();
        config.map_sizes.services = 6;
        let manager = host.start_with(config).await;
        manager.register().await;
        let process = Process::start().await;
        manager.deploy(WEB, 0, &process).await;
        process
            .run(|| {
                let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
                for n in 0..10 {
                    socket.send_to(b"hello", SocketAddr::from(([10, 30, 1, n], 80))).unwrap();
                }
            })
            .await;
        let status = wait_for("full map", || async {
            let status = manager.status().await.unwrap();
            if status.map_full.is_empty() { Err(format!("{status:?}")) } else { Ok(status) }
        })
        .await;
        assert_eq!(status.instances, 1);
        assert!(status.connected);
        assert!(host.maps().services().unwrap().len() <= 6);
        // It gives back what it can, and takes what then fits.
        manager.undeploy(WEB, 0).await;
        manager.deploy(WEB, 0, &process).await;
        manager.stop().await;
    });
}

#[test]
fn ended_flows_are_removed_and_living_ones_stay() {
    on_a_new_host(|host| async move {
        let cluster = Cluster::start().await;
        cluster.declare(WEB, [10, 30, 0, 1], &[(0, [10, 30, 0, 2]), (1, [10, 30, 0, 3])]);
        let mut config = host.config();
        config.timeouts.other = Duration::from_secs(2);
        let manager = host.start_with(config).await;
        manager.register().await;
        let (client, server) = (Process::start().await, Process::start().await);
        manager.deploy(WEB, 0, &client).await;
        manager.deploy(WEB, 1, &server).await;
        let send = |port: u16| {
            move || {
                let socket = UdpSocket::bind(("0.0.0.0", port)).unwrap();
                socket.send_to(b"hello", SocketAddr::from(([10, 30, 0, 3], 80))).unwrap();
            }
        };
        client.run(send(1000)).await;
        client.run(send(2000)).await;
        let ports = || -> Vec<u16> {
            let flows = host.maps().flows().unwrap();
            let client_side = flows.iter().filter(|(key, _)| key.remote_port == 80_u16.to_be());
            let mut ports: Vec<u16> =
                client_side.map(|(key, _)| u16::from_be(key.local_port)).collect();
            ports.sort_unstable();
            ports
        };
        assert_eq!(ports(), [1000, 2000]);
        // One goes on in one direction only, its answers' entry stays with it.
        let started = Instant::now();
        wait_for("end of the other", || async {
            client.run(send(2000)).await;
            if ports() == [2000] { Ok(()) } else { Err(format!("{:?}", ports())) }
        })
        .await;
        assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
        assert_eq!(host.maps().flows().unwrap().len(), 2, "both directions");

        // The instance goes, and its flows with it.
        manager.undeploy(WEB, 1).await;
        wait_for("end of all", || async {
            let left = host.maps().flows().unwrap().len();
            if left == 0 { Ok(()) } else { Err(format!("{left} entries")) }
        })
        .await;
        manager.stop().await;
    });
}

#[test]
fn a_large_tcp_packet_is_sent_on_whole() {
    on_a_new_host(|host| async move {
        let id = DataPathId::new(&host.bpffs());
        let (written, taken) = veth::injection_pair(&host.netlink, id).await.unwrap();
        let receiver = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )
        .unwrap();
        let injector = Injector::open(&written, &taken, 1422).unwrap();

        let payload = vec![7; 5000];
        let mut frame = vec![0xff; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + 20 + payload.len() as u16).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 18, 0, 66, 10, 30, 0, 1]);
        frame.extend([0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0]);
        frame.extend(&payload);
        injector.send(&frame).unwrap();

        let received = wait_for("packet", || async {
            let mut buffer = vec![0; 9000];
            let len = recv(receiver.as_raw_fd(), &mut buffer, MsgFlags::empty())
                .map_err(|error| error.to_string())?;
            buffer.truncate(len);
            if buffer.get(..6) == Some(&taken.mac) && len > 60 {
                Ok(buffer)
            } else {
                Err(format!("{len} other bytes"))
            }
        })
        .await;
        assert_eq!(received.len(), frame.len(), "in one piece");
        assert_eq!(received[6..12], written.mac);
        assert_eq!(received[54..], frame[54..]);

        // Cut short, it is refused and not sent.
        injector.send(&frame[..100]).unwrap_err();
        host.netlink.remove(written.index).await.unwrap();
    });
}

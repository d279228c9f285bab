//! What is full or large.

mod support;

use std::{
    cell::RefCell,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use aya::maps::MapInfo;
use net_common::{Addr, Instance, Service};
use net_manager::{
    core::{ifname::DataPathId, plan::MapOp, tables::Tables},
    kernel::{apply::apply, inject::Injector, veth},
};
use net_maps::is_full;
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
fn a_lookup_table_without_room_leaves_the_one_before() {
    on_a_new_host(|host| async move {
        let mut config = host.config();
        // And twice as many chunks.
        config.map_sizes.services = 8;
        host.start_with(config).await.stop().await;
        let mut maps = host.maps();
        maps.set_table(1, &[5; 33]).unwrap();
        maps.set_table(2, &[6; 13 * 32]).unwrap();
        for (slot, ids) in [(1, vec![7; 40]), (3, vec![7; 33])] {
            let error = maps.set_table(slot, &ids).unwrap_err();
            assert!(is_full(&error), "{error}");
        }
        assert_eq!(maps.table(1).unwrap(), [5; 33]);
        assert_eq!(maps.table(3).unwrap(), [0; 0]);

        // What depends on it is not written either, what does not is.
        let service = |slot| Service { slot, ..Service::default() };
        let addr = |last| Addr::from(Ipv4Addr::new(10, 30, 0, last));
        let ops = [
            MapOp::SetTable(3, vec![7; 33]),
            MapOp::SetService(addr(3), service(3)),
            MapOp::SetService(addr(4), service(4)),
        ];
        let mut held = Tables::default();
        let applied = apply(&mut maps, &mut held, &ops);
        assert_eq!(applied.full, ["chunks"]);
        assert!(applied.failure.is_none() && !applied.is_complete());
        assert!(!applied.frees_ids(), "the table from before may name an instance that goes");
        let written: Vec<Addr> = maps.services().unwrap().into_iter().map(|(a, _)| a).collect();
        assert_eq!(written, [addr(4)]);
        assert!(held.services.get(addr(3)).is_none() && held.tables.get(3).is_none());

        // It is as soon as there is room.
        maps.set_table(2, &[]).unwrap();
        let maps = RefCell::new((maps, held));
        wait_for("room", || async {
            let (maps, held) = &mut *maps.borrow_mut();
            let applied = apply(maps, held, &ops);
            if applied.is_complete() && applied.frees_ids() {
                Ok(())
            } else {
                Err(format!("{applied:?}"))
            }
        })
        .await;
        let (maps, _) = maps.into_inner();
        assert_eq!(maps.table(3).unwrap(), [7; 33]);
        assert_eq!(maps.services().unwrap().len(), 2);
    });
}

#[test]
fn a_lookup_table_that_cannot_be_found_keeps_no_chunk() {
    on_a_new_host(|host| async move {
        let mut config = host.config();
        config.map_sizes.services = 8;
        host.start_with(config).await.stop().await;
        let mut maps = host.maps();
        for slot in 0..8 {
            maps.set_table(slot, &[slot + 1]).unwrap();
        }
        // As many as there are chunks left: the map `tables` has no room for another.
        for _ in 0..8 {
            let error = maps.set_table(8, &[9]).unwrap_err();
            assert!(is_full(&error) && error.map == "tables", "{error}");
        }
        let maps = RefCell::new(maps);
        wait_for("chunks", || async {
            let replaced = maps.borrow_mut().set_table(0, &[9; 8 * 32]);
            replaced.map_err(|error| error.to_string())
        })
        .await;
        let maps = maps.into_inner();
        assert_eq!(maps.table(0).unwrap(), [9; 8 * 32]);
        assert!((1..8).all(|slot| maps.table(slot).unwrap() == [slot + 1]));
    });
}

#[test]
fn instances_and_lookup_tables_are_written_without_a_system_call() {
    on_a_new_host(|host| async move {
        host.start().await.stop().await;
        const MMAPABLE: u32 = 1 << 10;
        for name in ["instances", "chunks"] {
            let path = net_maps::layout_dir(&host.bpffs()).join(name);
            let flags = MapInfo::from_pin(path).unwrap().map_flags();
            assert_eq!(flags & MMAPABLE, MMAPABLE, "{name}");
        }
        let mut maps = host.maps();
        let last = maps.instance_capacity() - 1;
        let instance = Instance { generation: 1, number: 7, state: 2, ..Instance::default() };
        maps.set_instance(last, &instance).unwrap();
        let read = host.maps().instances().unwrap();
        assert_eq!(read, [(last, instance)], "as the kernel has it");
        maps.set_instance(last + 1, &instance).unwrap_err();
        maps.set_table_at(1, maps.chunk_capacity() - 1, &[3; 33]).unwrap_err();
        assert_eq!(host.maps().table(1).unwrap(), [0; 0], "no half of it");
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

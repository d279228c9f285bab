//! A node without daemons: namespaces for network and mounts, a BPF file system, the real program
//! on the interface of one instance, and maps that a net manager could have filled.
//!
//! Everything ends with the test's thread.

use std::{
    fs,
    net::Ipv4Addr,
    os::{fd::AsRawFd, unix::process::CommandExt},
    panic,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{LinkOrder, SchedClassifier, TcAttachType, links::FdLink, tc::TcAttachOptions},
};
use net_common::{
    Addr, Config, Endpoint, Instance, InstanceState, Node, NodeState, Policy, Service,
};
use net_maps::{LINKS_DIR, MAPS, Name, PinnedMaps, layout_dir};
use nix::{
    mount::{MsFlags, mount},
    net::if_::if_nametoindex,
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, sendto,
        socket,
    },
    unistd::geteuid,
};
use tempfile::TempDir;

use crate::done::Done;

pub(crate) const CLIENT_NS: Ipv4Addr = Ipv4Addr::new(10, 18, 0, 2);
pub(crate) const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 2);
pub(crate) const WEB_NS: Ipv4Addr = Ipv4Addr::new(10, 18, 0, 3);
pub(crate) const FAR_NS: Ipv4Addr = Ipv4Addr::new(10, 18, 0, 66);
pub(crate) const WEB_RR: Ipv4Addr = Ipv4Addr::new(10, 30, 0, 10);
pub(crate) const SERVICE: &str = "shop.prod.web.front";

const CLIENT: u32 = 1;
const WEB: u32 = 2;
const FAR_WEB: u32 = 3;
const SLOT: u32 = 5;
const CLIENT_SLOT: u32 = 6;

const CLIENT_VETH: &str = "xyclient";
const WEB_VETH: &str = "xyweb";

pub(crate) struct Host {
    _folder: TempDir,
    root: PathBuf,
    pub(crate) maps: PinnedMaps,
    pub(crate) client_veth: u32,
    _bpf: Ebpf,
}

/// Runs a test on a new node.
pub(crate) fn on_a_new_host(test: impl FnOnce(Host) + Send + 'static) {
    on_a_new_host_for(net_common::limits::FLOWS, test);
}

/// Runs a test on a new node whose flow table has room for so many entries.
pub(crate) fn on_a_new_host_for(flows: u32, test: impl FnOnce(Host) + Send + 'static) {
    assert!(geteuid().is_root(), "this test makes namespaces and loads BPF programs: run as root");
    let host = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        test(Host::make(flows));
    });
    if let Err(panic) = host.join() {
        panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}: {status}");
}

impl Host {
    fn make(flows: u32) -> Self {
        // Nothing but what a test sends shall be counted.
        fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        ip("link set lo up");
        for name in [CLIENT_VETH, WEB_VETH] {
            ip(&format!("link add {name} type veth peer name {name}-in"));
            ip(&format!("link set {name} up"));
            ip(&format!("link set {name}-in up"));
        }
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("bpf");
        fs::create_dir(&root).unwrap();
        let (flags, none) = (MsFlags::empty(), None::<&str>);
        mount(Some("bpf"), &root, Some("bpf"), flags, none).unwrap();

        let object =
            std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf/xylem.o"));
        let object = object.expect("built by `cargo xtask build-ebpf`");
        let dir = layout_dir(&root);
        fs::create_dir_all(dir.join(LINKS_DIR)).unwrap();
        let mut loader = EbpfLoader::new();
        loader.map_max_entries("flows", flows);
        for map in MAPS {
            loader.map_pin_path(map, dir.join(map));
        }
        let mut bpf = loader.load(&object).unwrap();
        let program = bpf.program_mut("from_instance").expect("in the object");
        let program: &mut SchedClassifier = program.try_into().unwrap();
        program.load().expect("the verifier accepts it");
        for name in [CLIENT_VETH, WEB_VETH] {
            let options = TcAttachOptions::TcxOrder(LinkOrder::default());
            let id = program.attach_with_options(name, TcAttachType::Ingress, options).unwrap();
            let link: FdLink = program.take_link(id).unwrap().try_into().unwrap();
            link.pin(dir.join(LINKS_DIR).join(name)).unwrap();
        }
        let mut maps = PinnedMaps::open(&root).unwrap();
        fill(&mut maps);
        let client_veth = if_nametoindex(CLIENT_VETH).unwrap();
        Self { _folder: folder, root, maps, client_veth, _bpf: bpf }
    }

    /// What `xylem net …` does on this node.
    pub(crate) fn xylem(&self, arguments: &[&str]) -> Done {
        Done::of(self.command(arguments).output().unwrap())
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command.spawn().unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xylem"));
        command.args(["net", "--bpffs"]).arg(&self.root).args(arguments);
        command
    }

    /// Sends a packet out of the client, as its network stack would.
    pub(crate) fn send_from_client(&self, packet: &[u8]) {
        self.send_each_from_client([packet]);
    }

    /// As [`Self::send_from_client`], by one socket: the kernel takes its time to close each.
    pub(crate) fn send_each_from_client(
        &self,
        packets: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) {
        let kind = SockFlag::SOCK_CLOEXEC;
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, kind, SockProtocol::EthAll).unwrap();
        let index = if_nametoindex("xyclient-in").unwrap();
        let address = nix::libc::sockaddr_ll {
            sll_family: nix::libc::AF_PACKET as u16,
            sll_protocol: 0x0800_u16.to_be(),
            sll_ifindex: index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        // SAFETY: a `sockaddr_ll`, whose family says so, and its length.
        let address = unsafe {
            LinkAddr::from_raw((&raw const address).cast(), Some(size_of_val(&address) as u32))
        };
        let address = address.unwrap();
        for packet in packets {
            let packet = packet.as_ref();
            let sent = sendto(socket.as_raw_fd(), packet, &address, MsgFlags::empty()).unwrap();
            assert_eq!(sent, packet.len());
        }
    }
}

/// A client and an instance of web here, another of web on a second node.
fn fill(maps: &mut PinnedMaps) {
    let none = Ipv4Addr::UNSPECIFIED;
    maps.set_config(&Config {
        node_addr: Ipv4Addr::new(192, 0, 2, 1).into(),
        uplink_ifindex: 1,
        tunnel_port: 50_103_u16.to_be(),
        service_net_v4: u32::from_ne_bytes([10, 30, 0, 0]),
        service_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
        namespace_net_v4: u32::from_ne_bytes([10, 18, 0, 0]),
        namespace_mask_v4: u32::from_ne_bytes([255, 255, 0, 0]),
        instance_mtu: 1_472,
        ..Config::default()
    })
    .unwrap();
    let peer = Node {
        addr: Ipv4Addr::new(192, 0, 2, 2).into(),
        port: 50_103_u16.to_be(),
        state: NodeState::Up as u32,
        ..Node::default()
    };
    maps.set_node(1, &peer).unwrap();
    let names = [(SLOT, SERVICE), (CLIENT_SLOT, "shop.prod.client.front")];
    for (slot, name) in names {
        maps.set_name(slot, &Name::try_from(name).unwrap()).unwrap();
    }
    let instances = [
        (CLIENT, CLIENT_NS, CLIENT_IP, 0, CLIENT_SLOT, 0),
        (WEB, WEB_NS, Ipv4Addr::new(10, 30, 0, 3), 0, SLOT, 0),
        (FAR_WEB, FAR_NS, Ipv4Addr::new(10, 30, 0, 4), 1, SLOT, 1),
    ];
    for (id, namespace_ip, instance_ip, node, service, number) in instances {
        let entry = Instance {
            namespace_ip_v4: namespace_ip.into(),
            instance_ip_v4: instance_ip.into(),
            node,
            generation: 1,
            service,
            number,
            state: InstanceState::Up as u32,
            ..Instance::default()
        };
        maps.set_instance(id, &entry).unwrap();
        assert_ne!(instance_ip, none);
    }
    for (id, name, namespace_ip, instance_ip) in [
        (CLIENT, CLIENT_VETH, CLIENT_NS, CLIENT_IP),
        (WEB, WEB_VETH, WEB_NS, Ipv4Addr::new(10, 30, 0, 3)),
    ] {
        let endpoint = Endpoint {
            namespace_ip: namespace_ip.into(),
            instance_ip: instance_ip.into(),
            ifindex: if_nametoindex(name).unwrap(),
            instance: id,
            generation: 1,
            _pad: 0,
        };
        for address in [namespace_ip, instance_ip] {
            maps.set_endpoint(address.into(), &endpoint).unwrap();
        }
    }
    maps.set_table(SLOT, &[WEB, FAR_WEB]).unwrap();
    let service = Service { policy: Policy::RoundRobin as u32, slot: SLOT, instance: 0, _pad: 0 };
    maps.set_service(Addr::from(WEB_RR), &service).unwrap();
}

/// Waits until `condition` gives something, and says what it gave last if it does not.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "no {what}");
        thread::yield_now();
    }
}

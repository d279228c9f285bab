//! The two nodes, what is around them, and the instances that stay.

use std::{fs, net::Ipv4Addr, time::Duration};

use crate::{
    churn::Churn,
    support::{
        Host, NODE_ADDRESS, UPLINK,
        cluster::{self, Cluster},
        daemon::Daemon,
        peer::{Peer, Underlay},
        process::Process,
    },
};
use xylem_types::net_api::RegisterRequest;

/// The router, as the first node sees it; also a host outside of the overlay.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// The second node.
pub const THERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
/// Nodes that are played.
pub const PLAYED: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 11), Ipv4Addr::new(192, 0, 2, 12), Ipv4Addr::new(192, 0, 2, 13)];

const CLIENT: &str = "stay.prod.client.prod";
const DIALLER: &str = "stay.prod.dialler.prod";
const NEAR: &str = "stay.prod.near.prod";
const FAR: &str = "stay.prod.far.prod";
pub const NEAR_RR: Ipv4Addr = Ipv4Addr::new(10, 30, 1, 1);
pub const FAR_RR: Ipv4Addr = Ipv4Addr::new(10, 30, 1, 2);
/// Port of the first node that is published all the time.
pub const PUBLISHED: u16 = 8081;
pub const ECHO_PORT: u16 = 7002;

/// Fields are dropped in order: who uses a namespace before the namespace.
pub struct Scene {
    /// The node that is looked at.
    pub here: Daemon,
    pub there: Daemon,
    pub cluster: Cluster,
    pub peers: Vec<Peer>,
    pub client: Process,
    /// Sends to what changes.
    pub dialler: Process,
    pub near: Process,
    pub far: Process,
    pub router: Underlay,
}

impl Scene {
    pub async fn start(host: &Host) -> Self {
        let addresses: Vec<Ipv4Addr> = [ROUTER].into_iter().chain(PLAYED).collect();
        let router = Underlay::start(&addresses).await;
        let there = Process::start().await;
        router.namespace().ip(&format!(
            "link add there mtu 1450 type veth peer name {UPLINK} mtu 1450 netns {}",
            there.pid()
        ));
        router.namespace().ip("link set there up");
        router.namespace().ip("address add 198.51.100.1/24 dev there");
        router.inside(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap());
        there.ip("link set lo up");
        there.ip(&format!("link set {UPLINK} up"));
        there.ip(&format!("address add {THERE}/24 dev {UPLINK}"));
        there.ip("route add default via 198.51.100.1");
        ip(&format!("route add 198.51.100.0/24 via {ROUTER}"));

        let cluster = Cluster::start().await;
        cluster.declare(CLIENT, [10, 30, 1, 3], &[(0, [10, 30, 1, 13])]);
        cluster.declare(DIALLER, [10, 30, 1, 4], &[(0, [10, 30, 1, 14])]);
        cluster.declare(NEAR, NEAR_RR.octets(), &[(0, [10, 30, 1, 11])]);
        cluster.declare(FAR, FAR_RR.octets(), &[(0, [10, 30, 1, 12])]);
        Churn::declare(&cluster);
        let everybody: Vec<Ipv4Addr> = [THERE].into_iter().chain(PLAYED).collect();
        cluster.set_peers(cluster::WORKER, &everybody).await;
        cluster.set_peers(cluster::OTHER_WORKER, &[NODE_ADDRESS]).await;

        let flags = ["--uplink", UPLINK, "--max-flows", "4096"];
        let mut scene = Self {
            here: Daemon::new(host.folder(), &flags, None),
            there: Daemon::new(&host.folder().join("there"), &flags, Some(there)),
            cluster,
            peers: PLAYED.map(|address| router.peer(address, Duration::ZERO)).into(),
            client: Process::start().await,
            dialler: Process::start().await,
            near: Process::start().await,
            far: Process::start().await,
            router,
        };
        scene.there.start();
        scene.there.ready().await;
        let there = scene.there.net_manager();
        there.post("/register", &registration(cluster::OTHER_WORKER, NODE_ADDRESS)).await;
        there.deploy(FAR, 0, &scene.far).await;
        scene.begin().await;
        scene
    }

    /// Starts the first node's net manager, which knows nothing yet, and deploys what stays.
    async fn begin(&mut self) {
        self.here.start();
        self.here.ready().await;
        let here = self.here.net_manager();
        here.post("/register", &registration(cluster::WORKER, Ipv4Addr::LOCALHOST)).await;
        here.deploy(CLIENT, 0, &self.client).await;
        here.deploy(DIALLER, 0, &self.dialler).await;
        let ports = format!("{PUBLISHED}:{ECHO_PORT}/tcp");
        here.deploy_with_ports(NEAR, 0, &self.near, &ports).await;
    }

    /// Removes all that the first node's net manager ever made and kept, and lets another one begin
    /// with the same instances.
    pub async fn start_anew(&mut self, host: &Host, churn: &Churn) {
        self.here.kill();
        net_manager::daemon::purge::purge(&host.bpffs()).await.unwrap();
        fs::remove_dir_all(self.here.state_dir()).unwrap();
        self.begin().await;
        churn.deploy_all(&self.here.net_manager()).await;
    }

    /// Every service IP of the services that stay.
    pub fn addresses(&self) -> Vec<Ipv4Addr> {
        let state = self.cluster.state.lock().unwrap();
        [CLIENT, DIALLER, NEAR, FAR]
            .into_iter()
            .flat_map(|name| {
                let service = &state.services[name];
                service.rr.into_iter().chain(service.instance_ips.values().copied())
            })
            .collect()
    }

    /// Where flows begin and end that nothing may happen to.
    pub fn namespaces(&self) -> [(&'static str, &Process); 4] {
        [
            ("the client", &self.client),
            ("the near server", &self.near),
            ("the far server", &self.far),
            ("the client outside", self.router.namespace()),
        ]
    }
}

fn registration(worker: &str, broker: Ipv4Addr) -> RegisterRequest {
    RegisterRequest {
        client_id: worker.into(),
        cluster_address: broker.to_string(),
        mqtt_port: Some(cluster::PORT),
    }
}

fn ip(arguments: &str) {
    let output = std::process::Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

//! A stand-in for the cluster, at the wire: a real broker, and somebody who answers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use serde::Serialize;
use xylem_types::mqtt::{
    InstanceEntry, InterestRemove, IpType, NetDeployed, Peer, PeerKind, Peers, PeersRequest,
    ServiceAddress, SubnetGrant, SubnetRequest, TableAnswer, TableQuery, TunnelEndpoint,
    UpdateKind, UpdatesAvailable, topic,
};

pub const WORKER: &str = "worker-1";
pub const PORT: u16 = 18_830;
pub const SUBNET: Ipv4Addr = Ipv4Addr::new(10, 18, 0, 64);
/// Another worker, where a test has two.
pub const OTHER_WORKER: &str = "worker-2";
const OTHER_SUBNET: Ipv4Addr = Ipv4Addr::new(10, 18, 0, 128);

/// One service with its addresses; an instance is there once it is announced.
#[derive(Clone, Debug, Default)]
pub struct Service {
    pub rr: Option<Ipv4Addr>,
    /// Service IPs of other policies.
    pub others: BTreeMap<IpType, Ipv4Addr>,
    /// Numbers of instances that will be stopped soon.
    pub draining: BTreeSet<u32>,
    /// Instance IPs, by number.
    pub instance_ips: BTreeMap<u32, Ipv4Addr>,
    pub deployed: BTreeMap<u32, NetDeployed>,
}

#[derive(Debug, Default)]
pub struct State {
    pub services: BTreeMap<String, Service>,
    pub queries: Vec<TableQuery>,
    pub undeployed: Vec<NetDeployed>,
    pub removed: Vec<String>,
    /// Senders that nobody had announced.
    pub strangers: Vec<TunnelEndpoint>,
    /// Where the worker said that it is reached, each time it asked for its subnet.
    pub endpoints: Vec<TunnelEndpoint>,
    /// What each worker is told whenever its session begins, if anything.
    pub peers: BTreeMap<String, Peers>,
    /// Answers are held back for so long.
    pub delay: Duration,
    /// Nothing is answered at all.
    pub mute: bool,
}

/// The broker and whoever is behind it.
#[derive(Clone)]
pub struct Cluster {
    pub state: Arc<Mutex<State>>,
    client: AsyncClient,
}

impl Cluster {
    pub async fn start() -> Self {
        start_broker();
        let mut options = MqttOptions::new("cluster", "127.0.0.1", PORT);
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 1000);
        let cluster = Self { state: Arc::default(), client };
        cluster.client.subscribe("nodes/+/net/#", QoS::AtLeastOnce).await.unwrap();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let answering = cluster.clone();
        tokio::spawn(async move {
            let mut ready = Some(ready);
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Incoming::SubAck(_))) => {
                        if let Some(ready) = ready.take() {
                            ready.send(()).unwrap();
                        }
                    }
                    Ok(Event::Incoming(Incoming::Publish(publish))) => {
                        let answering = answering.clone();
                        tokio::spawn(async move {
                            answering.on_message(&publish.topic, &publish.payload).await;
                        });
                    }
                    Ok(_) => {}
                    // The broker is about to start.
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        is_ready.await.unwrap();
        cluster
    }

    /// Declares a service with a round-robin address and these instances.
    pub fn declare(&self, name: &str, rr: [u8; 4], instances: &[(u32, [u8; 4])]) {
        let service = Service {
            rr: Some(rr.into()),
            instance_ips: instances.iter().map(|(number, ip)| (*number, (*ip).into())).collect(),
            ..Service::default()
        };
        self.state.lock().unwrap().services.insert(name.into(), service);
    }

    /// Gives a service an address of another policy.
    pub fn set_address(&self, name: &str, ip_type: IpType, address: [u8; 4]) {
        let mut state = self.state.lock().unwrap();
        state.services.get_mut(name).unwrap().others.insert(ip_type, address.into());
    }

    /// An instance will be stopped soon.
    pub fn drain(&self, name: &str, number: u32) {
        let mut state = self.state.lock().unwrap();
        state.services.get_mut(name).unwrap().draining.insert(number);
    }

    /// Announces these nodes, all of them Xylem's, at the default port.
    pub async fn announce_peers(&self, addresses: &[Ipv4Addr]) {
        self.publish(topic::peers(WORKER), &peers_at(addresses)).await;
    }

    /// As [`Self::announce_peers`], to any worker, now and whenever its session begins.
    pub async fn set_peers(&self, worker: &str, addresses: &[Ipv4Addr]) {
        let peers = peers_at(addresses);
        self.state.lock().unwrap().peers.insert(worker.into(), peers.clone());
        self.publish(topic::peers(worker), &peers).await;
    }

    /// Gives a service another round-robin address, or none, without telling anybody.
    pub fn set_rr(&self, name: &str, rr: Option<[u8; 4]>) {
        let mut state = self.state.lock().unwrap();
        state.services.get_mut(name).unwrap().rr = rr.map(Ipv4Addr::from);
    }

    pub fn set_delay(&self, delay: Duration) {
        self.state.lock().unwrap().delay = delay;
    }

    pub fn set_mute(&self, mute: bool) {
        self.state.lock().unwrap().mute = mute;
    }

    /// How often this address or name was asked for.
    pub fn asked(&self, what: &str) -> usize {
        let state = self.state.lock().unwrap();
        state.queries.iter().filter(|query| query.sip == what || query.sname == what).count()
    }

    /// Puts an instance elsewhere, or changes where it is.
    pub fn place(&self, name: &str, number: u32, nsip: [u8; 4], host_ip: Ipv4Addr) {
        let report = NetDeployed {
            appname: name.into(),
            status: "DEPLOYED".into(),
            instance_number: number,
            nsip: Ipv4Addr::from(nsip).to_string(),
            nsipv6: String::new(),
            host_ip: host_ip.to_string(),
            host_port: 50103,
        };
        let mut state = self.state.lock().unwrap();
        state.services.get_mut(name).unwrap().deployed.insert(number, report);
    }

    pub async fn announce_update(&self, name: &str) {
        let update = UpdatesAvailable { r#type: UpdateKind::Deployment };
        self.publish(topic::updates_available(name), &update).await;
    }

    async fn on_message(&self, from: &str, payload: &[u8]) {
        let (delay, mute) = {
            let state = self.state.lock().unwrap();
            (state.delay, state.mute)
        };
        let worker = from.split('/').nth(1).unwrap();
        if from == topic::subnet(worker) {
            let request: SubnetRequest = serde_json::from_slice(payload).unwrap();
            let (v4, v6) = match worker {
                WORKER => (SUBNET, "fc00::100"),
                _ => (OTHER_SUBNET, "fc00::200"),
            };
            let grant = SubnetGrant { address: v4.to_string(), addressv6: v6.into(), error: None };
            self.publish(topic::subnetwork_result(worker), &grant).await;
            let peers = {
                let mut state = self.state.lock().unwrap();
                state.endpoints.extend(request.endpoint);
                state.peers.get(worker).cloned()
            };
            if let Some(peers) = peers {
                self.publish(topic::peers(worker), &peers).await;
            }
        } else if from == topic::tablequery_request(worker) {
            let query: TableQuery = serde_json::from_slice(payload).unwrap();
            self.state.lock().unwrap().queries.push(query.clone());
            tokio::time::sleep(delay).await;
            if !mute {
                let answer = self.state.lock().unwrap().answer(&query);
                self.publish(topic::tablequery_result(worker), &answer).await;
            }
        } else if from == topic::service_deployed(worker) {
            let report: NetDeployed = serde_json::from_slice(payload).unwrap();
            let name = report.appname.clone();
            let mut state = self.state.lock().unwrap();
            let service = state.services.entry(name).or_default();
            service.deployed.insert(report.instance_number, report);
        } else if from == topic::service_undeployed(worker) {
            let report: NetDeployed = serde_json::from_slice(payload).unwrap();
            let mut state = self.state.lock().unwrap();
            if let Some(service) = state.services.get_mut(&report.appname) {
                service.deployed.remove(&report.instance_number);
            }
            state.undeployed.push(report);
        } else if from == topic::peers_request(worker) {
            let request: PeersRequest = serde_json::from_slice(payload).unwrap();
            self.state.lock().unwrap().strangers.push(request.sender);
        } else if from == topic::interest_remove(worker) {
            let interest: InterestRemove = serde_json::from_slice(payload).unwrap();
            self.state.lock().unwrap().removed.push(interest.appname);
        }
    }

    pub async fn publish<T: Serialize>(&self, topic: String, payload: &T) {
        let payload = serde_json::to_vec(payload).unwrap();
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }
}

impl State {
    fn answer(&self, query: &TableQuery) -> TableAnswer {
        let key = if query.sip.is_empty() { &query.sname } else { &query.sip };
        let is_meant = |(name, service): &(&String, &Service)| {
            let has = |ip: &Ipv4Addr| ip.to_string() == *key;
            let mut addresses = service
                .rr
                .iter()
                .chain(service.others.values())
                .chain(service.instance_ips.values());
            *name == key || addresses.any(has)
        };
        let Some((name, service)) = self.services.iter().find(is_meant) else {
            return TableAnswer { query_key: key.clone(), ..TableAnswer::default() };
        };
        let address = |ip_type, address| ServiceAddress { ip_type, address, address_v6: None };
        let rr = address(IpType::RoundRobin, service.rr);
        let instance_list = service.deployed.values().map(|report| InstanceEntry {
            instance_number: report.instance_number,
            namespace_ip: report.nsip.clone(),
            namespace_ip_v6: String::new(),
            host_ip: report.host_ip.clone(),
            host_port: report.host_port,
            service_ip: vec![
                rr.clone(),
                address(
                    IpType::Instance,
                    service.instance_ips.get(&report.instance_number).copied(),
                ),
            ],
            draining: service.draining.contains(&report.instance_number),
            ..InstanceEntry::default()
        });
        let others = service.others.iter().map(|(ip_type, ip)| address(*ip_type, Some(*ip)));
        TableAnswer {
            app_name: name.clone(),
            query_key: key.clone(),
            instance_list: instance_list.collect(),
            service_ip: std::iter::once(rr.clone()).chain(others).collect(),
        }
    }
}

/// Nodes at these addresses, all of them Xylem's, at the default port.
fn peers_at(addresses: &[Ipv4Addr]) -> Peers {
    let peer = |address: &Ipv4Addr| Peer {
        worker_id: address.to_string(),
        endpoint: TunnelEndpoint { host_ip: (*address).into(), host_port: 50103 },
        subnet: None,
        subnet_v6: None,
        kind: PeerKind::Xylem,
    };
    Peers { peers: addresses.iter().map(peer).collect() }
}

/// A broker of this test's host; its threads end with the process.
fn start_broker() {
    let connections = rumqttd::ConnectionSettings {
        connection_timeout_ms: 5000,
        max_payload_size: 1 << 20,
        max_inflight_count: 500,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = rumqttd::ServerSettings {
        name: "test".into(),
        listen: ([0, 0, 0, 0], PORT).into(),
        tls: None,
        next_connection_delay_ms: 0,
        connections,
    };
    let config = rumqttd::Config {
        router: rumqttd::RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 1000,
            max_segment_size: 1 << 20,
            max_segment_count: 10,
            ..rumqttd::RouterConfig::default()
        },
        v4: Some(HashMap::from([("1".to_owned(), server)])),
        ..rumqttd::Config::default()
    };
    thread::spawn(move || {
        if let Err(error) = rumqttd::Broker::new(config).start() {
            panic!("the broker ended: {error}");
        }
    });
}

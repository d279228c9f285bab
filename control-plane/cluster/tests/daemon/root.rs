//! A root, played over a real WebSocket: it answers what a root must, and notes what it hears.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    response::Response,
    routing::get,
};
use tokio::{net::TcpListener, sync::broadcast, task::JoinHandle};
use xylem_types::{
    mqtt::{InstanceEntry, IpType, Peer, ServiceAddress, TableAnswer, TableQuery},
    session::{
        ClusterResources, FromCluster, FromRoot, Observed, Placement, SESSION_PATH,
        SESSION_VERSION, SubnetResult,
    },
};

use crate::{WEB, process::free_port, wait::eventually};

pub(crate) struct FakeRoot {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

struct Shared {
    known: Mutex<Known>,
    orders: broadcast::Sender<FromRoot>,
}

#[derive(Default)]
struct Known {
    heard: Vec<FromCluster>,
    desired: Vec<Placement>,
    /// In the order in which they asked.
    workers: Vec<String>,
    sessions: u32,
}

impl FakeRoot {
    pub(crate) async fn start() -> Self {
        let (orders, _) = broadcast::channel(1024);
        let shared = Arc::new(Shared { known: Mutex::default(), orders });
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut root = Self { address, shared, server: None };
        root.come_back().await;
        root
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn come_back(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let router =
            Router::new().route(SESSION_PATH, get(accept)).with_state(Arc::clone(&self.shared));
        let server = axum::serve(listener, router);
        self.server = Some(tokio::spawn(async move { server.await.unwrap() }));
    }

    /// Nobody answers any more, and every session breaks off.
    pub(crate) async fn go_away(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        // Once it has ended, its port is free.
        let _aborted = server.await;
        self.send(FromRoot::Refused { reason: END.into() });
    }

    pub(crate) async fn connected(&self, sessions: u32) {
        eventually("the cluster connects", || (self.known().sessions >= sessions).then_some(()))
            .await;
    }

    pub(crate) fn deploy(&self, placement: Placement) {
        self.known().desired.push(placement.clone());
        self.send(FromRoot::Deploy(Box::new(placement)));
    }

    /// As [`Self::deploy`], while no session stands.
    pub(crate) fn want(&self, desired: Vec<Placement>) {
        self.known().desired = desired;
    }

    pub(crate) fn send(&self, message: FromRoot) {
        // Without a session nobody listens, as it is with a real one.
        let _nobody = self.shared.orders.send(message);
    }

    /// The latest of what was heard of the instance, in a report or a snapshot.
    pub(crate) fn observed(&self, number: u32) -> Option<Observed> {
        let known = self.known();
        known.heard.iter().rev().find_map(|message| match message {
            FromCluster::Instance(o) if o.key.instance_number == number => Some((**o).clone()),
            FromCluster::Snapshot { instances, .. } => {
                instances.iter().find(|o| o.key.instance_number == number).cloned()
            }
            _ => None,
        })
    }

    pub(crate) fn resources(&self) -> Option<ClusterResources> {
        self.known().heard.iter().rev().find_map(|message| match message {
            FromCluster::Resources(resources) => Some(resources.clone()),
            _ => None,
        })
    }

    pub(crate) fn workers(&self) -> Vec<Peer> {
        let known = self.known();
        let last = known.heard.iter().rev().find_map(|message| match message {
            FromCluster::Workers { workers } | FromCluster::Snapshot { workers, .. } => {
                Some(workers.clone())
            }
            _ => None,
        });
        last.unwrap_or_default()
    }

    pub(crate) fn heard(&self, message: &FromCluster) -> bool {
        self.known().heard.contains(message)
    }

    pub(crate) fn forget_what_was_heard(&self) {
        self.known().heard.clear();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.known.lock().unwrap()
    }
}

impl Drop for FakeRoot {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
        }
    }
}

/// Not sent, but taken as the order to break off.
const END: &str = "break off";

async fn accept(State(shared): State<Arc<Shared>>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| async move {
        let orders = shared.orders.subscribe();
        // Either side may break off; the test goes on.
        let _ended = converse(socket, &shared, orders).await;
    })
}

async fn converse(
    mut socket: WebSocket,
    shared: &Shared,
    mut orders: broadcast::Receiver<FromRoot>,
) -> Option<()> {
    let mut greeted = false;
    loop {
        let replies = tokio::select! {
            frame = socket.recv() => match frame?.ok()? {
                Message::Text(text) => {
                    let message: FromCluster = serde_json::from_str(&text).unwrap();
                    assert!(greeted || matches!(message, FromCluster::Hello { .. }));
                    greeted = true;
                    shared.hear(message)
                }
                _ => vec![],
            },
            order = orders.recv() => match order.ok()? {
                FromRoot::Refused { reason } if reason == END => return None,
                order => vec![order],
            },
        };
        for reply in replies {
            let text = serde_json::to_string(&reply).unwrap();
            socket.send(Message::Text(text.into())).await.ok()?;
        }
    }
}

impl Shared {
    fn hear(&self, message: FromCluster) -> Vec<FromRoot> {
        let mut known = self.known.lock().unwrap();
        known.heard.push(message.clone());
        match message {
            FromCluster::Hello { version, cluster_name, cluster_location } => {
                assert_eq!(version, SESSION_VERSION);
                assert_eq!((cluster_name.as_str(), cluster_location.as_str()), ("edge", "here"));
                let placements = known.desired.clone();
                vec![
                    FromRoot::Welcome { cluster_id: "cluster-1".into() },
                    FromRoot::Desired { placements, cordoned: Default::default() },
                ]
            }
            FromCluster::Snapshot { .. } => {
                known.sessions += 1;
                vec![]
            }
            FromCluster::Subnet { worker_id } => {
                let at = known.workers.iter().position(|w| *w == worker_id).unwrap_or_else(|| {
                    known.workers.push(worker_id.clone());
                    known.workers.len() - 1
                });
                let third = u8::try_from(at).unwrap() + 1;
                let result = SubnetResult::Granted {
                    v4: [10, 18, third, 0].into(),
                    v6: format!("fc00::{third}00").parse().unwrap(),
                };
                vec![FromRoot::Subnet { worker_id, result }]
            }
            FromCluster::TableQuery { request_id, query } => {
                vec![FromRoot::TableAnswer { request_id, answer: known.answer(&query) }]
            }
            _ => vec![],
        }
    }
}

impl Known {
    /// The one service that there is, with the instances that are wanted.
    fn answer(&self, query: &TableQuery) -> TableAnswer {
        let query_key =
            if query.sname.is_empty() { query.sip.clone() } else { query.sname.clone() };
        if query_key != WEB && query_key != "10.30.0.1" {
            return TableAnswer { query_key, ..TableAnswer::default() };
        }
        let address = |ip_type, last| ServiceAddress {
            ip_type,
            address: Some([10, 30, 0, last].into()),
            address_v6: None,
        };
        let service = address(IpType::RoundRobin, 1);
        TableAnswer {
            app_name: WEB.into(),
            query_key,
            instance_list: self
                .desired
                .iter()
                .map(|placement| placement.command.instance_number)
                .map(|number| InstanceEntry {
                    instance_number: number,
                    namespace_ip: String::new(),
                    namespace_ip_v6: String::new(),
                    host_ip: String::new(),
                    host_port: 0,
                    service_ip: vec![
                        service.clone(),
                        address(IpType::Instance, 100 + u8::try_from(number).unwrap()),
                    ],
                    ..InstanceEntry::default()
                })
                .collect(),
            service_ip: vec![service],
        }
    }
}

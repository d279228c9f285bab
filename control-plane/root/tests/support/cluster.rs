//! A cluster that does as the test says, at the other end of a real socket.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use futures::{SinkExt, StreamExt};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};
use xylem_types::{
    instance::InstanceStatus,
    mqtt::{Peer, PeerKind, TableAnswer, TableQuery, TunnelEndpoint},
    session::{
        ClusterResources, FromCluster, FromRoot, InstanceKey, Observed, Placement, SESSION_PATH,
        SESSION_VERSION, WorkerRoom,
    },
};

use super::DEADLINE;

pub(crate) struct FakeCluster {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub(crate) id: String,
}

impl FakeCluster {
    /// Connects and says hello.
    pub(crate) async fn dial(root: SocketAddr, name: &str) -> Self {
        let (socket, _) = connect_async(format!("ws://{root}{SESSION_PATH}")).await.unwrap();
        let mut this = Self { socket, id: String::new() };
        this.send(FromCluster::Hello {
            version: SESSION_VERSION,
            cluster_name: name.to_owned(),
            cluster_location: "48.1,11.6,1000".to_owned(),
        })
        .await;
        this
    }

    /// A socket that has said nothing.
    pub(crate) async fn dial_silently(root: SocketAddr) -> Self {
        let (socket, _) = connect_async(format!("ws://{root}{SESSION_PATH}")).await.unwrap();
        Self { socket, id: String::new() }
    }

    /// A session that has begun; returns what the cluster shall run.
    pub(crate) async fn connect(root: SocketAddr, name: &str) -> (Self, Vec<Placement>) {
        let mut this = Self::dial(root, name).await;
        let FromRoot::Welcome { cluster_id } = this.next().await else { panic!("no welcome") };
        this.id = cluster_id;
        let FromRoot::Desired { placements, .. } = this.next().await else { panic!("no desired") };
        (this, placements)
    }

    /// A session in which an empty cluster with this room has reported all.
    pub(crate) async fn ready(root: SocketAddr, name: &str, rooms: Vec<WorkerRoom>) -> Self {
        let (mut this, _) = Self::connect(root, name).await;
        this.snapshot(Vec::new()).await;
        this.resources(rooms).await;
        this
    }

    pub(crate) async fn send(&mut self, message: FromCluster) {
        let text = serde_json::to_string(&message).unwrap();
        self.socket.send(Message::Text(text.into())).await.unwrap();
    }

    pub(crate) async fn send_raw(&mut self, message: Message) {
        self.socket.send(message).await.unwrap();
    }

    pub(crate) async fn snapshot(&mut self, instances: Vec<Observed>) {
        let snapshot =
            FromCluster::Snapshot { instances, workers: Vec::new(), interests: Vec::new() };
        self.send(snapshot).await;
    }

    pub(crate) async fn resources(&mut self, workers: Vec<WorkerRoom>) {
        let resources = ClusterResources {
            active_nodes: workers.len().try_into().unwrap(),
            vcpus: 8,
            cpu_percent: 12.5,
            memory: 2048.7,
            virtualization: vec!["docker".to_owned()],
            workers,
            ..ClusterResources::default()
        };
        self.send(FromCluster::Resources(resources)).await;
    }

    pub(crate) async fn report(&mut self, observed: Observed) {
        self.send(FromCluster::Instance(Box::new(observed))).await;
    }

    pub(crate) async fn query(&mut self, query: TableQuery) -> TableAnswer {
        self.send(FromCluster::TableQuery { request_id: 7, query }).await;
        loop {
            if let FromRoot::TableAnswer { request_id: 7, answer } = self.next().await {
                return answer;
            }
        }
    }

    /// The next message; `None` once the root has closed the session.
    pub(crate) async fn try_next(&mut self) -> Option<FromRoot> {
        loop {
            let frame = timeout(DEADLINE, self.socket.next()).await.expect("a message in time");
            match frame {
                Some(Ok(Message::Text(text))) => return Some(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(_))) | Some(Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    pub(crate) async fn next(&mut self) -> FromRoot {
        self.try_next().await.expect("the session to be open")
    }

    pub(crate) async fn next_deploy(&mut self) -> Placement {
        loop {
            if let FromRoot::Deploy(placement) = self.next().await {
                return *placement;
            }
        }
    }

    pub(crate) async fn next_undeploy(&mut self) -> (InstanceKey, u64) {
        loop {
            if let FromRoot::Undeploy { key, generation, .. } = self.next().await {
                return (key, generation);
            }
        }
    }

    /// The next list of peers that is not empty.
    pub(crate) async fn next_peers(&mut self) -> Vec<Peer> {
        loop {
            if let FromRoot::Peers { peers } = self.next().await
                && !peers.is_empty()
            {
                return peers;
            }
        }
    }

    /// Everything that the root sends within this time. For what shall not come.
    pub(crate) async fn within(&mut self, time: Duration) -> Vec<FromRoot> {
        let mut messages = Vec::new();
        let collect = async {
            while let Some(message) = self.try_next().await {
                messages.push(message);
            }
        };
        let _elapsed = timeout(time, collect).await;
        messages
    }
}

pub(crate) fn room(name: &str, cpus: f64) -> WorkerRoom {
    WorkerRoom {
        worker_id: format!("id of {name}"),
        name: name.to_owned(),
        free_vcpus: cpus,
        free_memory: 1000.0,
        architecture: "amd64".to_owned(),
        virtualization: vec!["docker".to_owned()],
        total_vcpus: cpus,
        total_memory: 1000.0,
        ..WorkerRoom::default()
    }
}

pub(crate) fn peer(name: &str, last_octet: u8) -> Peer {
    Peer {
        worker_id: format!("id of {name}"),
        endpoint: TunnelEndpoint {
            host_ip: IpAddr::V4(Ipv4Addr::new(192, 0, 2, last_octet)),
            host_port: 50_103,
        },
        subnet: Some(Ipv4Addr::new(10, 18, last_octet, 0)),
        subnet_v6: None,
        kind: PeerKind::Xylem,
    }
}

/// A report of the placement by the worker of that name.
pub(crate) fn observed(placement: &Placement, status: InstanceStatus, worker: &str) -> Observed {
    Observed {
        key: InstanceKey {
            job_id: placement.job_id.clone(),
            instance_number: placement.command.instance_number,
        },
        generation: placement.command.generation,
        status,
        status_detail: String::new(),
        worker_id: Some(format!("id of {worker}")),
        worker_name: worker.to_owned(),
        host_ip: "192.0.2.1".to_owned(),
        host_port: 50_103,
        publicip: "192.0.2.1".to_owned(),
        namespace_ip: Some(Ipv4Addr::new(10, 18, 1, 2)),
        namespace_ip_v6: None,
        cpu_percent: 1.5,
        memory_percent: 2.5,
        disk: 1024,
        logs: "hello".to_owned(),
    }
}

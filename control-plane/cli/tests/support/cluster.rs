use std::net::SocketAddr;

use futures::{SinkExt, StreamExt};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};
use xylem_types::{
    instance::InstanceStatus,
    mqtt::{Peer, PeerKind, TunnelEndpoint},
    session::{
        ClusterResources, FromCluster, FromRoot, InstanceKey, Observed, Placement, SESSION_PATH,
        SESSION_VERSION, WorkerRoom,
    },
};

/// An image of this name cannot be pulled here.
const BAD_IMAGE: &str = "nowhere/missing:1";

/// A connected cluster with one worker on which everything runs at once. It ends with its root.
pub(crate) struct Cluster {
    _running: JoinHandle<()>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Cluster {
    pub(super) async fn connect(root: SocketAddr, name: &str) -> Self {
        let (mut socket, _) = connect_async(format!("ws://{root}{SESSION_PATH}")).await.unwrap();
        let hello = FromCluster::Hello {
            version: SESSION_VERSION,
            cluster_name: name.to_owned(),
            cluster_location: "test".to_owned(),
        };
        send(&mut socket, &hello).await;
        Self { _running: tokio::spawn(run(socket)) }
    }
}

async fn send(socket: &mut Socket, message: &FromCluster) {
    let text = serde_json::to_string(message).unwrap();
    socket.send(Message::text(text)).await.unwrap();
}

/// Answers until the root closes the session.
async fn run(mut socket: Socket) {
    while let Some(Ok(frame)) = socket.next().await {
        let Message::Text(text) = frame else { continue };
        for answer in answers(serde_json::from_str(&text).unwrap()) {
            send(&mut socket, &answer).await;
        }
    }
}

fn answers(message: FromRoot) -> Vec<FromCluster> {
    match message {
        FromRoot::Desired { placements, .. } => {
            assert!(placements.is_empty(), "the tests connect the cluster first");
            let snapshot = FromCluster::Snapshot {
                instances: Vec::new(),
                workers: vec![worker()],
                interests: Vec::new(),
            };
            vec![snapshot, FromCluster::Resources(resources())]
        }
        FromRoot::Deploy(placement) => vec![instance(deployed(*placement))],
        FromRoot::Undeploy { key, generation, .. } => {
            vec![instance(Observed::new(key, generation, InstanceStatus::Undeployed))]
        }
        FromRoot::Refused { reason } => panic!("{reason}"),
        _ => Vec::new(),
    }
}

fn instance(observed: Observed) -> FromCluster {
    FromCluster::Instance(Box::new(observed))
}

fn deployed(Placement { job_id, command, .. }: Placement) -> Observed {
    let key = InstanceKey { job_id, instance_number: command.instance_number };
    if command.image == BAD_IMAGE {
        return Observed {
            status_detail: format!("cannot pull {BAD_IMAGE}: no such image"),
            ..Observed::new(key, command.generation, InstanceStatus::Failed)
        };
    }
    let host = u8::try_from(command.instance_number % 60).unwrap();
    Observed {
        worker_id: Some("0a1b2c3d-0000".to_owned()),
        worker_name: "rack4".to_owned(),
        host_ip: "192.0.2.11".to_owned(),
        host_port: 50103,
        namespace_ip: Some([10, 18, 0, 2 + host].into()),
        logs: format!("hello of {}\n", command.instance_number),
        ..Observed::new(key, command.generation, InstanceStatus::Running)
    }
}

fn worker() -> Peer {
    Peer {
        worker_id: "0a1b2c3d-0000".to_owned(),
        endpoint: TunnelEndpoint { host_ip: [192, 0, 2, 11].into(), host_port: 50103 },
        subnet: Some([10, 18, 0, 0].into()),
        subnet_v6: None,
        kind: PeerKind::Xylem,
    }
}

fn resources() -> ClusterResources {
    ClusterResources {
        active_nodes: 1,
        vcpus: 8,
        memory: 8_192.0,
        virtualization: vec!["docker".to_owned()],
        workers: vec![WorkerRoom {
            worker_id: "0a1b2c3d-0000".to_owned(),
            name: "rack4".to_owned(),
            free_vcpus: 8.0,
            free_memory: 8_192.0,
            architecture: "amd64".to_owned(),
            virtualization: vec!["docker".to_owned()],
            ..WorkerRoom::default()
        }],
        ..ClusterResources::default()
    }
}

//! Requests to the Net API.

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;
use xylem_types::net_api::{
    DeployRequest, DeployResponse, Refusal, RegisterRequest, Status, UndeployRequest,
};

use super::{NetManager, cluster, process::Process};

/// What a request got.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Reply {
    pub fn refusal(&self) -> String {
        serde_json::from_slice::<Refusal>(&self.body).unwrap().message
    }
}

impl NetManager {
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Reply, Box<dyn std::error::Error>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "net-manager")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        Ok(Reply { status, body: response.into_body().collect().await?.to_bytes() })
    }

    pub async fn post<T: Serialize>(&self, path: &str, body: &T) -> Reply {
        self.request(Method::POST, path, serde_json::to_vec(body).unwrap()).await.unwrap()
    }

    pub async fn status(&self) -> Result<Status, Box<dyn std::error::Error>> {
        let reply = self.request(Method::GET, "/status", Vec::new()).await?;
        Ok(serde_json::from_slice(&reply.body)?)
    }

    /// Registers with the test's broker.
    pub async fn register(&self) {
        self.register_at(cluster::PORT).await;
    }

    pub async fn register_at(&self, port: u16) {
        let request = RegisterRequest {
            client_id: cluster::WORKER.into(),
            cluster_address: "127.0.0.1".into(),
            mqtt_port: Some(port),
        };
        assert_eq!(self.post("/register", &request).await.status, StatusCode::OK);
    }

    pub async fn try_deploy(&self, name: &str, number: u32, pid: i32) -> Reply {
        let request = DeployRequest {
            pid,
            service_name: name.into(),
            instance_number: number,
            port_mappings: String::new(),
        };
        self.post("/container/deploy", &request).await
    }

    pub async fn try_deploy_with_ports(
        &self,
        name: &str,
        number: u32,
        process: &Process,
        port_mappings: &str,
    ) -> Reply {
        let request = DeployRequest {
            pid: process.pid(),
            service_name: name.into(),
            instance_number: number,
            port_mappings: port_mappings.into(),
        };
        self.post("/container/deploy", &request).await
    }

    pub async fn deploy_with_ports(&self, name: &str, number: u32, process: &Process, ports: &str) {
        let reply = self.try_deploy_with_ports(name, number, process, ports).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    }

    pub async fn deploy(&self, name: &str, number: u32, process: &Process) -> DeployResponse {
        let reply = self.try_deploy(name, number, process.pid()).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        serde_json::from_slice(&reply.body).unwrap()
    }

    pub async fn undeploy(&self, name: &str, number: u32) {
        let request = UndeployRequest {
            pid: -1,
            service_name: name.into(),
            instance_number: number,
            port_mappings: String::new(),
        };
        let reply = self.post("/container/undeploy", &request).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    }
}

//! Client of the net manager's Net API, on its Unix socket.

use std::{path::PathBuf, time::Duration};

use serde::Serialize;
use xylem_daemon::Chain;
use xylem_types::net_api::{
    DeployRequest, DeployResponse, Refusal, RegisterRequest, UndeployRequest,
};

use crate::{core::id::InstanceId, core::instance::AttachFailure};

/// One request; attaching takes milliseconds, but instances are attached one after another.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct NetApi {
    socket: PathBuf,
    client: reqwest::Client,
}

impl NetApi {
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(socket: PathBuf) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder()
            .unix_socket(socket.clone())
            .no_proxy()
            // No TLS here, so the machine's certificates need not be read.
            .tls_certs_only([])
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { socket, client })
    }

    /// Tells the net manager which worker this is.
    ///
    /// # Errors
    /// When it does not answer or refuses.
    pub async fn register(&self, request: &RegisterRequest) -> Result<(), AttachFailure> {
        self.post("register", request).await.map(drop)
    }

    /// Attaches the network namespace of `pid`; when this returns, its first packet finds its
    /// way.
    ///
    /// # Errors
    /// When the net manager does not answer or refuses.
    pub async fn attach(
        &self,
        id: &InstanceId,
        pid: i32,
        port_mappings: &str,
    ) -> Result<DeployResponse, AttachFailure> {
        let request = DeployRequest {
            pid,
            service_name: id.job_name().to_owned(),
            instance_number: id.number(),
            port_mappings: port_mappings.to_owned(),
        };
        let response = self.post("container/deploy", &request).await?;
        response.json().await.map_err(|error| {
            AttachFailure::Refused(format!("net manager's answer is not valid: {}", Chain(&error)))
        })
    }

    /// Detaches an instance. One that is not attached is detached.
    ///
    /// # Errors
    /// When the net manager does not answer, or refuses.
    pub async fn detach(&self, id: &InstanceId) -> Result<(), AttachFailure> {
        let request = UndeployRequest {
            // "No process", as Oakestra's node engine says it.
            pid: -1,
            service_name: id.job_name().to_owned(),
            instance_number: id.number(),
            port_mappings: String::new(),
        };
        self.post("container/undeploy", &request).await.map(drop)
    }

    async fn post<T: Serialize>(
        &self,
        path: &str,
        body: &T,
    ) -> Result<reqwest::Response, AttachFailure> {
        let url = format!("http://net-manager/{path}");
        let response = self.client.post(url).json(body).send().await.map_err(|error| {
            AttachFailure::Unavailable(format!(
                "net manager does not answer at {}: {}",
                self.socket.display(),
                Chain(&error)
            ))
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let why = serde_json::from_str(&text).map_or(text, |refusal: Refusal| refusal.message);
        let message = format!("net manager refuses: {why}");
        // It is there and cannot yet: without a registration or a subnet, for example.
        if status == reqwest::StatusCode::SERVICE_UNAVAILABLE {
            Err(AttachFailure::Unavailable(message))
        } else {
            Err(AttachFailure::Refused(message))
        }
    }
}

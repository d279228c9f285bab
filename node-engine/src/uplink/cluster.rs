//! Registration with the cluster.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use url::Url;
use xylem_types::node::{Node, Registered};

const TIMEOUT: Duration = Duration::from_secs(5);

/// The cluster, by its HTTP interface.
#[derive(Clone, Debug)]
pub struct Cluster {
    url: Url,
    client: reqwest::Client,
}

/// A registration that the cluster accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// As the cluster calls this worker.
    pub worker_id: String,
    /// Where the broker is: the cluster's host.
    pub host: String,
    pub mqtt_port: u16,
}

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("cluster does not answer at {url}")]
    Unreachable {
        url: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error("cluster at {url} refuses the registration: {status}: {why}")]
    Refused { url: Url, status: reqwest::StatusCode, why: String },
    #[error("cluster at {url} answers with something else than a registration")]
    Answer {
        url: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error("cluster at {url} names {port:?} as its broker's port")]
    Port { url: Url, port: String },
}

impl Cluster {
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(url: Url) -> reqwest::Result<Self> {
        let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        Ok(Self { url, client })
    }

    /// Host name or address of the cluster, without brackets.
    pub fn host(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']').to_owned()
    }

    /// The address that this machine has towards the cluster; `None` without a route.
    pub fn own_address(&self) -> Option<IpAddr> {
        let port = self.url.port_or_known_default().unwrap_or_default();
        // Connecting a UDP socket asks the kernel for the route and sends nothing.
        let ask = |any: &str| -> io::Result<IpAddr> {
            let socket = UdpSocket::bind(any)?;
            socket.connect((self.host().as_str(), port))?;
            Ok(socket.local_addr()?.ip())
        };
        ask("0.0.0.0:0").or_else(|_| ask("[::]:0")).ok()
    }

    /// # Errors
    /// When the cluster does not answer or does not take this worker.
    pub async fn register(&self, node: &Node) -> Result<Registration, RegisterError> {
        let mut url = self.url.clone();
        url.set_path("/api/node/register");
        let sent = self.client.post(url.clone()).json(node).send().await;
        let response =
            sent.map_err(|source| RegisterError::Unreachable { url: url.clone(), source })?;
        let status = response.status();
        if !status.is_success() {
            let why = response.text().await.unwrap_or_default();
            return Err(RegisterError::Refused { url, status, why });
        }
        let answer: Registered = match response.json().await {
            Ok(answer) => answer,
            Err(source) => return Err(RegisterError::Answer { url, source }),
        };
        let port = answer.mqtt_broker_port;
        let Ok(mqtt_port) = port.parse() else { return Err(RegisterError::Port { url, port }) };
        Ok(Registration { worker_id: answer.id, host: self.host(), mqtt_port })
    }
}

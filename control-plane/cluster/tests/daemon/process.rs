//! The daemon's process.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use tempfile::TempDir;
use xylem_types::node::ClusterStatus;

use crate::wait::{eventually, eventually_so};

/// Below the range from which the kernel gives ports to outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

pub(crate) struct Cluster {
    folder: TempDir,
    root_url: String,
    mqtt_url: Option<String>,
    silence_secs: f64,
    drain_secs: f64,
    pub(crate) http_port: u16,
    pub(crate) mqtt_port: u16,
    child: Option<Child>,
}

impl Cluster {
    /// Starts a new cluster and waits until workers could register.
    pub(crate) async fn start(root_url: String) -> Self {
        Self::launch(Self::new(root_url)).await
    }

    /// One that gives up a worker sooner than by default.
    pub(crate) async fn with_silence(root_url: String, silence_secs: f64) -> Self {
        let mut cluster = Self::new(root_url);
        cluster.silence_secs = silence_secs;
        Self::launch(cluster).await
    }

    /// One that gives instances time to end their flows, which others do not.
    pub(crate) async fn with_grace(root_url: String, drain_secs: f64) -> Self {
        let mut cluster = Self::new(root_url);
        cluster.drain_secs = drain_secs;
        Self::launch(cluster).await
    }

    pub(crate) async fn with_broker(root_url: String, mqtt_port: u16) -> Self {
        let mut cluster = Self::new(root_url);
        cluster.mqtt_url = Some(format!("mqtt://127.0.0.1:{mqtt_port}"));
        cluster.mqtt_port = mqtt_port;
        Self::launch(cluster).await
    }

    fn new(root_url: String) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            root_url,
            mqtt_url: None,
            silence_secs: 5.0,
            drain_secs: 0.0,
            http_port: free_port(),
            mqtt_port: free_port(),
            child: None,
        }
    }

    async fn launch(mut self) -> Self {
        self.start_again().await;
        self
    }

    /// Starts the daemon where it stopped.
    pub(crate) async fn start_again(&mut self) {
        assert!(self.child.is_none());
        self.child = Some(self.command().spawn().unwrap());
        let health = self.url("/health");
        let client = http_client();
        eventually_so("the daemon is up", async || {
            let answer = client.get(&health).send().await;
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "the daemon ended");
            answer.ok().filter(|response| response.status().is_success())
        })
        .await;
    }

    fn command(&self) -> Command {
        self.command_at(self.folder.path(), self.http_port, self.mqtt_port)
    }

    pub(crate) fn command_at(&self, folder: &Path, http_port: u16, mqtt_port: u16) -> Command {
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_xylem-cluster"));
        command
            .args(["--name", "edge", "--location", "here"])
            .args(["--worker-silence-secs", &self.silence_secs.to_string()])
            .args(["--drain-grace-secs", &self.drain_secs.to_string()])
            .args(["--root-url", &self.root_url])
            .args(["--listen", &format!("127.0.0.1:{http_port}")])
            .args(["--mqtt-listen", &format!("127.0.0.1:{mqtt_port}")])
            .arg("--data-dir")
            .arg(folder)
            .env("XYLEM_LOG", "debug,rumqttd=off")
            .stdin(Stdio::null())
            .stderr(log);
        if let Some(url) = &self.mqtt_url {
            command.args(["--mqtt-url", url]);
        }
        command
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.http_port)
    }

    pub(crate) async fn status(&self) -> ClusterStatus {
        http_client()
            .get(self.url("/api/cluster/status"))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap()
    }

    pub(crate) async fn metrics(&self) -> String {
        http_client().get(self.url("/metrics")).send().await.unwrap().text().await.unwrap()
    }

    /// As if the machine lost power.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// As a supervisor does.
    pub(crate) async fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        eventually("the daemon ends", || child.try_wait().unwrap()).await
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ended = child.kill();
            let _ended = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("log of the cluster:\n{}", self.log());
        }
    }
}

/// A port that nobody listens at. Tests in other processes begin elsewhere.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let size = PORTS.end - PORTS.start;
    let first = u16::try_from(std::process::id() % u32::from(size)).unwrap();
    loop {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + (u32::from(first) * 37 + u32::from(offset)) as u16 % size;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// In a build of the whole workspace the client can speak TLS, because the node engine needs it,
/// and then wants to know with which cryptography.
pub(crate) fn http_client() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::new()
}

//! A net manager as an engine sees it. It attaches nothing, but looks at what it is given.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use tokio::{net::UnixListener, task::JoinHandle};
use xylem_types::net_api::{
    DeployRequest, DeployResponse, Refusal, RegisterRequest, UndeployRequest,
};

pub(crate) struct TestNet {
    socket: PathBuf,
    server: Option<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) registrations: Vec<RegisterRequest>,
    pub(crate) attached: Vec<Attached>,
    pub(crate) detached: Vec<String>,
    /// Refuse to attach, with this reason.
    pub(crate) refuse: Option<String>,
}

/// An instance at the moment it was to be attached.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub(crate) request: DeployRequest,
    /// First argument of the process.
    pub(crate) command: String,
    pub(crate) own_namespace: bool,
}

impl TestNet {
    /// Not listening yet.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { socket: folder.join("net.sock"), server: None, seen: Arc::default() }
    }

    pub(crate) fn open(&mut self) {
        let _absent = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let router = Router::new()
            .route("/register", post(register))
            .route("/container/deploy", post(deploy))
            .route("/container/undeploy", post(undeploy))
            .with_state(self.seen.clone());
        self.server =
            Some(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
    }

    pub(crate) async fn close(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        let _aborted = server.await;
        std::fs::remove_file(&self.socket).unwrap();
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn look<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap())
    }
}

impl Drop for TestNet {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

type Shared = Arc<Mutex<Seen>>;

async fn register(State(seen): State<Shared>, Json(request): Json<RegisterRequest>) {
    seen.lock().unwrap().registrations.push(request);
}

async fn deploy(
    State(seen): State<Shared>,
    Json(request): Json<DeployRequest>,
) -> Result<Json<DeployResponse>, (StatusCode, Json<Refusal>)> {
    let proc = PathBuf::from(format!("/proc/{}", request.pid));
    let command = std::fs::read_to_string(proc.join("cmdline")).unwrap_or_default();
    let namespace = |path: PathBuf| std::fs::read_link(path.join("ns/net")).ok();
    let own_namespace = namespace(proc) != namespace("/proc/self".into());
    let mut seen = seen.lock().unwrap();
    if let Some(message) = seen.refuse.clone() {
        return Err((StatusCode::CONFLICT, Json(Refusal { message })));
    }
    let command = command.split('\0').next().unwrap_or_default().to_owned();
    let service_name = request.service_name.clone();
    seen.attached.push(Attached { request, command, own_namespace });
    let ns_address = std::net::Ipv4Addr::new(10, 18, 0, seen.attached.len() as u8);
    Ok(Json(DeployResponse { service_name, ns_address, ns_addressv6: None }))
}

async fn undeploy(State(seen): State<Shared>, Json(request): Json<UndeployRequest>) {
    let name = format!("{}.{}", request.service_name, request.instance_number);
    seen.lock().unwrap().detached.push(name);
}

//! The Net API: HTTP on a Unix socket.
//!
//! | Request | Body → reply |
//! |---|---|
//! | `POST /register` | `RegisterRequest` → 200 |
//! | `POST /container/deploy` | `DeployRequest` → `DeployResponse` |
//! | `POST /container/undeploy` | `UndeployRequest` → 200 |
//! | `GET /status` | → `Status` |
//!
//! Success is always 200, which is all that Oakestra's node engine takes for it.
//! A refusal is a 4xx or 5xx with a [`Refusal`]; 503 says that it may work a moment later.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use xylem_types::net_api::{
    DeployRequest, DeployResponse, Refusal, RegisterRequest, Status, UndeployRequest,
};

use crate::{
    chain::Chain,
    core::{published::PortsRefused, worker::NoLease},
    daemon::{
        command::{Gone, Handle, NotAttached},
        instances::{InstanceError, Instances},
    },
    kernel::{netns::NetnsError, veth::VethError},
};

/// Only root, and whoever the folder lets in, may attach instances.
const SOCKET_MODE: u32 = 0o660;

#[derive(Clone, Debug)]
struct Api {
    daemon: Handle,
    instances: Arc<Instances>,
}

/// Listens on a Unix socket, in place of one that a killed net manager left.
///
/// # Errors
/// The socket cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => return Err(io::Error::other("there is something else, which is no socket")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// Answers requests until `stop`, and those under way to their end.
///
/// # Errors
/// The socket fails.
pub async fn serve(
    listener: UnixListener,
    daemon: Handle,
    instances: Instances,
    stop: CancellationToken,
) -> io::Result<()> {
    let api = Api { daemon, instances: Arc::new(instances) };
    let router = Router::new()
        .route("/register", post(register))
        .route("/container/deploy", post(deploy))
        .route("/container/undeploy", post(undeploy))
        .route("/status", get(status))
        .with_state(api);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn register(
    State(api): State<Api>,
    body: Result<Json<RegisterRequest>, JsonRejection>,
) -> Result<StatusCode, Refused> {
    let Json(request) = body?;
    for (field, value) in
        [("client_id", &request.client_id), ("cluster_address", &request.cluster_address)]
    {
        if value.is_empty() || value.contains(['/', '+', '#']) {
            let message =
                format!("`{field}` is {value:?}: it must name something, without /, + or #");
            return Err(Refused(StatusCode::UNPROCESSABLE_ENTITY, message));
        }
    }
    api.daemon.register(request).await?;
    Ok(StatusCode::OK)
}

async fn deploy(
    State(api): State<Api>,
    body: Result<Json<DeployRequest>, JsonRejection>,
) -> Result<Json<DeployResponse>, Refused> {
    let Json(request) = body?;
    let instances = Arc::clone(&api.instances);
    // A caller who hangs up does not leave half an instance.
    let deployed = tokio::spawn(async move { instances.deploy(&request).await });
    Ok(Json(finished(deployed).await??))
}

async fn undeploy(
    State(api): State<Api>,
    body: Result<Json<UndeployRequest>, JsonRejection>,
) -> Result<StatusCode, Refused> {
    let Json(request) = body?;
    let instances = Arc::clone(&api.instances);
    let undeployed = tokio::spawn(async move { instances.undeploy(&request).await });
    finished(undeployed).await??;
    Ok(StatusCode::OK)
}

async fn status(State(api): State<Api>) -> Result<Json<Status>, Refused> {
    Ok(Json(api.daemon.status().await?))
}

async fn finished<T>(task: tokio::task::JoinHandle<T>) -> Result<T, Refused> {
    task.await.map_err(|error| Refused(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// A refusal with its reason.
#[derive(Debug)]
struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        warn!(status = status.as_u16(), message, "a request is refused");
        (status, Json(Refusal { message })).into_response()
    }
}

impl From<JsonRejection> for Refused {
    fn from(rejection: JsonRejection) -> Self {
        Self(rejection.status(), rejection.body_text())
    }
}

impl From<Gone> for Refused {
    fn from(gone: Gone) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, gone.to_string())
    }
}

impl From<InstanceError> for Refused {
    fn from(error: InstanceError) -> Self {
        Self(status_of(&error), Chain(&error).to_string())
    }
}

fn status_of(error: &InstanceError) -> StatusCode {
    let of_namespace = |error: &NetnsError| match error {
        NetnsError::NoProcess { .. } | NetnsError::HostNamespace { .. } => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    match error {
        InstanceError::Name(_) => StatusCode::UNPROCESSABLE_ENTITY,
        InstanceError::Ports(refused) | InstanceError::NotAttached(NotAttached::Ports(refused)) => {
            match refused {
                PortsRefused::Invalid(_) | PortsRefused::Tunnel { .. } => {
                    StatusCode::UNPROCESSABLE_ENTITY
                }
                PortsRefused::Taken { .. } | PortsRefused::InUse { .. } => StatusCode::CONFLICT,
                PortsRefused::Refused { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            }
        }
        InstanceError::NoLease(NoLease::NoSubnet)
        | InstanceError::Gone(_)
        | InstanceError::NotAttached(NotAttached::Gone(_) | NotAttached::NotWritten) => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        InstanceError::NoLease(NoLease::Full(_) | NoLease::Refused(_)) => StatusCode::CONFLICT,
        InstanceError::NotAttached(NotAttached::Full(_)) => StatusCode::INSUFFICIENT_STORAGE,
        InstanceError::Netns(error) | InstanceError::Veth(VethError::Netns(error)) => {
            of_namespace(error)
        }
        InstanceError::Veth(VethError::Taken { .. }) => StatusCode::CONFLICT,
        InstanceError::Veth(_) | InstanceError::Netlink(_) | InstanceError::Bpf(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

//! What the cluster serves over HTTP: registration, its status, its metrics.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    extract::{ConnectInfo, State, rejection::JsonRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use tokio::sync::{mpsc, oneshot, watch};
use xylem_types::{
    net_api::Refusal,
    node::{ClusterStatus, Node, Registered},
};

use crate::{daemon::Input, metrics, summary::Summary};

#[derive(Clone, Debug)]
pub(crate) struct Http {
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) summary: watch::Receiver<Summary>,
    pub(crate) mqtt_port: u16,
}

pub(crate) fn router(http: Http) -> Router {
    Router::new()
        .route("/api/node/register", post(register))
        .route("/api/cluster/status", get(status))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .with_state(http)
}

/// 400 when the body is no node or the node no identity, 503 when the cluster is ending.
async fn register(
    State(http): State<Http>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    body: Result<Json<Node>, JsonRejection>,
) -> Response {
    let Json(node) = match body {
        Ok(node) => node,
        Err(rejection) => return refuse(StatusCode::BAD_REQUEST, rejection.body_text()),
    };
    let (reply, answer) = oneshot::channel();
    let peer_ip = peer.ip().to_canonical();
    let input = Input::Register { node: Box::new(node), peer_ip, reply };
    if http.inputs.send(input).await.is_err() {
        return ending();
    }
    match answer.await {
        Ok(Ok(id)) => {
            Json(Registered { id, mqtt_broker_port: http.mqtt_port.to_string() }).into_response()
        }
        Ok(Err(refused)) => refuse(StatusCode::BAD_REQUEST, refused.to_string()),
        Err(_) => ending(),
    }
}

async fn status(State(http): State<Http>) -> Json<ClusterStatus> {
    let summary = http.summary.borrow();
    Json(ClusterStatus {
        cluster_name: summary.cluster_name.clone(),
        cluster_id: summary.cluster_id.clone(),
        connected_to_root: summary.connected_to_root,
    })
}

/// 200 while workers can be reached, 503 else. The root is not needed for that.
async fn health(State(http): State<Http>) -> Response {
    if http.summary.borrow().connected_to_broker {
        StatusCode::OK.into_response()
    } else {
        refuse(StatusCode::SERVICE_UNAVAILABLE, "no connection to the broker".to_owned())
    }
}

async fn metrics(State(http): State<Http>) -> Response {
    let text = metrics::encode(&http.summary.borrow());
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

fn ending() -> Response {
    let message = "the cluster is ending; try again when it is back".to_owned();
    refuse(StatusCode::SERVICE_UNAVAILABLE, message)
}

fn refuse(status: StatusCode, message: String) -> Response {
    (status, Json(Refusal { message })).into_response()
}

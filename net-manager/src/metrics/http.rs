//! `GET /metrics`, over HTTP on an address of the node.

use std::{io, path::PathBuf, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    net::TcpListener,
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    encode,
    latency::Latencies,
    read::{self, ReadError},
};
use crate::{
    chain::Chain,
    daemon::command::{Gone, Handle},
};

/// Who asks more often than this gets the answer before.
const AGE: Duration = Duration::from_millis(500);

/// What is shown, and where it comes from.
#[derive(Debug)]
pub struct Metrics {
    pub daemon: Handle,
    pub latencies: Latencies,
    pub bpffs_root: PathBuf,
    /// Ids and names of the programs in use.
    pub programs: Vec<(u32, String)>,
}

#[derive(Debug)]
struct Shown {
    metrics: Metrics,
    /// Held while the maps are read, so that they are read once at a time.
    last: Mutex<Option<(Instant, String)>>,
}

#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Serves until `stop`.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    stop: CancellationToken,
) -> io::Result<()> {
    let shown = Arc::new(Shown { metrics, last: Mutex::default() });
    let router = Router::new().route("/metrics", get(show)).with_state(shown);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn show(State(shown): State<Arc<Shown>>) -> Response {
    match shown.text().await {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            let reason = Chain(&error).to_string();
            warn!(error = reason, "no metrics");
            (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
        }
    }
}

impl Shown {
    async fn text(&self) -> Result<String, Unreadable> {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < AGE
        {
            return Ok(text.clone());
        }
        let observed = self.metrics.daemon.observe().await?;
        let (root, programs) = (self.metrics.bpffs_root.clone(), self.metrics.programs.clone());
        let latencies = self.metrics.latencies.clone();
        // Ten thousand services are many system calls.
        let text = tokio::task::spawn_blocking(move || {
            Ok::<_, ReadError>(encode(&read::read(&root, &programs, observed)?, &latencies))
        });
        let text = text.await.map_err(ReadError::from)??;
        *last = Some((Instant::now(), text.clone()));
        Ok(text)
    }
}

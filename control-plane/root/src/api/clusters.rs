//! Clusters over HTTP.

use axum::{Json, extract::State};
use xylem_types::rest::Cluster;

use super::error::{ApiError, User};
use crate::engine::Engine;

/// `GET /api/clusters/`: all that have ever connected.
pub(crate) async fn list(
    State(engine): State<Engine>,
    _user: User,
) -> Result<Json<Vec<Cluster>>, ApiError> {
    Ok(Json(engine.ask(|state, now| Ok(state.clusters_view(false, now))).await?))
}

/// `GET /api/clusters/active`
pub(crate) async fn list_active(
    State(engine): State<Engine>,
    _user: User,
) -> Result<Json<Vec<Cluster>>, ApiError> {
    Ok(Json(engine.ask(|state, now| Ok(state.clusters_view(true, now))).await?))
}

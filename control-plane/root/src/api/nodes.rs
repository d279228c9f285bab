//! Workers over HTTP, ours.

use axum::{
    Json,
    extract::{Path, State},
};
use xylem_types::rest::{AvailabilityChange, Node};

use super::error::{ApiError, Body, User};
use crate::engine::Engine;

/// `GET /api/nodes/`: the workers of all active clusters.
pub(crate) async fn list(
    State(engine): State<Engine>,
    _user: User,
) -> Result<Json<Vec<Node>>, ApiError> {
    Ok(Json(engine.ask(|state, now| Ok(state.nodes_view(now))).await?))
}

/// `PUT /api/nodes/{id}/availability`: whether the worker takes instances, by an Admin. 404 for a
/// worker that no cluster has ever reported.
pub(crate) async fn set_availability(
    State(engine): State<Engine>,
    user: User,
    Path(id): Path<String>,
    Body(change): Body<AvailabilityChange>,
) -> Result<Json<Node>, ApiError> {
    let node = engine
        .ask(move |state, now| state.set_availability(&user.caller, &id, &change, now))
        .await?;
    Ok(Json(node))
}

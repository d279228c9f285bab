//! For whoever watches the root.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};
use xylem_types::rest::Health;

use super::{Api, error::ApiError};

/// `GET /health`: 200 while the state can be read, 503 when the root is about to end.
pub(crate) async fn health(State(api): State<Api>) -> Result<Json<Health>, ApiError> {
    api.engine.ask(|_, _| Ok(())).await?;
    Ok(Json(Health { status: "ok".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }))
}

/// `GET /metrics`, in OpenMetrics text.
pub(crate) async fn metrics(State(api): State<Api>) -> Result<impl IntoResponse, ApiError> {
    let census = api.engine.ask(|state, now| Ok(state.census(now))).await?;
    let text = api
        .metrics
        .render(&census)
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text))
}

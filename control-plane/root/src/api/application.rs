//! Applications over HTTP.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use xylem_types::rest::{Application, ApplicationUpdate, Done};

use super::error::{ApiError, Body, SlaBody, User};
use crate::engine::Engine;

/// `POST /api/application/`: every application of the SLA, or none. Answers with all of the
/// user's. 422 invalid, 409 a name is taken.
pub(crate) async fn create(
    State(engine): State<Engine>,
    user: User,
    SlaBody(sla): SlaBody,
) -> Result<Json<Vec<Application>>, ApiError> {
    let applications =
        engine.ask(move |state, now| state.create_applications(&user.caller, &sla, now)).await?;
    Ok(Json(applications))
}

/// `GET /api/application/{id}`
pub(crate) async fn get(
    State(engine): State<Engine>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<Application>, ApiError> {
    let found = engine.ask(move |state, _| state.application(&user.caller, &id).cloned()).await?;
    Ok(Json(found))
}

/// `PUT /api/application/{id}`
pub(crate) async fn update(
    State(engine): State<Engine>,
    user: User,
    Path(id): Path<String>,
    Body(update): Body<ApplicationUpdate>,
) -> Result<Json<Application>, ApiError> {
    let updated =
        engine.ask(move |state, _| state.update_application(&user.caller, &id, update)).await?;
    Ok(Json(updated))
}

/// `DELETE /api/application/{id}`: with its services and their instances.
pub(crate) async fn delete(
    State(engine): State<Engine>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<Done>, ApiError> {
    engine.ask(move |state, now| state.delete_application(&user.caller, &id, now)).await?;
    Ok(Json(Done::ok()))
}

/// `GET /api/applications/`: the user's own; for an Admin all.
pub(crate) async fn list(
    State(engine): State<Engine>,
    user: User,
) -> Result<Json<Vec<Application>>, ApiError> {
    Ok(Json(engine.ask(move |state, _| Ok(state.applications(&user.caller))).await?))
}

/// `GET /api/applications/{user_id}`: of the user itself, or by an Admin.
pub(crate) async fn list_of_user(
    State(engine): State<Engine>,
    user: User,
    Path(user_id): Path<String>,
) -> Result<Json<Vec<Application>>, ApiError> {
    if !user.caller.may_use(&user_id) {
        return Err(ApiError::new(StatusCode::FORBIDDEN, "these are another user's applications"));
    }
    let mut applications = engine.ask(move |state, _| Ok(state.applications(&user.caller))).await?;
    applications.retain(|application| application.user_id == user_id);
    Ok(Json(applications))
}

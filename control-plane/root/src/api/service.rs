//! Services and their instances over HTTP.

use axum::{
    Json,
    extract::{Path, State},
};
use xylem_types::{
    job::Job,
    rest::{Done, InstanceCreated, ServiceCreated, ServicesCreated},
};

use super::error::{ApiError, SlaBody, User};
use crate::{core::refusal::Refusal, engine::Engine};

/// `POST /api/service/`: adds the services of the SLA's one application to the one that its
/// `applicationID` names.
pub(crate) async fn create(
    State(engine): State<Engine>,
    user: User,
    SlaBody(sla): SlaBody,
) -> Result<Json<ServicesCreated>, ApiError> {
    let created = engine.ask(move |state, now| state.add_services(&user.caller, &sla, now)).await?;
    Ok(Json(ServicesCreated {
        job_id: created.last().map(|job| job.id.clone()).unwrap_or_default(),
        deployed_services: created
            .into_iter()
            .map(|job| ServiceCreated {
                service_name: job.service_name,
                status: 200,
                microservice_id: job.id,
            })
            .collect(),
        failed_services: Vec::new(),
    }))
}

/// `GET /api/service/{id}`: with its instances.
pub(crate) async fn get(
    State(engine): State<Engine>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<Job>, ApiError> {
    Ok(Json(engine.ask(move |state, _| state.service_view(&user.caller, &id)).await?))
}

/// `DELETE /api/service/{id}`: with its instances.
pub(crate) async fn delete(
    State(engine): State<Engine>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<Done>, ApiError> {
    engine.ask(move |state, now| state.delete_service(&user.caller, &id, now)).await?;
    Ok(Json(Done::ok()))
}

/// `GET /api/services/`: the user's own; for an Admin all.
pub(crate) async fn list(
    State(engine): State<Engine>,
    user: User,
) -> Result<Json<Vec<Job>>, ApiError> {
    Ok(Json(engine.ask(move |state, _| state.services_view(&user.caller, None)).await?))
}

/// `GET /api/services/{application_id}`
pub(crate) async fn list_of_application(
    State(engine): State<Engine>,
    user: User,
    Path(application_id): Path<String>,
) -> Result<Json<Vec<Job>>, ApiError> {
    let services = engine
        .ask(move |state, _| state.services_view(&user.caller, Some(&application_id)))
        .await?;
    Ok(Json(services))
}

/// `POST /api/service/{id}/instance`: one more. Where it runs, and whether it does, is in the
/// service's `instance_list` afterwards.
pub(crate) async fn scale_up(
    State(engine): State<Engine>,
    user: User,
    Path(id): Path<String>,
) -> Result<Json<InstanceCreated>, ApiError> {
    let instance_number =
        engine.ask(move |state, now| state.deploy(&user.caller, &id, now)).await?;
    Ok(Json(InstanceCreated { message: "ok".to_owned(), instance_number }))
}

/// `DELETE /api/service/{id}/instance/{number}`: that one, or all with -1. It stays in the
/// service's `instance_list` until its cluster has confirmed that it is gone.
pub(crate) async fn scale_down(
    State(engine): State<Engine>,
    user: User,
    Path((id, number)): Path<(String, String)>,
) -> Result<Json<Done>, ApiError> {
    let number = match number.as_str() {
        "-1" => None,
        text => Some(text.parse().map_err(|_| {
            Refusal::field("instance", "must be the number of an instance, or -1 for all")
        })?),
    };
    engine.ask(move |state, now| state.scale_down(&user.caller, &id, number, now)).await?;
    Ok(Json(Done::ok()))
}

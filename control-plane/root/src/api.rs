//! The root's HTTP API, in the shapes of Oakestra's system manager, and its session endpoint.
//!
//! Every path works with and without a trailing slash. All but login, health and metrics take a
//! bearer token; so do the lists of clusters, which upstream shows to everybody.

mod application;
mod clusters;
mod error;
mod login;
mod nodes;
mod observe;
mod service;

use axum::{
    Router,
    extract::{DefaultBodyLimit, FromRef},
    routing::{MethodRouter, delete, get, post, put},
};
use tokio_util::sync::CancellationToken;
use xylem_types::session::SESSION_PATH;

use crate::{auth::Auth, engine::Engine, metrics::Metrics, session};

/// Largest request body: an SLA with some thousand services.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// What handlers work with.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) engine: Engine,
    pub(crate) auth: Auth,
    pub(crate) metrics: Metrics,
    pub(crate) timing: session::Timing,
    /// Sessions end when it is cancelled.
    pub(crate) shutdown: CancellationToken,
}

impl FromRef<Api> for Engine {
    fn from_ref(api: &Api) -> Self {
        api.engine.clone()
    }
}

impl FromRef<Api> for Auth {
    fn from_ref(api: &Api) -> Self {
        api.auth.clone()
    }
}

pub(crate) fn router(api: Api) -> Router {
    let routes: [(&str, MethodRouter<Api>); 18] = [
        ("/api/auth/login", post(login::login)),
        ("/api/auth/refresh", post(login::refresh)),
        ("/api/auth/register", post(login::register)),
        ("/api/user/{name}", post(login::change_password)),
        ("/api/application", post(application::create)),
        (
            "/api/application/{id}",
            get(application::get).put(application::update).delete(application::delete),
        ),
        ("/api/applications", get(application::list)),
        ("/api/applications/{user_id}", get(application::list_of_user)),
        ("/api/service", post(service::create)),
        ("/api/service/{id}", get(service::get).delete(service::delete)),
        ("/api/service/{id}/instance", post(service::scale_up)),
        ("/api/service/{id}/instance/{number}", delete(service::scale_down)),
        ("/api/services", get(service::list)),
        ("/api/services/{application_id}", get(service::list_of_application)),
        ("/api/clusters", get(clusters::list)),
        ("/api/clusters/active", get(clusters::list_active)),
        ("/api/nodes", get(nodes::list)),
        ("/api/nodes/{id}/availability", put(nodes::set_availability)),
    ];
    let mut router = Router::new()
        .route(SESSION_PATH, get(session::accept))
        .route("/health", get(observe::health))
        .route("/metrics", get(observe::metrics));
    for (path, methods) in routes {
        router = router.route(path, methods.clone()).route(&format!("{path}/"), methods);
    }
    router.fallback(error::no_such_path).layer(DefaultBodyLimit::max(BODY_LIMIT)).with_state(api)
}

//! The client against a server on loopback that says what a root can say.

use std::sync::{Arc, Mutex};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header::AUTHORIZATION},
    response::{Html, IntoResponse, Response},
    routing::{delete, get, post},
};
use xylem_types::{
    rest::{Cluster, Done},
    sla::FieldError,
};

use super::*;

/// What the server saw and how it answers.
#[derive(Default)]
struct Root {
    /// The only token that is valid.
    valid_token: String,
    refresh_is_valid: bool,
    requests: Vec<String>,
}

type Shared = Arc<Mutex<Root>>;

fn bearer(headers: &HeaderMap) -> String {
    let header = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap());
    header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().to_owned()
}

fn refusal(status: StatusCode, message: &str, errors: Vec<FieldError>) -> Response {
    (status, Json(Refusal { message: message.to_owned(), errors })).into_response()
}

async fn log_in(State(root): State<Shared>, Json(login): Json<LoginRequest>) -> Response {
    if login.password != "right" {
        return refusal(StatusCode::UNAUTHORIZED, "the user or the password is wrong", vec![]);
    }
    let token = root.lock().unwrap().valid_token.clone();
    Json(LoginResponse { token, refresh_token: "refresh".to_owned() }).into_response()
}

async fn refresh(State(root): State<Shared>, headers: HeaderMap) -> Response {
    let root = root.lock().unwrap();
    if bearer(&headers) == "refresh" && root.refresh_is_valid {
        Json(RefreshResponse { token: root.valid_token.clone() }).into_response()
    } else {
        refusal(StatusCode::UNAUTHORIZED, "the token has expired", vec![])
    }
}

async fn clusters(State(root): State<Shared>, headers: HeaderMap) -> Response {
    let mut root = root.lock().unwrap();
    let token = bearer(&headers);
    root.requests.push(token.clone());
    if token != root.valid_token {
        return refusal(StatusCode::UNAUTHORIZED, "the token has expired", vec![]);
    }
    Json([Cluster { cluster_name: "munich".to_owned(), ..Cluster::default() }]).into_response()
}

async fn application() -> Response {
    let errors = vec![
        FieldError::new("applications[0].microservices[0].memory", "must not be negative"),
        FieldError::new("sla_version", "is required"),
    ];
    let message = format!("the request is not valid: {}; {}", errors[0], errors[1]);
    refusal(StatusCode::UNPROCESSABLE_ENTITY, &message, errors)
}

/// A server on a port of its own, and a client that has logged in there with `token`.
struct Setup {
    root: Shared,
    client: Client,
    _folder: tempfile::TempDir,
}

impl Setup {
    async fn with_token(token: &str) -> Self {
        let root = Shared::default();
        root.lock().unwrap().valid_token = "new".to_owned();
        let router = Router::new()
            .route("/api/auth/login", post(log_in))
            .route("/api/auth/refresh", post(refresh))
            .route("/api/clusters/", get(clusters))
            .route("/api/application/", post(application))
            .route(
                "/api/application/{id}",
                delete(|| async { Json(Done { message: "ok".into() }) }),
            )
            .route("/html", get(|| async { Html("<h1>Not\u{1b}[2J a root</h1>") }))
            .fallback(|| async { (StatusCode::NOT_FOUND, "nothing\r\nhere") })
            .with_state(root.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url: RootUrl = listener.local_addr().unwrap().to_string().parse().unwrap();
        // Ends with the test's runtime.
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });

        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::load(Some(folder.path().join("config.toml"))).unwrap();
        let session = Session {
            user: "Admin".to_owned(),
            token: token.to_owned(),
            refresh_token: "refresh".to_owned(),
        };
        config.log_in(&url, session).unwrap();
        Self { root, client: Client::new(config, None).unwrap(), _folder: folder }
    }

    /// The token in the configuration file.
    fn kept_token(&self) -> String {
        let config = Config::load(Some(self.client.config().path().to_owned())).unwrap();
        config.session(self.client.root()).unwrap().token.clone()
    }
}

#[tokio::test]
async fn a_login_is_kept_and_a_refused_one_says_why() {
    let mut setup = Setup::with_token("old").await;
    let mut login = LoginRequest {
        username: "Admin".to_owned(),
        password: "wrong".to_owned(),
        organization_name: None,
    };
    let error = setup.client.log_in(&login).await.unwrap_err();
    assert_eq!(error.to_string(), "the user or the password is wrong");
    assert_eq!(setup.kept_token(), "old");

    login.password = "right".to_owned();
    setup.client.log_in(&login).await.unwrap();
    assert_eq!(setup.kept_token(), "new");
}

#[tokio::test]
async fn an_expired_token_is_renewed_once_and_kept() {
    let mut setup = Setup::with_token("old").await;
    setup.root.lock().unwrap().refresh_is_valid = true;
    let clusters: Vec<Cluster> = setup.client.get(&["api", "clusters", ""]).await.unwrap();
    assert_eq!(clusters[0].cluster_name, "munich");
    assert_eq!(setup.kept_token(), "new");

    let _: Vec<Cluster> = setup.client.get(&["api", "clusters", ""]).await.unwrap();
    assert_eq!(setup.root.lock().unwrap().requests, ["old", "new", "new"]);
}

#[tokio::test]
async fn a_session_that_cannot_be_renewed_says_to_log_in() {
    let mut setup = Setup::with_token("old").await;
    let error = setup.client.get::<Vec<Cluster>>(&["api", "clusters", ""]).await.unwrap_err();
    assert!(matches!(error, ClientError::SessionExpired { .. }), "{error}");
    assert!(error.to_string().contains("xylem login --root http://127.0.0.1:"), "{error}");
    assert_eq!(setup.kept_token(), "old");
}

#[tokio::test]
async fn a_refused_descriptor_names_every_field() {
    let mut setup = Setup::with_token("new").await;
    let answer = setup.client.post::<Done>(&["api", "application", ""], Some(b"{}".to_vec()));
    assert_eq!(
        answer.await.unwrap_err().to_string(),
        "the request is not valid\
         \n  applications[0].microservices[0].memory: must not be negative\
         \n  sla_version: is required"
    );
    setup.client.delete(&["api", "application", "a1"]).await.unwrap();
}

#[tokio::test]
async fn answers_of_something_else_are_recognised_and_harmless() {
    let mut setup = Setup::with_token("new").await;
    let error = setup.client.get::<Done>(&["html"]).await.unwrap_err();
    assert!(matches!(error, ClientError::NotUnderstood { .. }), "{error}");
    assert!(error.to_string().contains("is --root right?"), "{error}");

    let error = setup.client.get::<Done>(&["nowhere"]).await.unwrap_err();
    assert!(error.is_not_found());
    assert!(error.to_string().ends_with("/nowhere: nothing  here"), "{error}");
}

#[tokio::test]
async fn a_root_that_is_not_there_is_worth_another_try() {
    let port_of_nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let Setup { client, _folder, .. } = Setup::with_token("new").await;
    let mut config = client.config;
    let url: RootUrl = port_of_nobody.to_string().parse().unwrap();
    let session = config.session(&client.root).unwrap().clone();
    config.log_in(&url, session).unwrap();

    let mut client = Client::new(config, Some(url)).unwrap();
    let error = client.get::<Done>(&["api", "clusters", ""]).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.is_transient());
}

#[tokio::test]
async fn without_a_session_nothing_is_sent() {
    let setup = Setup::with_token("new").await;
    let url = setup.client.root().clone();
    let folder = tempfile::tempdir().unwrap();
    let config = Config::load(Some(folder.path().join("config.toml"))).unwrap();
    let mut client = Client::new(config, Some(url)).unwrap();
    let error = client.get::<Vec<Cluster>>(&["api", "clusters", ""]).await.unwrap_err();
    assert!(matches!(error, ClientError::NotLoggedIn { .. }), "{error}");
    assert!(setup.root.lock().unwrap().requests.is_empty());
}

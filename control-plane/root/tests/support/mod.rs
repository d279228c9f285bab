//! A root in a folder of its own, its REST API called in-process, and clusters that speak the
//! session protocol over real sockets.

#![allow(dead_code, unused_imports, reason = "each suite uses a part of it")]

mod cluster;

use std::{net::SocketAddr, path::Path, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Method, Request, StatusCode, header},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;
use xylem_root::{Config, Root, RootError};
use xylem_store::{Schema, Store, StoreError};
use xylem_types::job::{Job, JobInstance};

pub(crate) use cluster::{FakeCluster, observed, peer, room};

/// Nothing that is waited for takes longer, unless it never happens.
const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const PASSWORD: &str = "for tests";

pub(crate) struct TestRoot {
    router: Router,
    pub(crate) address: SocketAddr,
    token: String,
    shutdown: DropGuard,
    serving: JoinHandle<Result<(), RootError>>,
    folder: tempfile::TempDir,
}

impl TestRoot {
    pub(crate) async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), "127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_in(folder: tempfile::TempDir, listen: SocketAddr) -> Self {
        let config = config(folder.path(), listen);
        // The one before it in this folder gives the store back in a thread of its own.
        let root = wait_for("the store to be free", async || Root::open(&config).await.ok()).await;
        let router = root.router();
        let listener =
            wait_for("the port to be free", async || TcpListener::bind(listen).await.ok()).await;
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(root.serve(listener, shutdown.clone()));
        let shutdown = shutdown.drop_guard();
        let mut this = Self { router, address, token: String::new(), shutdown, serving, folder };
        this.token = this.login("Admin", PASSWORD).await;
        this
    }

    /// Ends and starts again, with the same store and address.
    pub(crate) async fn restart(self) -> Self {
        self.restart_after(|_| Ok(())).await
    }

    /// As [`Self::restart`], with the store changed in between.
    pub(crate) async fn restart_after(
        self,
        change: impl FnOnce(&Store) -> Result<(), StoreError>,
    ) -> Self {
        let Self { router, address, folder, shutdown, serving, .. } = self;
        drop((shutdown, router));
        serving.await.unwrap().unwrap();
        let path = folder.path().join("root.redb");
        let store = wait_for("the store to be free", async || {
            Store::open(&path, Schema::new("root", 1)).ok()
        })
        .await;
        change(&store).unwrap();
        drop(store);
        Self::start_in(folder, address).await
    }

    pub(crate) async fn login(&self, name: &str, password: &str) -> String {
        let body = json!({ "username": name, "password": password });
        let (status, answer) = self.call_as("", Method::POST, "/api/auth/login", Some(body)).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }

    /// A call with the Admin's token.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        self.call_as(&self.token, method, path, body).await
    }

    pub(crate) async fn call_as(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = Request::builder().method(method).uri(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = axum::body::to_bytes(response.into_body(), 10 << 20).await.unwrap();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        (status, value)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.call(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "GET {path}: {answer}");
        answer
    }

    pub(crate) async fn post(&self, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(Method::POST, path, body).await;
        assert_eq!(status, StatusCode::OK, "POST {path}: {answer}");
        answer
    }

    pub(crate) async fn delete(&self, path: &str) {
        let (status, answer) = self.call(Method::DELETE, path, None).await;
        assert_eq!(status, StatusCode::OK, "DELETE {path}: {answer}");
    }

    /// Makes the application and returns the ids of its services.
    pub(crate) async fn create(&self, sla: Value) -> Vec<String> {
        let name = sla["applications"][0]["application_name"].clone();
        let all = self.post("/api/application/", Some(sla)).await;
        let made = all
            .as_array()
            .unwrap()
            .iter()
            .find(|application| application["application_name"] == name)
            .unwrap();
        let ids = made["microservices"].as_array().unwrap();
        ids.iter().map(|id| id.as_str().unwrap().to_owned()).collect()
    }

    /// Adds an instance and returns its number.
    pub(crate) async fn scale_up(&self, service: &str) -> u32 {
        let answer = self.post(&format!("/api/service/{service}/instance"), None).await;
        answer["instance_number"].as_u64().unwrap().try_into().unwrap()
    }

    pub(crate) async fn service(&self, id: &str) -> Job {
        serde_json::from_value(self.get(&format!("/api/service/{id}")).await).unwrap()
    }

    pub(crate) async fn instance(&self, service: &str, number: u32) -> JobInstance {
        let job = self.service(service).await;
        job.instance_list.into_iter().find(|i| i.instance_number == number).unwrap()
    }

    /// Waits until the instance is as `wanted` says.
    pub(crate) async fn instance_is(
        &self,
        service: &str,
        number: u32,
        what: &str,
        wanted: impl Fn(&JobInstance) -> bool,
    ) -> JobInstance {
        let mut last = None;
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let instance = self.instance(service, number).await;
            if wanted(&instance) {
                return instance;
            }
            last = Some(instance);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("waited in vain for {what}; the instance is {last:#?}");
    }
}

pub(crate) fn config(folder: &Path, listen: SocketAddr) -> Config {
    Config {
        listen,
        data_dir: folder.to_owned(),
        cluster_stale_after: Duration::from_secs(15),
        admin_password: Some(PASSWORD.to_owned()),
    }
}

/// Tries until there is something.
pub(crate) async fn wait_for<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(found) = attempt().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain for {what}");
}

/// An SLA with one application and these services, each taking one CPU and 100 MB.
pub(crate) fn sla(application: &str, services: &[&str]) -> Value {
    let services: Vec<_> = services
        .iter()
        .map(|name| {
            json!({
                "microserviceID": "",
                "microservice_name": name,
                "microservice_namespace": "test",
                "virtualization": "container",
                "code": "docker.io/library/nginx:latest",
                "cmd": ["nginx"],
                "memory": 100,
                "vcpus": 1,
                "environment": ["A=b"],
            })
        })
        .collect();
    json!({
        "sla_version": "v2.0",
        "customerID": "Admin",
        "applications": [{
            "applicationID": "",
            "application_name": application,
            "application_namespace": "test",
            "application_desc": "for tests",
            "microservices": services,
        }],
    })
}

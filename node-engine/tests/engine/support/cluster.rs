//! A cluster as a worker sees it: it takes registrations, sends commands and hears reports.

use std::sync::{Arc, Mutex};

use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use rumqttc::{AsyncClient, Event, MqttOptions, Packet, QoS};
use serde::Serialize;
use tokio::{net::TcpListener, task::JoinHandle};
use xylem_types::{
    instance::InstanceStatus,
    mqtt::{DeleteCommand, DeployCommand, InstanceReport, InstanceResources, topic},
    node::{Node, Registered},
};

use super::{broker::TestBroker, eventually};

pub(crate) struct TestCluster {
    pub(crate) broker: TestBroker,
    port: u16,
    server: Option<JoinHandle<()>>,
    listener: JoinHandle<()>,
    client: AsyncClient,
    heard: Arc<Mutex<Heard>>,
}

/// Everything that came in, in order.
#[derive(Default)]
struct Heard {
    registrations: Vec<Node>,
    reports: Vec<InstanceReport>,
    resources: Vec<InstanceResources>,
    information: Vec<Node>,
}

impl TestCluster {
    pub(crate) async fn start() -> Self {
        let broker = TestBroker::start().await;
        let heard = Arc::<Mutex<Heard>>::default();
        let mut options = MqttOptions::new("cluster", "127.0.0.1", broker.inner_port());
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 100);
        for topic in [topic::job("+"), topic::jobs_resources("+"), topic::information("+")] {
            client.subscribe(topic, QoS::AtLeastOnce).await.unwrap();
        }
        let (listens, hears) = (Arc::new(Mutex::new(0)), heard.clone());
        let acked = listens.clone();
        let listener = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let mut heard = hears.lock().unwrap();
                        let payload = &publish.payload;
                        if publish.topic.ends_with("/job") {
                            heard.reports.push(serde_json::from_slice(payload).unwrap());
                        } else if publish.topic.ends_with("/jobs/resources") {
                            heard.resources.push(serde_json::from_slice(payload).unwrap());
                        } else {
                            heard.information.push(serde_json::from_slice(payload).unwrap());
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => *acked.lock().unwrap() += 1,
                    Ok(_) => {}
                    Err(error) => panic!("the cluster lost its broker: {error}"),
                }
            }
        });
        eventually("the subscriptions", || (*listens.lock().unwrap() == 3).then_some(())).await;
        let mut cluster = Self { broker, port: 0, server: None, listener, client, heard };
        cluster.open().await;
        cluster
    }

    /// Takes registrations (again, at the same port).
    pub(crate) async fn open(&mut self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.port = listener.local_addr().unwrap().port();
        let state = (self.heard.clone(), self.broker.port());
        let router = Router::new().route("/api/node/register", post(register)).with_state(state);
        self.server =
            Some(tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }));
    }

    /// Takes no registrations.
    pub(crate) async fn close(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        let _aborted = server.await;
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn deploy(&self, command: &DeployCommand) {
        let worker = self.worker_id().await;
        self.send(topic::control_deploy(&worker), command).await;
    }

    pub(crate) async fn delete(&self, command: &DeployCommand) {
        let delete = DeleteCommand {
            job_name: command.job_name.clone(),
            virtualization: command.virtualization.clone(),
            instance_number: command.instance_number,
            generation: Some(command.generation),
        };
        let worker = self.worker_id().await;
        self.send(topic::control_delete(&worker), &delete).await;
    }

    pub(crate) async fn send<T: Serialize>(&self, topic: String, payload: &T) {
        let payload = serde_json::to_vec(payload).unwrap();
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }

    /// Of the only worker, once it hears commands: it subscribes before it reports.
    pub(crate) async fn worker_id(&self) -> String {
        eventually("a worker to report", || self.information().first().map(|node| node.id.clone()))
            .await
    }

    /// Waits for a report of this instance and generation with that status.
    #[track_caller]
    pub(crate) fn reported(
        &self,
        command: &DeployCommand,
        status: InstanceStatus,
    ) -> impl Future<Output = InstanceReport> {
        let what = format!("{status} of {} generation {}", command.job_name, command.generation);
        let wanted = move |report: &InstanceReport| {
            report.sname == command.job_name
                && report.instance == command.instance_number
                && report.generation == command.generation
                && report.status == status
        };
        let caller = std::panic::Location::caller();
        async move {
            let give_up_at = tokio::time::Instant::now() + super::DEADLINE;
            loop {
                let reports = self.reports();
                if let Some(report) = reports.iter().rfind(|report| wanted(report)) {
                    return report.clone();
                }
                assert!(
                    tokio::time::Instant::now() < give_up_at,
                    "{caller}: waited in vain for {what}; heard: {reports:#?}"
                );
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }

    /// The statuses that an instance went through, as reported.
    pub(crate) fn statuses(&self, command: &DeployCommand) -> Vec<InstanceStatus> {
        let mine = |report: &InstanceReport| {
            report.sname == command.job_name && report.instance == command.instance_number
        };
        self.reports().into_iter().filter(mine).map(|report| report.status).collect()
    }

    pub(crate) fn reports(&self) -> Vec<InstanceReport> {
        self.heard.lock().unwrap().reports.clone()
    }

    pub(crate) fn registrations(&self) -> Vec<Node> {
        self.heard.lock().unwrap().registrations.clone()
    }

    pub(crate) fn information(&self) -> Vec<Node> {
        self.heard.lock().unwrap().information.clone()
    }

    pub(crate) fn resources(&self) -> Vec<InstanceResources> {
        self.heard.lock().unwrap().resources.clone()
    }

    pub(crate) fn forget_reports(&self) {
        self.heard.lock().unwrap().reports.clear();
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.listener.abort();
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

type Shared = (Arc<Mutex<Heard>>, u16);

async fn register(
    State((heard, port)): State<Shared>,
    Json(node): Json<Node>,
) -> Result<Json<Registered>, StatusCode> {
    let id = node.id.clone();
    heard.lock().unwrap().registrations.push(node);
    Ok(Json(Registered { id, mqtt_broker_port: port.to_string() }))
}

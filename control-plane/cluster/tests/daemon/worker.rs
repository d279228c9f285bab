//! A worker, node engine and net manager in one, played over real HTTP and MQTT: it obeys, reports
//! and notes what it is told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rumqttc::{AsyncClient, Event, EventLoop, Incoming, MqttOptions, QoS};
use serde::{Serialize, de::DeserializeOwned};
use tokio::task::JoinHandle;
use xylem_types::{
    instance::InstanceStatus,
    mqtt::{
        DeleteCommand, DeployCommand, InstanceReport, InstanceResources, InstanceUsage,
        NetDeployed, Peers, SubnetGrant, SubnetRequest, TableAnswer, TableQuery, TunnelEndpoint,
        topic,
    },
    node::{Node, Registered},
};

use crate::{process::Cluster, process::http_client, wait::eventually};

const BEAT: Duration = Duration::from_millis(200);

pub(crate) struct FakeWorker {
    pub(crate) id: String,
    mqtt_port: u16,
    state: Arc<Mutex<State>>,
    connection: Option<Connection>,
}

struct Connection {
    client: AsyncClient,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct State {
    /// Number → generation.
    running: BTreeMap<u32, u64>,
    told: Vec<(String, Vec<u8>)>,
    connected: bool,
}

impl FakeWorker {
    /// Registers and connects.
    pub(crate) async fn join(cluster: &Cluster, id: &str) -> Self {
        let node = Node {
            id: id.into(),
            host: "one-host-for-all".into(),
            vcpus: 4,
            memory: 4000.0,
            architecture: "amd64".into(),
            virtualization: vec!["docker".into()],
            ..Node::default()
        };
        let response =
            http_client().post(cluster.url("/api/node/register")).json(&node).send().await.unwrap();
        let registered: Registered = response.error_for_status().unwrap().json().await.unwrap();
        assert_eq!(registered.id, id);
        assert_eq!(registered.mqtt_broker_port, cluster.mqtt_port.to_string());
        let state = Arc::new(Mutex::new(State::default()));
        let mut worker =
            Self { id: id.into(), mqtt_port: cluster.mqtt_port, state, connection: None };
        worker.appear().await;
        worker
    }

    /// Connects with whatever it still runs, without registering.
    pub(crate) async fn appear(&mut self) {
        self.state().connected = false;
        let mut options = MqttOptions::new(format!("{}-ne", self.id), "127.0.0.1", self.mqtt_port);
        options.set_keep_alive(Duration::from_secs(5));
        options.set_max_packet_size(1 << 22, 1 << 22);
        let (client, events) = AsyncClient::new(options, 1000);
        let engine =
            Engine { id: self.id.clone(), client: client.clone(), state: Arc::clone(&self.state) };
        let beating = tokio::spawn(engine.clone().beat());
        let obeying = tokio::spawn(engine.obey(events));
        self.connection = Some(Connection { client, tasks: [beating, obeying] });
        eventually("the worker connects", || self.state().connected.then_some(())).await;
    }

    /// Vanishes without a word, and goes on running what it runs.
    pub(crate) fn vanish(&mut self) {
        for task in self.connection.take().unwrap().tasks {
            task.abort();
        }
    }

    pub(crate) async fn get_subnet(&mut self) -> SubnetGrant {
        let endpoint = TunnelEndpoint { host_ip: [127, 0, 0, 1].into(), host_port: 50103 };
        let request = SubnetRequest { method: "GET".into(), endpoint: Some(endpoint) };
        self.forget(&topic::subnetwork_result(&self.id));
        self.say(&topic::subnet(&self.id), &request).await;
        let granted = |grant: SubnetGrant| (!grant.address.is_empty()).then_some(grant);
        eventually("the worker gets a subnet", || {
            self.last(&topic::subnetwork_result(&self.id)).and_then(granted)
        })
        .await
    }

    /// What the cluster says of a service, by name or address.
    pub(crate) async fn ask(&self, words: &str) -> TableAnswer {
        let query = if words.contains(char::is_alphabetic) {
            TableQuery { sname: words.into(), sip: String::new() }
        } else {
            TableQuery { sname: String::new(), sip: words.into() }
        };
        self.forget(&topic::tablequery_result(&self.id));
        self.say(&topic::tablequery_request(&self.id), &query).await;
        eventually("the query is answered", || {
            self.last::<TableAnswer>(&topic::tablequery_result(&self.id))
        })
        .await
    }

    pub(crate) async fn say<T: Serialize>(&self, topic: &str, message: &T) {
        let payload = serde_json::to_vec(message).unwrap();
        let client = &self.connection.as_ref().unwrap().client;
        client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
    }

    pub(crate) fn peers(&self) -> Vec<String> {
        let peers = self.last::<Peers>(&topic::peers(&self.id)).unwrap_or_default();
        peers.peers.into_iter().map(|peer| peer.worker_id).collect()
    }

    pub(crate) fn generation(&self, number: u32) -> Option<u64> {
        self.state().running.get(&number).copied()
    }

    /// Runs what the cluster never asked for.
    pub(crate) fn run_unasked(&self, number: u32, generation: u64) {
        self.state().running.insert(number, generation);
    }

    /// How often it was told on this topic.
    pub(crate) fn told(&self, topic: &str) -> usize {
        self.state().told.iter().filter(|(at, _)| at == topic).count()
    }

    pub(crate) fn last<T: DeserializeOwned>(&self, topic: &str) -> Option<T> {
        let state = self.state();
        let (_, payload) = state.told.iter().rev().find(|(at, _)| at == topic)?;
        Some(serde_json::from_slice(payload).unwrap())
    }

    fn forget(&self, topic: &str) {
        self.state().told.retain(|(at, _)| at != topic);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        for task in self.connection.take().into_iter().flat_map(|c| c.tasks) {
            task.abort();
        }
    }
}

#[derive(Clone)]
struct Engine {
    id: String,
    client: AsyncClient,
    state: Arc<Mutex<State>>,
}

impl Engine {
    async fn beat(self) {
        let mut beats = tokio::time::interval(BEAT);
        loop {
            beats.tick().await;
            let node = Node { cpu_percent: 10.0, memory: 4000.0, ..Node::default() };
            self.say(topic::information(&self.id), &node).await;
            let services = self.running().into_iter().map(usage).collect();
            self.say(topic::jobs_resources(&self.id), &InstanceResources { services }).await;
        }
    }

    /// Reconnects for ever, as a worker does.
    async fn obey(self, mut events: EventLoop) {
        let mut attempts = tokio::time::interval(BEAT);
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                    for filter in [format!("nodes/{}/#", self.id), topic::updates_available("+")] {
                        self.client.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
                    }
                }
                Ok(Event::Incoming(Incoming::SubAck(_))) => {
                    self.state.lock().unwrap().connected = true;
                    for (number, generation) in self.running() {
                        self.report(number, generation, InstanceStatus::Running).await;
                    }
                }
                Ok(Event::Incoming(Incoming::Publish(publish))) => {
                    let payload = publish.payload.to_vec();
                    self.on_message(&publish.topic, &payload).await;
                    self.state.lock().unwrap().told.push((publish.topic, payload));
                }
                Ok(_) => {}
                Err(_) => {
                    attempts.tick().await;
                }
            }
        }
    }

    async fn on_message(&self, at: &str, payload: &[u8]) {
        if at == topic::control_deploy(&self.id) {
            let command: DeployCommand = serde_json::from_slice(payload).unwrap();
            let (number, generation) = (command.instance_number, command.generation);
            let news = {
                let running = &mut self.state.lock().unwrap().running;
                let current = running.get(&number).copied();
                if current.is_none_or(|current| current < generation) {
                    running.insert(number, generation);
                }
                current.is_none_or(|current| current <= generation)
            };
            if news {
                self.report(number, generation, InstanceStatus::Creating).await;
                let deployed = NetDeployed {
                    appname: command.job_name,
                    status: "DEPLOYED".into(),
                    instance_number: number,
                    nsip: format!("10.18.1.{}", 10 + number),
                    nsipv6: String::new(),
                    host_ip: "127.0.0.1".into(),
                    host_port: 50103,
                };
                self.say(topic::service_deployed(&self.id), &deployed).await;
                self.report(number, generation, InstanceStatus::Running).await;
            }
        } else if at == topic::control_delete(&self.id) {
            let command: DeleteCommand = serde_json::from_slice(payload).unwrap();
            let generation = command.generation.expect("sent to workers that bring an id");
            {
                let running = &mut self.state.lock().unwrap().running;
                if running.get(&command.instance_number).is_some_and(|g| *g <= generation) {
                    running.remove(&command.instance_number);
                }
            }
            self.report(command.instance_number, generation, InstanceStatus::Undeployed).await;
        }
    }

    async fn report(&self, instance: u32, generation: u64, status: InstanceStatus) {
        let report = InstanceReport {
            sname: crate::WEB.into(),
            status,
            status_detail: String::new(),
            instance,
            publicip: String::new(),
            generation,
        };
        self.say(topic::job(&self.id), &report).await;
    }

    async fn say<T: Serialize>(&self, topic: String, message: &T) {
        let payload = serde_json::to_vec(message).unwrap();
        // While it is disconnected, what it says is lost, and said again later.
        let _lost = self.client.try_publish(topic, QoS::AtLeastOnce, false, payload);
    }

    fn running(&self) -> Vec<(u32, u64)> {
        self.state.lock().unwrap().running.iter().map(|(n, g)| (*n, *g)).collect()
    }
}

fn usage((instance, generation): (u32, u64)) -> InstanceUsage {
    InstanceUsage {
        job_name: crate::WEB.into(),
        instance,
        generation,
        virtualization: "docker".into(),
        cpu_percent: "1.5".into(),
        logs: "ready\n".into(),
        ..InstanceUsage::default()
    }
}

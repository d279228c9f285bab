//! Registers, keeps the connection to the broker, and takes commands in.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, Publish, QoS};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use xylem_daemon::Chain;
use xylem_types::mqtt::{ControlError, topic};

use super::{
    Command, Incoming, Receipt,
    cluster::{Cluster, RegisterError, Registration},
};
use crate::resources::machine::{Identity, Machine};

/// A dead connection is noticed within one and a half times this.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Largest message, in bytes: the default of 10 KiB is too small for a large environment.
const PACKET_MAX: usize = 4 << 20;
/// Messages that may wait to be sent.
const REQUESTS: usize = 256;
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
const REGISTER_PAUSE_MAX: Duration = Duration::from_secs(10);
/// A cluster that complains is registered with anew, but not more often than this.
const REREGISTER_EVERY: Duration = Duration::from_secs(10);

/// The connection as the publisher sees it.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// There from the first registration on.
    pub session: Option<Session>,
    /// Rises with each connection that the broker accepted.
    pub count: u64,
    pub connected: bool,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub client: AsyncClient,
    pub worker_id: String,
}

/// The dialling task.
#[derive(Debug)]
pub struct Dialer {
    pub cluster: Cluster,
    pub identity: Identity,
    pub machine: Mutex<Machine>,
    pub connection: watch::Sender<Connection>,
    pub registration: watch::Sender<Option<Registration>>,
    pub commands: mpsc::Sender<Incoming>,
}

impl Dialer {
    /// Never returns.
    pub async fn run(self) {
        let mut registration = self.register_at_last().await;
        loop {
            registration = self.session(registration).await;
        }
    }

    /// Registers, however long that takes.
    async fn register_at_last(&self) -> Registration {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(250))
            .with_max_delay(REGISTER_PAUSE_MAX)
            .with_jitter()
            .without_max_times();
        let register = || self.register();
        let warn = |error: &RegisterError, pause| {
            tracing::warn!(error = %Chain(error), ?pause, "not registered, will retry");
        };
        match register.retry(backoff).notify(warn).await {
            Ok(registration) => registration,
            Err(error) => unreachable!("retried for ever: {error}"),
        }
    }

    async fn register(&self) -> Result<Registration, RegisterError> {
        let node = {
            let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
            machine.describe(&self.current_identity())
        };
        let registration = self.cluster.register(&node).await?;
        self.registration.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&registration);
            if changed {
                tracing::info!(
                    worker.id = registration.worker_id,
                    mqtt.port = registration.mqtt_port,
                    "registered with the cluster"
                );
                *known = Some(registration.clone());
            }
            changed
        });
        Ok(registration)
    }

    /// Without a configured address, the one that the cluster is reached from.
    fn current_identity(&self) -> Identity {
        let mut identity = self.identity.clone();
        if identity.address.is_empty() {
            let own = self.cluster.own_address();
            identity.address = own.map(|ip| ip.to_string()).unwrap_or_default();
        }
        identity
    }

    /// One broker for as long as it is the one; returns when a registration names another.
    async fn session(&self, registration: Registration) -> Registration {
        let (client, mut events) = self.client(&registration);
        let session = Session { client: client.clone(), worker_id: registration.worker_id.clone() };
        self.connection.send_modify(|connection| connection.session = Some(session));
        let mut complained_at: Option<Instant> = None;
        let mut was_connected = true;
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    was_connected = true;
                    self.subscribe(&client, &registration);
                    self.connection.send_modify(|connection| {
                        connection.count += 1;
                        connection.connected = true;
                    });
                    tracing::info!(mqtt.port = registration.mqtt_port, "connected to the broker");
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => {
                    let complaint = self.take(&client, publish, &registration).await;
                    let now = Instant::now();
                    if complaint && complained_at.is_none_or(|at| now - at > REREGISTER_EVERY) {
                        complained_at = Some(now);
                        self.register_again().await;
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    self.connection.send_modify(|connection| connection.connected = false);
                    if std::mem::take(&mut was_connected) {
                        tracing::warn!(error = %Chain(&error), "broker is away, will reconnect");
                    }
                    sleep(RECONNECT_PAUSE).await;
                    // A cluster that restarted may not know this worker, or have moved its broker.
                    if let Some(new) = self.register_again().await
                        && new != registration
                    {
                        return new;
                    }
                }
            }
        }
    }

    async fn register_again(&self) -> Option<Registration> {
        self.register()
            .await
            .inspect_err(|error| tracing::debug!(error = %Chain(error), "not registered again"))
            .ok()
    }

    fn client(&self, registration: &Registration) -> (AsyncClient, EventLoop) {
        let id = format!("{}-ne", registration.worker_id);
        let mut options = MqttOptions::new(id, &registration.host, registration.mqtt_port);
        options
            .set_keep_alive(KEEP_ALIVE)
            .set_clean_session(false)
            .set_manual_acks(true)
            .set_max_packet_size(PACKET_MAX, PACKET_MAX);
        AsyncClient::new(options, REQUESTS)
    }

    fn subscribe(&self, client: &AsyncClient, registration: &Registration) {
        let worker = &registration.worker_id;
        let topics = [
            topic::control_deploy(worker),
            topic::control_delete(worker),
            topic::control_error(worker),
        ];
        for topic in topics {
            if let Err(error) = client.try_subscribe(topic, QoS::AtLeastOnce) {
                tracing::error!(%error, "cannot subscribe, commands will not arrive");
            }
        }
    }

    /// Passes a command on; whether it was a complaint of the cluster about this worker.
    async fn take(
        &self,
        client: &AsyncClient,
        publish: Publish,
        registration: &Registration,
    ) -> bool {
        let worker = &registration.worker_id;
        let payload = publish.payload.clone();
        let receipt = Receipt { client: client.clone(), publish };
        let topic = &receipt.publish.topic;
        let command = if *topic == topic::control_deploy(worker) {
            serde_json::from_slice(&payload).map(Command::Deploy)
        } else if *topic == topic::control_delete(worker) {
            serde_json::from_slice(&payload).map(Command::Delete)
        } else {
            let message = serde_json::from_slice(&payload)
                .map_or_else(|_| String::new(), |error: ControlError| error.message);
            tracing::warn!(error = message, "cluster complains, registering again");
            receipt.confirm();
            return true;
        };
        match command {
            // Confirmed by the one who writes it down.
            Ok(command) => {
                if self.commands.send(Incoming { command, receipt }).await.is_err() {
                    tracing::debug!("engine is stopping, command not taken");
                }
            }
            Err(error) => {
                tracing::error!(%error, topic = receipt.publish.topic, "command is not valid");
                receipt.confirm();
            }
        }
        false
    }
}

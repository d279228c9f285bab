//! The session with the cluster, over its MQTT broker.
//!
//! The broker forgets us when the connection ends, and so do we: after each connect everything
//! is subscribed anew and the owner is told, who says and asks anew what either side may have
//! missed. So nothing is queued for a broker that is away.

mod incoming;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use net_maps::Name;
use rumqttc::{
    AsyncClient, Event, EventLoop, Incoming, MqttOptions, NetworkOptions, QoS, SubscribeFilter,
};
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{debug, info, warn};
use xylem_types::mqtt::{
    AddressChanged, InterestRemove, NetDeployed, PeersRequest, SubnetRequest, TableQuery, topic,
};

use crate::chain::Chain;
pub use incoming::Message;

/// Requests that may wait for the broker. Ten thousand interests are asked for at once after a
/// reconnect.
const OUTBOX: usize = 16_384;
/// Bytes of the largest message, a table answer with a thousand instances.
const MESSAGE_BYTES: usize = 4 * 1024 * 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT_SECS: u64 = 5;
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);
/// Topics in one SUBSCRIBE.
const SUBSCRIBE_AT_ONCE: usize = 100;

/// Whose session, and with which broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broker {
    pub worker_id: String,
    pub host: String,
    pub port: u16,
}

/// What the session tells its owner.
#[derive(Debug)]
pub enum FromCluster {
    Connected,
    Disconnected,
    Message(Message),
}

/// What is said to the cluster.
#[derive(Clone, Debug)]
pub enum ToCluster {
    Subnet(SubnetRequest),
    Query(TableQuery),
    Deployed(NetDeployed),
    Undeployed(NetDeployed),
    RemoveInterest(InterestRemove),
    AskPeer(PeersRequest),
    Moved(AddressChanged),
}

/// What the broker was asked to tell us.
#[derive(Debug, Default)]
struct Subscriptions {
    followed: BTreeSet<Name>,
    /// The subscriptions of the connection that there is now are on their way.
    made: bool,
    /// Messages were lost since.
    overflown: bool,
}

/// A session that connects, and connects again, until it is dropped.
#[derive(Debug)]
pub struct Session {
    broker: Broker,
    client: AsyncClient,
    subscriptions: Arc<Mutex<Subscriptions>>,
    _tasks: JoinSet<()>,
}

impl Session {
    /// Starts connecting; what happens is told through `owner`.
    pub fn start(broker: Broker, owner: mpsc::Sender<FromCluster>) -> Self {
        let id = format!("{}-nm", broker.worker_id);
        let mut options = MqttOptions::new(id, &broker.host, broker.port);
        options.set_keep_alive(KEEP_ALIVE).set_max_packet_size(MESSAGE_BYTES, MESSAGE_BYTES);
        options.set_clean_session(true);
        let (client, mut events) = AsyncClient::new(options, OUTBOX);
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(CONNECT_TIMEOUT_SECS);
        // A first packet waits for the answer to each query.
        network.set_tcp_nodelay(true);
        events.set_network_options(network);

        let subscriptions = Arc::new(Mutex::new(Subscriptions::default()));
        let mut tasks = JoinSet::new();
        let connection = Connection {
            broker: broker.clone(),
            client: client.clone(),
            subscriptions: Arc::clone(&subscriptions),
            owner,
        };
        tasks.spawn(connection.run(events));
        Self { broker, client, subscriptions, _tasks: tasks }
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Says something, if the cluster is there to hear it: after each connect everything is said
    /// anew. What a full outbox cannot take is lost, like what a broker loses.
    pub fn send(&self, message: &ToCluster) {
        let mut subscriptions = lock(&self.subscriptions);
        if !subscriptions.made {
            return;
        }
        let id = &self.broker.worker_id;
        let sent = match message {
            ToCluster::Subnet(request) => self.publish(topic::subnet(id), request),
            ToCluster::Query(query) => self.publish(topic::tablequery_request(id), query),
            ToCluster::Deployed(report) => self.publish(topic::service_deployed(id), report),
            ToCluster::Undeployed(report) => self.publish(topic::service_undeployed(id), report),
            ToCluster::RemoveInterest(interest) => {
                self.publish(topic::interest_remove(id), interest)
            }
            ToCluster::Moved(report) => self.publish(topic::address_changed(id), report),
            ToCluster::AskPeer(request) => self.publish(topic::peers_request(id), request),
        };
        if let Err(error) = &sent
            && !subscriptions.overflown
        {
            warn!(error = %Chain(error), "messages to the cluster are lost");
        }
        subscriptions.overflown = sent.is_err();
    }

    /// Listens for changes of a service, also after every reconnect.
    pub fn follow(&self, name: Name) {
        let mut subscriptions = lock(&self.subscriptions);
        if subscriptions.followed.insert(name) && subscriptions.made {
            let topic = topic::updates_available(name.as_str());
            if let Err(error) = self.client.try_subscribe(topic, QoS::AtLeastOnce) {
                warn!(service = %name, %error, "cannot follow a service until the next connect");
            }
        }
    }

    pub fn unfollow(&self, name: Name) {
        let mut subscriptions = lock(&self.subscriptions);
        if subscriptions.followed.remove(&name) && subscriptions.made {
            let topic = topic::updates_available(name.as_str());
            if let Err(error) = self.client.try_unsubscribe(topic) {
                debug!(service = %name, %error, "cannot unfollow a service");
            }
        }
    }

    fn publish<T: Serialize>(&self, topic: String, payload: &T) -> Result<(), Unsent> {
        let payload = serde_json::to_vec(payload)?;
        debug!(topic, "to the cluster");
        Ok(self.client.try_publish(topic, QoS::AtLeastOnce, false, payload)?)
    }
}

#[derive(Debug, thiserror::Error)]
enum Unsent {
    #[error("a message cannot be encoded")]
    Encode(#[from] serde_json::Error),
    #[error("the outbox is full")]
    Full(#[from] Box<rumqttc::ClientError>),
}

impl From<rumqttc::ClientError> for Unsent {
    fn from(error: rumqttc::ClientError) -> Self {
        Self::Full(Box::new(error))
    }
}

struct Connection {
    broker: Broker,
    client: AsyncClient,
    subscriptions: Arc<Mutex<Subscriptions>>,
    owner: mpsc::Sender<FromCluster>,
}

impl Connection {
    async fn run(self, mut events: EventLoop) {
        let retries = || {
            ExponentialBuilder::new()
                .with_min_delay(FIRST_RETRY)
                .with_max_delay(LAST_RETRY)
                .with_jitter()
                .without_max_times()
                .build()
        };
        let mut pauses = retries();
        let mut said = false;
        loop {
            let told = match events.poll().await {
                Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                    info!(broker = %self.broker.host, "connected to the cluster");
                    pauses = retries();
                    said = false;
                    self.subscribe();
                    self.owner.send(FromCluster::Connected).await
                }
                Ok(Event::Incoming(Incoming::Publish(publish))) => {
                    match incoming::read(&self.broker.worker_id, &publish.topic, &publish.payload) {
                        Ok(message) => self.owner.send(FromCluster::Message(message)).await,
                        Err(error) => {
                            warn!(topic = publish.topic, %error, "a message is ignored");
                            Ok(())
                        }
                    }
                }
                Ok(_) => Ok(()),
                Err(error) => {
                    if !said {
                        let Broker { host, port, .. } = &self.broker;
                        warn!(broker = %host, port, %error, "no connection to the cluster");
                        said = true;
                    }
                    let was_connected = std::mem::take(&mut lock(&self.subscriptions).made);
                    let told = if was_connected {
                        self.owner.send(FromCluster::Disconnected).await
                    } else {
                        Ok(())
                    };
                    tokio::time::sleep(pauses.next().unwrap_or(LAST_RETRY)).await;
                    told
                }
            };
            if told.is_err() {
                return;
            }
        }
    }

    /// The broker is new to us. Requests keep their order, so whatever the owner asks after this
    /// is answered to a subscriber. Nobody else empties the outbox here, so nothing may wait for
    /// room in it.
    fn subscribe(&self) {
        let id = &self.broker.worker_id;
        let mut topics = vec![
            topic::subnetwork_result(id),
            topic::tablequery_result(id),
            topic::peers(id),
            topic::load(id),
        ];
        let mut subscriptions = lock(&self.subscriptions);
        let followed = subscriptions.followed.iter();
        topics.extend(followed.map(|name| topic::updates_available(name.as_str())));
        for topics in topics.chunks(SUBSCRIBE_AT_ONCE) {
            let filters =
                topics.iter().map(|topic| SubscribeFilter::new(topic.clone(), QoS::AtLeastOnce));
            if let Err(error) = self.client.try_subscribe_many(filters) {
                warn!(%error, "some services are not followed until the next connect");
            }
        }
        subscriptions.made = true;
    }
}

/// A set stays whole whatever its user did.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

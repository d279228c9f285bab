//! The session with the cluster, over its MQTT broker.
//!
//! The broker forgets us when the connection ends, and so do we: after each connect everything
//! is subscribed anew and the owner is told, who says and asks anew what either side may have
//! missed. So nothing is queued for a broker that is away.

mod incoming;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use net_maps::Name;
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions, NetworkOptions, QoS,
    SubscribeFilter,
};
use serde::Serialize;
use tokio::{
    net::{UdpSocket, lookup_host},
    sync::{
        Notify,
        mpsc::{self, error::SendError},
    },
    task::JoinSet,
    time::timeout,
};
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
/// How long the broker's name and the way there are looked for.
const SOURCE_PATIENCE: Duration = Duration::from_secs(1);
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
    /// This node's way to others may be another one.
    ways: Arc<Notify>,
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
        let ways = Arc::new(Notify::new());
        let mut tasks = JoinSet::new();
        let connection = Connection {
            broker: broker.clone(),
            client: client.clone(),
            subscriptions: Arc::clone(&subscriptions),
            ways: Arc::clone(&ways),
            source: None,
            owner,
        };
        tasks.spawn(connection.run(events));
        Self { broker, client, subscriptions, ways, _tasks: tasks }
    }

    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// This node's address or route has changed: a connection that would not leave from the same
    /// address again is made anew at once, instead of being found dead some time later.
    pub fn check_way(&self) {
        self.ways.notify_one();
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
    ways: Arc<Notify>,
    /// Address from which the broker is reached, by the kernel's routes when it was connected.
    source: Option<IpAddr>,
    owner: mpsc::Sender<FromCluster>,
}

impl Connection {
    async fn run(mut self, mut events: EventLoop) {
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
            let Some(event) = self.next_event(&mut events).await else {
                info!(broker = %self.broker.host, "another way to the cluster: connecting anew");
                events.clean();
                if self.disconnected().await.is_err() {
                    return;
                }
                continue;
            };
            let told = match event {
                Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                    info!(broker = %self.broker.host, "connected to the cluster");
                    pauses = retries();
                    said = false;
                    self.source = self.source_now().await;
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
                    let told = self.disconnected().await;
                    tokio::time::sleep(pauses.next().unwrap_or(LAST_RETRY)).await;
                    told
                }
            };
            if told.is_err() {
                return;
            }
        }
    }

    /// What happens next; nothing, if the connection is to be made anew.
    async fn next_event(&self, events: &mut EventLoop) -> Option<Result<Event, ConnectionError>> {
        let mut next = pin!(events.poll());
        loop {
            tokio::select! {
                event = &mut next => return Some(event),
                () = self.ways.notified() => {
                    let source = self.source_now().await;
                    if source.is_none() || source != self.source {
                        return None;
                    }
                }
            }
        }
    }

    /// From where a connection to the broker would leave now, as far as that is known in time.
    async fn source_now(&self) -> Option<IpAddr> {
        let find = async || -> io::Result<Option<IpAddr>> {
            // As the client looks for it: an IPv6 address may be in brackets.
            let Broker { host, port, .. } = &self.broker;
            let mut found = lookup_host(format!("{host}:{port}")).await?;
            let Some(broker) = found.next() else { return Ok(None) };
            let any = if broker.is_ipv4() {
                IpAddr::V4(Ipv4Addr::UNSPECIFIED)
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            // Nothing is sent: the kernel chooses the address with the route.
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(broker).await?;
            Ok(Some(socket.local_addr()?.ip()))
        };
        timeout(SOURCE_PATIENCE, find()).await.ok()?.ok()?
    }

    /// Tells the owner that the session is gone, if there was one.
    async fn disconnected(&self) -> Result<(), SendError<FromCluster>> {
        if std::mem::take(&mut lock(&self.subscriptions).made) {
            self.owner.send(FromCluster::Disconnected).await?;
        }
        Ok(())
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

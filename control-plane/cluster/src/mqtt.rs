//! The cluster as a client of its broker.

use std::{net::SocketAddr, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions, QoS, SubscribeFilter,
    SubscribeReasonCode,
};
use tokio::sync::mpsc;

use crate::{
    broker::{EarlyWords, PACKET_MAX},
    config::{Broker, client_id},
    daemon::Input,
    message::{self, FromWorker, Message, ParseError},
};

/// Messages that wait to be sent; more than that and what was lost is repeated later.
const QUEUE: usize = 4096;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const RECONNECT_MIN: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(2);

/// What happens at the broker.
#[derive(Debug)]
pub(crate) enum BrokerEvent {
    /// Connected, with every topic subscribed.
    Connected,
    Lost,
    Said {
        worker: String,
        message: FromWorker,
    },
    NotUnderstood(ParseError),
}

/// Sends to workers.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    client: AsyncClient,
}

/// The queue to the broker is full; the message was not taken.
#[derive(Debug, thiserror::Error)]
#[error("too many messages wait for the broker")]
pub(crate) struct Behind;

impl Publisher {
    pub(crate) fn publish(&self, message: &Message) -> Result<(), Behind> {
        self.client
            .try_publish(message.topic(), QoS::AtLeastOnce, false, message.payload())
            .map_err(|_| Behind)
    }
}

/// A client and its event loop, which [`run`] drives.
pub(crate) fn client(broker: &Broker, cluster: &str) -> (Publisher, EventLoop) {
    let mut options = match broker {
        Broker::Embedded { listen } => {
            let at = local(*listen);
            MqttOptions::new(client_id(cluster), at.ip().to_string(), at.port())
        }
        Broker::External { options } => options.clone(),
    };
    options.set_keep_alive(KEEP_ALIVE);
    options.set_max_packet_size(PACKET_MAX, PACKET_MAX);
    options.set_clean_session(true);
    let (client, events) = AsyncClient::new(options, QUEUE);
    (Publisher { client }, events)
}

/// Where the cluster itself reaches what listens at `listen`.
fn local(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}

/// Keeps the connection, until nobody takes what arrives. A slow taker holds back the broker.
/// `early` is taken in at the first connection.
pub(crate) async fn run(
    publisher: Publisher,
    mut events: EventLoop,
    mut early: Option<EarlyWords>,
    inputs: mpsc::Sender<Input>,
) {
    let backoff = || {
        ExponentialBuilder::default()
            .with_min_delay(RECONNECT_MIN)
            .with_max_delay(RECONNECT_MAX)
            .without_max_times()
            .with_jitter()
            .build()
    };
    let mut waits = backoff();
    let mut connected = false;
    loop {
        let event = match events.poll().await {
            Ok(Event::Incoming(incoming)) => on_incoming(&publisher, incoming),
            Ok(Event::Outgoing(_)) => None,
            Err(error) => {
                report(&error, connected);
                if connected && inputs.send(Input::Broker(BrokerEvent::Lost)).await.is_err() {
                    return;
                }
                connected = false;
                tokio::time::sleep(waits.next().unwrap_or(RECONNECT_MAX)).await;
                continue;
            }
        };
        let Some(event) = event else { continue };
        // What was said meanwhile comes twice, the second time in order; that does no harm.
        let mut words = Vec::new();
        if matches!(event, BrokerEvent::Connected) {
            connected = true;
            waits = backoff();
            words = take(&mut early).await;
            tracing::info!(early_words = words.len(), "connected to the broker");
        }
        let words = words.iter().map(|(topic, payload)| read(topic, payload));
        for event in std::iter::once(event).chain(words) {
            if inputs.send(Input::Broker(event)).await.is_err() {
                return;
            }
        }
    }
}

async fn take(early: &mut Option<EarlyWords>) -> Vec<(String, Vec<u8>)> {
    match early.take() {
        Some(early) => early.take().await,
        None => Vec::new(),
    }
}

fn read(topic: &str, payload: &[u8]) -> BrokerEvent {
    match message::parse(topic, payload) {
        Ok((worker, message)) => BrokerEvent::Said { worker, message },
        Err(error) => BrokerEvent::NotUnderstood(error),
    }
}

fn on_incoming(publisher: &Publisher, incoming: Incoming) -> Option<BrokerEvent> {
    match incoming {
        Incoming::ConnAck(_) => {
            let filters = message::subscriptions()
                .map(|topic| SubscribeFilter { path: topic, qos: QoS::AtLeastOnce });
            // The queue is empty: nothing is published until the subscription is confirmed.
            if let Err(error) = publisher.client.try_subscribe_many(filters) {
                tracing::error!(%error, "cannot subscribe to what workers say");
            }
            None
        }
        Incoming::SubAck(ack) => {
            if ack.return_codes.contains(&SubscribeReasonCode::Failure) {
                tracing::error!(
                    "the broker refuses a subscription below nodes/: allow it to the cluster"
                );
            }
            Some(BrokerEvent::Connected)
        }
        Incoming::Publish(publish) => {
            Some(match message::parse(&publish.topic, &publish.payload) {
                Ok((worker, message)) => BrokerEvent::Said { worker, message },
                Err(error) => BrokerEvent::NotUnderstood(error),
            })
        }
        _ => None,
    }
}

/// Once for a loss, and not for each attempt to come back.
fn report(error: &ConnectionError, connected: bool) {
    if connected {
        tracing::warn!(%error, "connection to the broker lost");
    } else {
        tracing::debug!(%error, "cannot connect to the broker yet");
    }
}

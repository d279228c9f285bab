//! The embedded broker.
//!
//! It keeps nothing across restarts and cannot be stopped: it lives on a thread of its own until
//! the process ends. Nothing durable depends on it; whoever reconnects says again what counts.
//!
//! Workers may reconnect before the cluster's own client has subscribed, and a broker forgets
//! what nobody has subscribed to. [`EarlyWords`] is subscribed before the broker listens, and
//! keeps what is said until then.

use std::{collections::HashMap, io, net::SocketAddr, thread, time::Duration};

use rumqttd::{
    Config, ConnectionSettings, Notification, RouterConfig, ServerSettings,
    local::{LinkError, LinkRx, LinkTx},
};
use tokio::{sync::oneshot, time::timeout};

use crate::message;

/// Largest MQTT packet, either way: the instances of one worker with the ends of their logs.
pub(crate) const PACKET_MAX: usize = 4 * 1024 * 1024;
/// Connections at a time; each worker needs two.
const CONNECTIONS_MAX: usize = 10_000;
/// Bytes and number of the segments in which undelivered messages of one topic filter wait. When
/// they are full, the oldest are lost.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
const SEGMENTS: usize = 4;

/// The router passes on what it has within this time.
const EARLY_QUIET: Duration = Duration::from_millis(20);
/// Early words at most; workers that are many go on talking meanwhile.
const EARLY_MAX: usize = 10_000;

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("the broker cannot listen on {listen}: is the port taken?")]
    Listen { listen: SocketAddr, source: io::Error },
    #[error("the broker's thread cannot be started")]
    Thread(#[source] io::Error),
    #[error("the broker takes no subscription")]
    Subscribe(#[source] Box<LinkError>),
}

/// A broker that runs.
pub(crate) struct Running {
    /// Told when it ends, which it does only in failure.
    pub(crate) end: oneshot::Receiver<()>,
    pub(crate) early: EarlyWords,
}

/// What workers say from the moment that the broker listens.
pub(crate) struct EarlyWords {
    link: LinkTx,
    words: LinkRx,
}

/// # Errors
/// [`BrokerError`]
pub(crate) fn start(listen: SocketAddr) -> Result<Running, BrokerError> {
    // The broker only logs that it cannot listen, so see first whether it can. The broker too
    // sets SO_REUSEADDR, so the socket that is closed here is in nobody's way.
    let probe = std::net::TcpListener::bind(listen)
        .map_err(|source| BrokerError::Listen { listen, source })?;
    drop(probe);
    let mut broker = rumqttd::Broker::new(settings(listen));
    let early = EarlyWords::subscribe(&broker)?;
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name("broker".to_owned())
        .spawn(move || {
            if let Err(error) = broker.start() {
                tracing::error!(%error, "broker failed");
            }
            // Nobody listens any more when the daemon is about to end.
            let _gone = ended.send(());
        })
        .map_err(BrokerError::Thread)?;
    Ok(Running { end, early })
}

impl EarlyWords {
    fn subscribe(broker: &rumqttd::Broker) -> Result<Self, BrokerError> {
        let failed = |error| BrokerError::Subscribe(Box::new(error));
        let (mut link, words) = broker.link("early-words").map_err(failed)?;
        for filter in message::subscriptions() {
            link.subscribe(filter).map_err(failed)?;
        }
        Ok(Self { link, words })
    }

    /// Topics and payloads of what was said until now, in order. To be called when another client
    /// has subscribed to the same.
    pub(crate) async fn take(mut self) -> Vec<(String, Vec<u8>)> {
        let mut taken = Vec::new();
        while taken.len() < EARLY_MAX
            && let Ok(Ok(notification)) = timeout(EARLY_QUIET, self.words.next()).await
        {
            match notification {
                Some(Notification::Forward(forward)) => {
                    let topic = String::from_utf8_lossy(&forward.publish.topic).into_owned();
                    taken.push((topic, forward.publish.payload.to_vec()));
                }
                // The router waits to hear that we are ready for more.
                Some(Notification::Unschedule) if self.words.wake().await.is_err() => break,
                _ => {}
            }
        }
        for filter in message::subscriptions() {
            if let Err(error) = self.link.unsubscribe(filter) {
                tracing::warn!(%error, "broker goes on collecting what nobody takes");
            }
        }
        taken
    }
}

fn settings(listen: SocketAddr) -> Config {
    let server = ServerSettings {
        name: "mqtt".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: PACKET_MAX,
            max_inflight_count: 100,
            auth: None,
            external_auth: None,
            // A message that nobody has subscribed to is not kept.
            dynamic_filters: false,
        },
    };
    Config {
        id: 0,
        router: RouterConfig {
            max_connections: CONNECTIONS_MAX,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("mqtt".to_owned(), server)])),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
    use xylem_types::mqtt::topic;

    use super::*;

    #[tokio::test]
    async fn what_a_worker_says_before_the_cluster_has_subscribed_is_kept() {
        // The kernel chooses a port, and the broker gets it as soon as it is given back.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let broker = start(free).unwrap();
        let options = MqttOptions::new("w-ne", "127.0.0.1", free.port());
        let (client, mut events) = AsyncClient::new(options, 300);
        for i in 0..300 {
            client.publish(topic::job("w"), QoS::AtLeastOnce, false, i.to_string()).await.unwrap();
        }
        let mut confirmed = 0;
        let confirming = async {
            while confirmed < 300 {
                // Until the broker listens there are errors.
                if let Ok(Event::Incoming(Incoming::PubAck(_))) = events.poll().await {
                    confirmed += 1;
                }
            }
        };
        timeout(Duration::from_secs(20), confirming).await.expect("the broker confirms");
        let words: Vec<_> = broker
            .early
            .take()
            .await
            .into_iter()
            .map(|(topic, payload)| {
                assert_eq!(topic, "nodes/w/job");
                String::from_utf8(payload).unwrap().parse::<u32>().unwrap()
            })
            .collect();
        assert_eq!(words, (0..300).collect::<Vec<_>>());
    }
}

//! The embedded broker.
//!
//! It keeps nothing across restarts and cannot be stopped: it lives on a thread of its own until
//! the process ends. Nothing durable depends on it; whoever reconnects says again what counts.

use std::{collections::HashMap, io, net::SocketAddr, thread};

use rumqttd::{Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::sync::oneshot;

/// Largest MQTT packet, either way: the instances of one worker with the ends of their logs.
pub(crate) const PACKET_MAX: usize = 4 * 1024 * 1024;
/// Connections at a time; each worker needs two.
const CONNECTIONS_MAX: usize = 10_000;
/// Bytes and number of the segments in which undelivered messages of one topic filter wait. When
/// they are full, the oldest are lost.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;
const SEGMENTS: usize = 4;

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    #[error("the broker cannot listen on {listen}: is the port taken?")]
    Listen { listen: SocketAddr, source: io::Error },
    #[error("the broker's thread cannot be started")]
    Thread(#[source] io::Error),
}

/// Starts the broker. The receiver is told when it ends, which it does only in failure.
///
/// # Errors
/// [`BrokerError`]
pub(crate) fn start(listen: SocketAddr) -> Result<oneshot::Receiver<()>, BrokerError> {
    // The broker only logs that it cannot listen, so see first whether it can. The broker too
    // sets SO_REUSEADDR, so the socket that is closed here is in nobody's way.
    let probe = std::net::TcpListener::bind(listen)
        .map_err(|source| BrokerError::Listen { listen, source })?;
    drop(probe);
    let mut broker = rumqttd::Broker::new(settings(listen));
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
    Ok(end)
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

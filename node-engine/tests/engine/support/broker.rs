//! A real broker, behind a forwarder that can be cut.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

use super::{eventually, registry::free_port};

/// rumqttd cannot be stopped, so each lives until the tests end.
pub(crate) struct TestBroker {
    inner: u16,
    outer: u16,
    up: watch::Sender<bool>,
    forwarder: JoinHandle<()>,
}

impl TestBroker {
    pub(crate) async fn start() -> Self {
        let inner = free_port();
        std::thread::spawn(move || Broker::new(config(inner)).start().map_err(Box::new));
        eventually("the broker to listen", || {
            std::net::TcpStream::connect(("127.0.0.1", inner)).ok()
        })
        .await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let outer = listener.local_addr().unwrap().port();
        let (up, seen) = watch::channel(true);
        let forwarder = tokio::spawn(forward(listener, inner, seen));
        Self { inner, outer, up, forwarder }
    }

    /// The port that workers are told.
    pub(crate) fn port(&self) -> u16 {
        self.outer
    }

    /// The port that is never cut, for those who look on.
    pub(crate) fn inner_port(&self) -> u16 {
        self.inner
    }

    /// Drops all connections of workers, and lets none in.
    pub(crate) fn cut(&self) {
        self.up.send_replace(false);
    }

    pub(crate) fn mend(&self) {
        self.up.send_replace(true);
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        self.forwarder.abort();
    }
}

async fn forward(listener: TcpListener, port: u16, up: watch::Receiver<bool>) {
    loop {
        let Ok((mut near, _)) = listener.accept().await else { continue };
        let mut up = up.clone();
        if !*up.borrow() {
            continue;
        }
        tokio::spawn(async move {
            let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            tokio::select! {
                _ = copy_bidirectional(&mut near, &mut far) => {}
                _ = up.wait_for(|up| !up) => {}
            }
        });
    }
}

fn config(port: u16) -> Config {
    let connections = ConnectionSettings {
        connection_timeout_ms: 5000,
        max_payload_size: 1 << 20,
        max_inflight_count: 500,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = ServerSettings {
        name: "test".to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        tls: None,
        next_connection_delay_ms: Duration::from_millis(1).as_millis() as u64,
        connections,
    };
    let router = RouterConfig {
        max_connections: 100,
        max_outgoing_packet_count: 200,
        max_segment_size: 1 << 20,
        max_segment_count: 10,
        custom_segment: None,
        initialized_filters: None,
        shared_subscriptions_strategy: Default::default(),
    };
    Config { id: 0, router, v4: Some([("test".to_owned(), server)].into()), ..Config::default() }
}

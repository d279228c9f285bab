//! The root's end of a cluster's session: a WebSocket that the cluster has dialled.
//!
//! Two tasks a session. One reads frames and hands them to the engine, as fast as it takes them;
//! the other writes what the engine has for the cluster, and pings. Both have deadlines, so that
//! a peer that is gone without a word is noticed; the session's state is worth nothing once it
//! has ended, because the next one begins by comparing.

use std::{net::SocketAddr, time::Duration};

use axum::{
    extract::{
        ConnectInfo, State,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    response::Response,
};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use xylem_daemon::Chain;
use xylem_types::session::{FromCluster, FromRoot, SESSION_VERSION};

use crate::{
    api::Api,
    core::cluster::Hello,
    engine::{Attached, Engine},
};

/// Largest message: a snapshot of some ten thousand instances.
const MESSAGE_LIMIT: usize = 64 * 1024 * 1024;
/// Longest name of a cluster, in bytes.
const NAME_LIMIT: usize = 100;

/// A session's deadlines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    pub(crate) ping_every: Duration,
    /// A peer of which nothing was heard for so long is gone. Every ping is answered.
    pub(crate) silent_after: Duration,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the cluster closed it")]
    Closed,
    #[error("nothing was heard for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("the cluster took nothing for {} s", .0.as_secs_f32())]
    Stuck(Duration),
    #[error("the connection failed")]
    Connection(#[source] axum::Error),
    #[error("a message was not understood")]
    NotUnderstood(#[source] serde_json::Error),
    #[error("a binary frame came where text belongs")]
    Binary,
    #[error("a message cannot be written")]
    Encode(#[source] serde_json::Error),
    #[error("the engine ended it: the cluster was too far behind, or has begun another")]
    Replaced,
    #[error("the root is ending")]
    Shutdown,
}

/// `GET /api/cluster/session`
pub(crate) async fn accept(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    upgrade: WebSocketUpgrade,
) -> Response {
    upgrade
        .max_message_size(MESSAGE_LIMIT)
        .max_frame_size(MESSAGE_LIMIT)
        .on_upgrade(move |socket| run(api, peer, socket))
}

async fn run(api: Api, peer: SocketAddr, socket: WebSocket) {
    let (sink, stream) = socket.split();
    let mut reader = Reader { stream, silent_after: api.timing.silent_after };
    let mut writer = Writer { sink, write_within: api.timing.silent_after };
    let hello = match reader.next().await {
        Ok(message) => hello(message, peer),
        Err(end) => {
            tracing::debug!(%peer, end = %Chain(&end), "connection ended before a session began");
            return;
        }
    };
    let attached = match hello {
        Ok(hello) => api.engine.attach(hello).await.map_err(|error| error.to_string()),
        Err(reason) => Err(reason),
    };
    let Attached { session, cluster_id, outgoing } = match attached {
        Ok(attached) => attached,
        Err(reason) => {
            tracing::warn!(%peer, reason, "session refused");
            // The peer is told as far as it listens; the connection closes either way.
            let _gone = writer.send(&FromRoot::Refused { reason }).await;
            let _gone = writer.sink.close().await;
            return;
        }
    };
    tracing::info!(cluster.id = cluster_id, session, %peer, "session of a cluster has begun");
    let mut writing =
        tokio::spawn(writer.run(outgoing, api.timing.ping_every, api.shutdown.clone()));
    let end = tokio::select! {
        end = reader.run(&api.engine, session) => end,
        written = &mut writing => written.unwrap_or(End::Replaced),
    };
    writing.abort();
    api.engine
        .tell(move |state, now| {
            state.detach(session, now);
        })
        .await;
    tracing::info!(cluster.id = cluster_id, session, end = %Chain(&end), "session has ended");
}

/// What the first message must be, or why the session is not accepted.
fn hello(message: FromCluster, peer: SocketAddr) -> Result<Hello, String> {
    let FromCluster::Hello { version, cluster_name, cluster_location } = message else {
        return Err("the first message must be a hello".to_owned());
    };
    if version != SESSION_VERSION {
        return Err(format!(
            "this root speaks version {SESSION_VERSION} of the session and the cluster version \
             {version}: run the same release on both"
        ));
    }
    let name = cluster_name.trim();
    if name.is_empty() || name.len() > NAME_LIMIT || name.chars().any(char::is_control) {
        return Err(format!("a cluster needs a name, of at most {NAME_LIMIT} bytes"));
    }
    Ok(Hello { name: name.to_owned(), location: cluster_location, ip: peer.ip().to_canonical() })
}

struct Reader {
    stream: SplitStream<WebSocket>,
    silent_after: Duration,
}

impl Reader {
    async fn run(&mut self, engine: &Engine, session: u64) -> End {
        loop {
            match self.next().await {
                Ok(message) => {
                    engine.tell(move |state, now| state.receive(session, message, now)).await;
                }
                Err(end) => return end,
            }
        }
    }

    async fn next(&mut self) -> Result<FromCluster, End> {
        loop {
            let frame = timeout(self.silent_after, self.stream.next())
                .await
                .map_err(|_| End::Silent(self.silent_after))?;
            match frame {
                None | Some(Ok(Message::Close(_))) => return Err(End::Closed),
                Some(Err(error)) => return Err(End::Connection(error)),
                Some(Ok(Message::Text(text))) => {
                    return serde_json::from_str(&text).map_err(End::NotUnderstood);
                }
                Some(Ok(Message::Binary(_))) => return Err(End::Binary),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            }
        }
    }
}

struct Writer {
    sink: SplitSink<WebSocket, Message>,
    write_within: Duration,
}

impl Writer {
    async fn run(
        mut self,
        mut outgoing: mpsc::Receiver<FromRoot>,
        ping_every: Duration,
        shutdown: CancellationToken,
    ) -> End {
        let mut pings = interval(ping_every);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sent = tokio::select! {
                message = outgoing.recv() => match message {
                    Some(message) => self.send(&message).await,
                    None => Err(End::Replaced),
                },
                _ = pings.tick() => self.frame(Message::Ping(Default::default())).await,
                () = shutdown.cancelled() => Err(End::Shutdown),
            };
            if let Err(end) = sent {
                if matches!(end, End::Replaced | End::Shutdown) {
                    let _gone = self.frame(Message::Close(None)).await;
                }
                return end;
            }
        }
    }

    async fn send(&mut self, message: &FromRoot) -> Result<(), End> {
        let text = serde_json::to_string(message).map_err(End::Encode)?;
        self.frame(Message::Text(text.into())).await
    }

    async fn frame(&mut self, frame: Message) -> Result<(), End> {
        match timeout(self.write_within, self.sink.send(frame)).await {
            Ok(sent) => sent.map_err(End::Connection),
            Err(_) => Err(End::Stuck(self.write_within)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_tungstenite::{connect_async, tungstenite};
    use xylem_types::session::SESSION_PATH;

    use super::*;
    use crate::{Config, Root};

    /// A cluster that says hello and then neither reads nor writes, as when its machine has lost
    /// power: the connection stays, and no ping is answered.
    #[tokio::test]
    async fn a_peer_that_is_gone_without_a_word_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            data_dir: folder.path().to_owned(),
            cluster_stale_after: Duration::from_secs(15),
            admin_password: None,
        };
        let mut root = Root::open(&config).await.unwrap();
        root.api.timing =
            Timing { ping_every: Duration::from_millis(100), silent_after: Duration::from_secs(2) };
        let engine = root.api.engine.clone();
        let listener = TcpListener::bind(config.listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(root.serve(listener, shutdown.clone()));

        let url = format!("ws://{address}{SESSION_PATH}");
        let (mut silent, _) = connect_async(&url).await.unwrap();
        let (mut alive, _) = connect_async(&url).await.unwrap();
        for (socket, name) in [(&mut silent, "silent"), (&mut alive, "alive")] {
            let hello = FromCluster::Hello {
                version: SESSION_VERSION,
                cluster_name: name.to_owned(),
                cluster_location: String::new(),
            };
            let text = serde_json::to_string(&hello).unwrap();
            socket.send(tungstenite::Message::text(text)).await.unwrap();
        }
        let reading = tokio::spawn(async move { while let Some(Ok(_)) = alive.next().await {} });

        let only_the_other_is_left = async {
            loop {
                let census = engine.ask(|state, _| {
                    let names = state.live.keys().map(|id| state.cluster_name(id));
                    Ok((state.tally.sessions_opened, names.collect::<Vec<_>>()))
                });
                if census.await.unwrap() == (2, vec!["alive".to_owned()]) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), only_the_other_is_left).await.unwrap();

        shutdown.cancel();
        serving.await.unwrap().unwrap();
        reading.await.unwrap();
        drop(silent);
    }
}

//! Dials the root, and keeps dialling. What is said is the core's; here are frames and deadlines.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::{SinkExt, StreamExt};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};
use xylem_daemon::Chain;
use xylem_types::session::{FromCluster, FromRoot};

use crate::daemon::Input;

/// Messages to the root that may wait; a root that is further behind is dialled anew, and
/// everything compared.
const QUEUE: usize = 8192;
/// Largest message: what a cluster of some ten thousand instances shall run.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const PING_EVERY: Duration = Duration::from_secs(2);
/// A root of which nothing is heard for so long, nor takes anything, is gone. Every ping is
/// answered.
const SILENT_AFTER: Duration = Duration::from_secs(6);
const REDIAL_MIN: Duration = Duration::from_millis(100);
const REDIAL_MAX: Duration = Duration::from_secs(5);
/// A session that lasted for so long is no reason to be careful with the next.
const LASTED: Duration = Duration::from_secs(10);

/// What happens to the session.
#[derive(Debug)]
pub(crate) enum RootEvent {
    /// Connected; what is sent here goes to the root. To end the session, the sender is dropped.
    Connected(mpsc::Sender<FromCluster>),
    Said(Box<FromRoot>),
    Gone,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the root cannot be reached")]
    Unreachable(#[source] tungstenite::Error),
    #[error("the root did not answer within {} s", CONNECT_WITHIN.as_secs())]
    NoAnswer,
    #[error("the root closed it")]
    Closed,
    #[error("nothing was heard for {} s", SILENT_AFTER.as_secs())]
    Silent,
    #[error("the root took nothing for {} s", SILENT_AFTER.as_secs())]
    Stuck,
    #[error("the connection failed")]
    Connection(#[source] tungstenite::Error),
    #[error("a message was not understood: are root and cluster of the same release?")]
    NotUnderstood(#[source] serde_json::Error),
    #[error("the cluster ended it")]
    Ours,
    /// Nobody takes what arrives: the daemon ends.
    #[error("the cluster is ending")]
    Ending,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Keeps a session with the root at `url`, until nobody takes what arrives.
pub(crate) async fn run(url: String, inputs: mpsc::Sender<Input>) {
    let backoff = || {
        ExponentialBuilder::default()
            .with_min_delay(REDIAL_MIN)
            .with_max_delay(REDIAL_MAX)
            .without_max_times()
            .with_jitter()
            .build()
    };
    let mut waits = backoff();
    let mut told = false;
    loop {
        let began = Instant::now();
        match dial(&url).await {
            Ok(socket) => {
                let end = converse(socket, &inputs).await;
                if matches!(end, End::Ending) {
                    return;
                }
                tracing::warn!(end = %Chain(&end), "session with the root ended, dialling again");
                told = true;
                if inputs.send(Input::Root(RootEvent::Gone)).await.is_err() {
                    return;
                }
            }
            Err(end) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%url, reason = %Chain(&end), "no session yet, dialling on");
                }
            }
        }
        if began.elapsed() >= LASTED {
            waits = backoff();
        }
        if inputs.is_closed() {
            return;
        }
        tokio::time::sleep(waits.next().unwrap_or(REDIAL_MAX)).await;
    }
}

async fn dial(url: &str) -> Result<Socket, End> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    match timeout(CONNECT_WITHIN, connect_async_with_config(url, Some(config), true)).await {
        Ok(Ok((socket, _response))) => Ok(socket),
        Ok(Err(error)) => Err(End::Unreachable(error)),
        Err(_) => Err(End::NoAnswer),
    }
}

async fn converse(mut socket: Socket, inputs: &mpsc::Sender<Input>) -> End {
    let (outgoing, mut queue) = mpsc::channel(QUEUE);
    if inputs.send(Input::Root(RootEvent::Connected(outgoing))).await.is_err() {
        return End::Ending;
    }
    let mut pings = interval(PING_EVERY);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    loop {
        let step = tokio::select! {
            frame = socket.next() => {
                heard = Instant::now();
                receive(frame, inputs).await
            }
            message = queue.recv() => match message {
                Some(message) => send(&mut socket, &message).await,
                None => Err(End::Ours),
            },
            _ = pings.tick() => {
                if heard.elapsed() >= SILENT_AFTER {
                    Err(End::Silent)
                } else {
                    frame(&mut socket, Message::Ping(Default::default())).await
                }
            }
        };
        if let Err(end) = step {
            if matches!(end, End::Ours | End::Ending) {
                // It ends either way.
                let _gone = frame(&mut socket, Message::Close(None)).await;
            }
            return if inputs.is_closed() { End::Ending } else { end };
        }
    }
}

async fn receive(
    frame: Option<Result<Message, tungstenite::Error>>,
    inputs: &mpsc::Sender<Input>,
) -> Result<(), End> {
    match frame {
        None | Some(Ok(Message::Close(_))) => Err(End::Closed),
        Some(Err(error)) => Err(End::Connection(error)),
        Some(Ok(Message::Text(text))) => {
            let message = serde_json::from_str(&text).map_err(End::NotUnderstood)?;
            let said = Input::Root(RootEvent::Said(Box::new(message)));
            inputs.send(said).await.map_err(|_| End::Ending)
        }
        Some(Ok(_)) => Ok(()),
    }
}

async fn send(socket: &mut Socket, message: &FromCluster) -> Result<(), End> {
    let text =
        serde_json::to_string(message).expect("no map with keys that are not text in these types");
    frame(socket, Message::text(text)).await
}

async fn frame(socket: &mut Socket, message: Message) -> Result<(), End> {
    match timeout(SILENT_AFTER, socket.send(message)).await {
        Ok(sent) => sent.map_err(End::Connection),
        Err(_) => Err(End::Stuck),
    }
}

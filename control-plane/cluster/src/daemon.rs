//! The one task that owns the cluster's state: it takes what happens, lets the core decide, makes
//! the changes durable, and only then sends.
//!
//! | Task | In | Out |
//! |---|---|---|
//! | owner (here) | [`Input`]s, ticks | store, broker, session, summary |
//! | `mqtt` | broker | inputs |
//! | `session` | root | inputs |
//! | `http` | requests | inputs, from the summary |
//!
//! Whatever has piled up while the disk was busy is decided and written together.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use xylem_daemon::Chain;
use xylem_store::{OpenError, Store, StoreError};
use xylem_types::{node::Node, session::FromCluster};

use crate::{
    broker::{self, BrokerError, Running},
    config::{Broker, Config},
    core::{Cluster, Effect, Records, RegistrationRefused, Settings, Step, Time},
    http::{self, Http},
    message::Message,
    mqtt::{self, BrokerEvent, Publisher},
    records,
    session::{self, RootEvent},
    summary::{Summary, Traffic},
};

/// Name of the store in the data folder.
const STORE: &str = "cluster.redb";
const TICK: Duration = Duration::from_millis(200);
/// Inputs that wait; who has one more waits too.
const QUEUE: usize = 1024;
/// Inputs decided and written together at most.
const BATCH: usize = 256;

/// Something happened.
#[derive(Debug)]
pub(crate) enum Input {
    Register {
        node: Box<Node>,
        peer_ip: IpAddr,
        reply: oneshot::Sender<Result<String, RegistrationRefused>>,
    },
    Broker(BrokerEvent),
    Root(RootEvent),
}

/// Why the cluster cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot load the state from {}", path.display())]
    Load { path: PathBuf, source: StoreError },
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("the embedded broker has ended")]
    BrokerEnded,
    #[error("cannot listen on {address}: is the port taken?")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the HTTP server failed")]
    Serve(#[source] io::Error),
    #[error("the state cannot be written; the cluster ends, to start again from what is on disk")]
    Write(#[source] StoreError),
    #[error("a task of the cluster has panicked")]
    Panicked,
}

/// Runs the cluster until `shutdown` is cancelled.
///
/// # Errors
/// [`ClusterError`], which says what to do.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ClusterError> {
    let (store, records) = open(config.data_dir.join(STORE)).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| ClusterError::Listen { address: config.listen, source })?;
    let (broker_end, early) = match &config.broker {
        Broker::Embedded { listen } => {
            let Running { end, early } = broker::start(*listen)?;
            (Some(end), Some(early))
        }
        Broker::External { .. } => (None, None),
    };
    let mut settings = Settings::new(&config.name);
    settings.cluster_location.clone_from(&config.location);
    settings.worker_silence = config.worker_silence;
    settings.drain_grace = config.drain_grace;

    let (inputs, queue) = mpsc::channel(QUEUE);
    let (publisher, events) = mqtt::client(&config.broker, &config.name);
    let (summary, watching) = watch::channel(Summary::default());
    let mut owner = Owner {
        cluster: Cluster::new(settings, records),
        name: config.name.clone(),
        store,
        publisher: publisher.clone(),
        broker_connected: false,
        broker_behind: false,
        root: None,
        replies: Vec::new(),
        traffic: Traffic::default(),
        summary,
        started: Instant::now(),
    };
    owner.summarize();
    let ending = CancellationToken::new();
    let http = Http { inputs: inputs.clone(), summary: watching, mqtt_port: config.broker.port() };
    let server = axum::serve(
        listener,
        http::router(http).into_make_service_with_connect_info::<SocketAddr>(),
    )
    .with_graceful_shutdown(ending.clone().cancelled_owned());
    let mut serving = tokio::spawn(server.into_future());
    let talking = tokio::spawn(mqtt::run(publisher, events, early, inputs.clone()));
    let dialling = tokio::spawn(session::run(config.session_url.clone(), inputs));
    tracing::info!(
        cluster.name = config.name, listen = %config.listen, mqtt.port = config.broker.port(),
        root = config.session_url, data_dir = %config.data_dir.display(), "cluster is up",
    );
    let broker_ended = async {
        match broker_end {
            // Told, or the thread has panicked.
            Some(end) => drop(end.await),
            None => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        owned = owner.run(queue) => owned,
        () = broker_ended => Err(ClusterError::BrokerEnded),
        served = &mut serving => match served {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(ClusterError::Serve(error)),
            Err(_) => Err(ClusterError::Panicked),
        },
    };
    // The owner is gone with its queue, so whoever waits for an answer gets none, and the session
    // sees its sender dropped and closes the connection.
    ending.cancel();
    drop(owner);
    talking.abort();
    let _late = tokio::time::timeout(Duration::from_secs(1), dialling).await;
    outcome
}

async fn open(path: PathBuf) -> Result<(Store, Records), ClusterError> {
    let opening = tokio::task::spawn_blocking(move || {
        let store = Store::open(&path, records::schema())?;
        let records = store
            .read_blocking(records::load)
            .map_err(|source| ClusterError::Load { path, source })?;
        Ok((store, records))
    });
    opening.await.map_err(|_| ClusterError::Panicked)?
}

/// The answer to a registration, sent once the worker is on disk.
type Reply =
    (oneshot::Sender<Result<String, RegistrationRefused>>, Result<String, RegistrationRefused>);

struct Owner {
    cluster: Cluster,
    name: String,
    store: Store,
    publisher: Publisher,
    broker_connected: bool,
    /// A message was not taken; everything is said again.
    broker_behind: bool,
    root: Option<mpsc::Sender<FromCluster>>,
    replies: Vec<Reply>,
    traffic: Traffic,
    summary: watch::Sender<Summary>,
    started: Instant,
}

impl Owner {
    async fn run(&mut self, mut queue: mpsc::Receiver<Input>) -> Result<(), ClusterError> {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let tick = tokio::select! {
                taken = queue.recv_many(&mut batch, BATCH) => {
                    if taken == 0 {
                        return Ok(());
                    }
                    false
                }
                _ = ticks.tick() => {
                    // What was said before this moment counts before time does: nobody is lost
                    // whose word is in the queue.
                    while batch.len() < QUEUE && let Ok(input) = queue.try_recv() {
                        batch.push(input);
                    }
                    true
                }
            };
            let now = self.now();
            for input in batch.drain(..) {
                self.take(input, now);
            }
            if tick {
                self.tick(now);
            }
            let step = self.cluster.step(now);
            self.carry_out(step).await?;
            if tick {
                self.summarize();
            }
        }
    }

    fn now(&self) -> Time {
        self.started.elapsed()
    }

    fn take(&mut self, input: Input, now: Time) {
        match input {
            Input::Register { node, peer_ip, reply } => {
                let outcome = self.cluster.register(*node, Some(peer_ip), now);
                match &outcome {
                    Ok(id) => tracing::info!(node.id = id, peer = %peer_ip, "worker registered"),
                    Err(refused) => {
                        tracing::warn!(peer = %peer_ip, reason = %refused, "worker refused");
                    }
                }
                self.replies.push((reply, outcome));
            }
            Input::Broker(event) => self.on_broker(event, now),
            Input::Root(event) => self.on_root(event, now),
        }
    }

    fn on_broker(&mut self, event: BrokerEvent, now: Time) {
        match event {
            BrokerEvent::Connected => {
                self.broker_connected = true;
                self.cluster.broker_connected(now);
                self.summarize();
            }
            BrokerEvent::Lost => {
                self.broker_connected = false;
                self.cluster.broker_lost();
                self.summarize();
            }
            BrokerEvent::Said { worker, message } => {
                self.traffic.mqtt_received += 1;
                self.cluster.from_worker(&worker, message, now);
            }
            BrokerEvent::NotUnderstood(error) => {
                self.traffic.mqtt_received += 1;
                self.traffic.mqtt_not_understood += 1;
                tracing::warn!(error = %Chain(&error), "message of a worker not understood");
            }
        }
    }

    fn on_root(&mut self, event: RootEvent, now: Time) {
        match event {
            RootEvent::Connected(outgoing) => {
                self.root = Some(outgoing);
                self.traffic.root_sessions += 1;
                self.cluster.root_connected();
            }
            RootEvent::Said(message) => {
                let listened = self.cluster.root_listens();
                if let Err(refused) = self.cluster.from_root(*message, now) {
                    tracing::error!(reason = %refused, "session with the root refused");
                    self.root = None;
                }
                if !listened && self.cluster.root_listens() {
                    tracing::info!(
                        cluster.id = self.cluster.cluster_id(),
                        "session with the root stands"
                    );
                    self.summarize();
                }
            }
            RootEvent::Gone => {
                self.root = None;
                self.cluster.root_gone();
                self.summarize();
            }
        }
    }

    fn tick(&mut self, now: Time) {
        if std::mem::take(&mut self.broker_behind) && self.broker_connected {
            self.cluster.broker_connected(now);
        }
        self.cluster.tick(now);
    }

    async fn carry_out(&mut self, step: Step) -> Result<(), ClusterError> {
        let Step { changes, effects } = step;
        if !changes.is_empty() {
            self.store
                .transact(move |store| records::write(store, changes))
                .await
                .map_err(ClusterError::Write)?;
        }
        for (reply, outcome) in self.replies.drain(..) {
            // The worker may have gone away meanwhile; it will register again.
            let _gone = reply.send(outcome);
        }
        for effect in effects {
            match effect {
                Effect::Mqtt(message) => self.publish(&message),
                Effect::Root(message) => self.tell_root(message),
            }
        }
        Ok(())
    }

    fn publish(&mut self, message: &Message) {
        if !self.broker_connected {
            self.traffic.mqtt_dropped += 1;
            return;
        }
        match self.publisher.publish(message) {
            Ok(()) => self.traffic.mqtt_sent += 1,
            Err(behind) => {
                if !std::mem::replace(&mut self.broker_behind, true) {
                    tracing::warn!(error = %behind, "message to a worker dropped, saying all again");
                }
                self.traffic.mqtt_dropped += 1;
            }
        }
    }

    /// A root that is too far behind loses its session, and compares in the next.
    fn tell_root(&mut self, message: FromCluster) {
        let Some(root) = &self.root else { return };
        if let Err(error) = root.try_send(message) {
            if matches!(error, mpsc::error::TrySendError::Full(_)) {
                tracing::warn!("the root is too far behind, beginning a new session");
            }
            self.root = None;
            self.cluster.root_gone();
        }
    }

    fn summarize(&self) {
        let summary = Summary::of(&self.cluster, &self.name, self.broker_connected, self.traffic);
        self.summary.send_replace(summary);
    }
}

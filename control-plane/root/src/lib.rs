//! The root of the control plane: system manager, scheduler over clusters, and the root network
//! component, in one process.
//!
//! `core` knows and decides, and does no I/O. `engine` is the thread that owns the state: it runs
//! one change after the other, writes it, and then answers. `api` is the REST interface,
//! `session` the clusters' one; both only ask the engine.

mod api;
mod auth;
mod config;
mod core;
mod engine;
mod metrics;
mod persist;
mod session;

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use xylem_daemon::Chain;
use xylem_store::{OpenError, Store, StoreError};

pub use config::{Config, ConfigError, Flags};
use core::{
    account::{ADMIN, FIRST_USER},
    refusal::Refusal,
    state::{Settings, State},
};
use engine::{AskError, Engine, EngineFailure};

/// Name of the store in the data folder.
const STORE: &str = "root.redb";
/// An instance that a cluster has not confirmed when it goes away moves to another after this.
const UNCONFIRMED_MOVE_AFTER: Duration = Duration::from_secs(10);
/// How often the root looks for what time alone brings about.
const TICK: Duration = Duration::from_secs(1);
const TIMING: session::Timing =
    session::Timing { ping_every: Duration::from_secs(5), silent_after: Duration::from_secs(15) };
/// Requests in progress get this long to end when the root shall.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(5);

/// Why the root cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot load the state from {}: {reason}", path.display())]
    Load { path: PathBuf, reason: String },
    #[error("cannot prepare the state")]
    Prepare(#[source] StoreError),
    #[error("cannot make the first user: {0}")]
    FirstUser(String),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    #[error("cannot listen on {address}: is the port taken?")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the HTTP server failed")]
    Serve(#[source] io::Error),
    #[error("{0}; the root ends, so that it starts again from what is on disk")]
    Failed(String),
}

/// A root with its state loaded, not yet listening.
#[derive(Debug)]
pub struct Root {
    api: api::Api,
    failure: watch::Receiver<Option<EngineFailure>>,
}

impl Root {
    /// Loads the state, making it at the first start.
    ///
    /// # Errors
    /// [`RootError`], when the store is locked, damaged or another's.
    pub async fn open(config: &Config) -> Result<Self, RootError> {
        let path = config.data_dir.join(STORE);
        let settings = Settings {
            resources_stale_after: config.cluster_stale_after,
            unconfirmed_move_after: UNCONFIRMED_MOVE_AFTER,
        };
        let opening = tokio::task::spawn_blocking(move || {
            let store = Store::open(&path, persist::schema())?;
            let tables = persist::load(&store)
                .map_err(|error| RootError::Load { path, reason: Chain(&error).to_string() })?;
            let auth = auth::Auth::open(&store).map_err(RootError::Prepare)?;
            let mut state = State::new(tables, settings);
            // Written with the first change, or given again at the next start.
            match state.complete_addresses() {
                Ok(0) => {}
                Ok(services) => {
                    tracing::info!(services, "services got the service IPs they lacked")
                }
                Err(refusal) => tracing::warn!(
                    reason = %refusal, "services have fewer service IPs than there are policies"
                ),
            }
            Ok::<_, RootError>((state, store, auth))
        });
        let (state, store, auth) =
            opening.await.map_err(|error| RootError::Failed(error.to_string()))??;
        let (engine, failure) = Engine::start(state, store).map_err(RootError::Thread)?;
        first_user(&engine, config.admin_password.clone()).await?;
        let api = api::Api {
            engine,
            auth,
            metrics: metrics::Metrics::new(),
            timing: TIMING,
            shutdown: CancellationToken::new(),
        };
        Ok(Self { api, failure })
    }

    /// The HTTP interface.
    pub fn router(&self) -> Router {
        api::router(self.api.clone())
    }

    /// Serves until `shutdown` is cancelled.
    ///
    /// # Errors
    /// When the server fails, or the state cannot be written any more.
    pub async fn serve(
        mut self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), RootError> {
        let router = self.router();
        let ending = self.api.shutdown.clone();
        let server =
            axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>())
                .with_graceful_shutdown(ending.clone().cancelled_owned());
        let mut serving = tokio::spawn(server.into_future());
        let ticking = tokio::spawn(tick(self.api.engine.clone(), ending.clone()));
        let outcome = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            served = &mut serving => match served {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(RootError::Serve(error)),
                Err(error) => Err(RootError::Failed(error.to_string())),
            },
            reason = failed(&mut self.failure) => Err(RootError::Failed(reason)),
        };
        ending.cancel();
        if !serving.is_finished()
            && tokio::time::timeout(SHUTDOWN_PATIENCE, &mut serving).await.is_err()
        {
            tracing::warn!("requests in progress were cut off");
            serving.abort();
        }
        ticking.abort();
        outcome
    }
}

/// Opens the state, listens and serves until `shutdown` is cancelled.
///
/// # Errors
/// [`RootError`], which says what to do.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), RootError> {
    let root = Root::open(&config).await?;
    let listener = TcpListener::bind(config.listen)
        .await
        .map_err(|source| RootError::Listen { address: config.listen, source })?;
    let listen = listener.local_addr().unwrap_or(config.listen);
    tracing::info!(%listen, data_dir = %config.data_dir.display(), "root is up");
    root.serve(listener, shutdown).await
}

/// Makes the user Admin when there is no user yet.
async fn first_user(engine: &Engine, password: Option<String>) -> Result<(), RootError> {
    let failed =
        |error: &(dyn std::error::Error + 'static)| RootError::FirstUser(Chain(error).to_string());
    let users = engine.ask(|state, _| Ok(state.users.len())).await.map_err(|e| failed(&e))?;
    if users > 0 {
        return Ok(());
    }
    let well_known = password.is_none();
    let password = password.unwrap_or_else(|| FIRST_USER.to_owned());
    let hashing = tokio::task::spawn_blocking(move || auth::hash_password(&password));
    let hash = hashing.await.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
    let made = engine
        .ask(move |state, now| {
            state.add_user(FIRST_USER, "", hash, vec![ADMIN.to_owned()], now).map(drop)
        })
        .await;
    match made {
        Ok(()) | Err(AskError::Refused(Refusal::Exists { .. })) => {}
        Err(error) => return Err(failed(&error)),
    }
    if well_known {
        tracing::warn!(
            "the user Admin has the password Admin: change it, or set XYLEM_ADMIN_PASSWORD before \
             the first start"
        );
    }
    Ok(())
}

async fn tick(engine: Engine, ending: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while ending.run_until_cancelled(ticks.tick()).await.is_some() {
        engine.tell(core::state::State::tick).await;
    }
}

/// Why the engine ended, once it has.
async fn failed(failure: &mut watch::Receiver<Option<EngineFailure>>) -> String {
    match failure.wait_for(Option::is_some).await {
        Ok(failure) => failure.as_ref().map(EngineFailure::to_string).unwrap_or_default(),
        Err(_) => "the state's thread has panicked".to_owned(),
    }
}

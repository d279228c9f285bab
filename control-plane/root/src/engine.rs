//! The one owner of the state: a thread that runs changes in the order in which they arrive,
//! writes them, and only then answers and sends.
//!
//! Changes that have piled up while the disk was busy are written together. When the disk
//! refuses, everybody who waits is told so and the process ends, since what is in memory is no
//! longer what is on disk; whoever supervises it starts it again from the disk.

use std::{collections::HashMap, thread};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use xylem_daemon::Chain;
use xylem_store::{Store, StoreError};
use xylem_types::session::FromRoot;

use crate::{
    core::{
        cluster::Hello,
        moment::Moment,
        refusal::Refusal,
        state::{Outgoing, State},
    },
    persist,
};

/// Changes that wait; who has one more waits too.
const QUEUE: usize = 1024;
/// Changes written together at most.
const BATCH: usize = 256;
/// Messages that a session may be behind. One that is further behind ends, and begins again by
/// comparing states.
pub(crate) const SESSION_QUEUE: usize = 8192;

/// Runs once the disk has the change, or has refused it.
type Completion = Box<dyn FnOnce(bool) + Send>;
type Change = Box<dyn FnOnce(&mut State, Moment) -> Completion + Send>;

enum Command {
    Change(Change),
    Attach { hello: Hello, reply: oneshot::Sender<Attached> },
}

/// A session that has begun.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) session: u64,
    pub(crate) cluster_id: String,
    /// Ends when the session shall.
    pub(crate) outgoing: mpsc::Receiver<FromRoot>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the root cannot write its store and is ending; try again when it is back")]
    Unavailable,
}

/// The way to the state; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    commands: mpsc::Sender<Command>,
}

impl Engine {
    /// Starts the thread. The second value turns to an error when it ends by itself.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub(crate) fn start(
        state: State,
        store: Store,
    ) -> std::io::Result<(Self, watch::Receiver<Option<EngineFailure>>)> {
        let (commands, queue) = mpsc::channel(QUEUE);
        let (failed, failure) = watch::channel(None);
        let started = Instant::now();
        thread::Builder::new().name("state".to_owned()).spawn(move || {
            let mut owner =
                Owner { state, store, senders: HashMap::new(), last_session: 0, started };
            if let Err(source) = owner.run(queue) {
                failed.send_replace(Some(EngineFailure { reason: Chain(&source).to_string() }));
            }
        })?;
        Ok((Self { commands }, failure))
    }

    /// Makes a change, and returns once it is on disk.
    ///
    /// # Errors
    /// [`AskError`]: nothing was changed.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut State, Moment) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, AskError> {
        let (reply, answer) = oneshot::channel();
        let change: Change = Box::new(move |state, now| {
            let outcome = state.transaction(|state| change(state, now));
            Box::new(move |written| {
                let outcome = match outcome {
                    Ok(_) if !written => Err(AskError::Unavailable),
                    other => other.map_err(AskError::Refused),
                };
                // Who asked may have gone away meanwhile; the change stays.
                let _gone = reply.send(outcome);
            })
        });
        self.commands.send(Command::Change(change)).await.map_err(|_| AskError::Unavailable)?;
        answer.await.map_err(|_| AskError::Unavailable)?
    }

    /// Makes a change that cannot be refused, without waiting for it.
    pub(crate) async fn tell(&self, change: impl FnOnce(&mut State, Moment) + Send + 'static) {
        let change: Change = Box::new(move |state, now| {
            let infallible: Result<(), std::convert::Infallible> = state.transaction(|state| {
                change(state, now);
                Ok(())
            });
            let Ok(()) = infallible;
            Box::new(|_| {})
        });
        // When the thread has ended, the process is about to.
        let _ended = self.commands.send(Command::Change(change)).await;
    }

    /// Begins a session.
    pub(crate) async fn attach(&self, hello: Hello) -> Result<Attached, AskError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command::Attach { hello, reply })
            .await
            .map_err(|_| AskError::Unavailable)?;
        answer.await.map_err(|_| AskError::Unavailable)
    }
}

/// Why the state's thread ended.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the store cannot be written: {reason}")]
pub(crate) struct EngineFailure {
    reason: String,
}

struct Owner {
    state: State,
    store: Store,
    /// By session.
    senders: HashMap<u64, mpsc::Sender<FromRoot>>,
    last_session: u64,
    started: Instant,
}

impl Owner {
    /// Until the last [`Engine`] is gone.
    fn run(&mut self, mut queue: mpsc::Receiver<Command>) -> Result<(), StoreError> {
        let mut batch = Vec::with_capacity(BATCH);
        while queue.blocking_recv_many(&mut batch, BATCH) > 0 {
            let completions: Vec<_> =
                batch.drain(..).map(|command| self.execute(command)).collect();
            self.state.refresh_peers();
            let written = persist::write(&self.store, &mut self.state);
            if written.is_ok() {
                self.send();
            }
            for completion in completions {
                completion(written.is_ok());
            }
            written?;
        }
        Ok(())
    }

    fn execute(&mut self, command: Command) -> Completion {
        let now = Moment { wall: Timestamp::now(), monotonic: self.started.elapsed() };
        match command {
            Command::Change(change) => change(&mut self.state, now),
            Command::Attach { hello, reply } => {
                self.last_session += 1;
                let session = self.last_session;
                let (sender, outgoing) = mpsc::channel(SESSION_QUEUE);
                self.senders.insert(session, sender);
                let attached: Result<_, std::convert::Infallible> =
                    self.state.transaction(|state| Ok(state.attach(session, hello, now)));
                let Ok(cluster_id) = attached;
                Box::new(move |written| {
                    if written {
                        let _gone = reply.send(Attached { session, cluster_id, outgoing });
                    }
                })
            }
        }
    }

    /// A session whose queue is full has its sender dropped: it ends, and resumes by comparison.
    fn send(&mut self) {
        for outgoing in self.state.outbox.drain(..) {
            match outgoing {
                Outgoing::Send { session, message } => {
                    let Some(sender) = self.senders.get(&session) else { continue };
                    if let Err(error) = sender.try_send(message) {
                        if matches!(error, mpsc::error::TrySendError::Full(_)) {
                            tracing::warn!(session, "session is too far behind, ending it");
                        }
                        self.senders.remove(&session);
                    }
                }
                Outgoing::Close { session } => {
                    self.senders.remove(&session);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::core::state::{Settings, Tables};

    fn hello() -> Hello {
        Hello {
            name: "munich".to_owned(),
            location: String::new(),
            ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    fn engine() -> (tempfile::TempDir, Engine) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("root.redb"), persist::schema()).unwrap();
        let settings = Settings {
            resources_stale_after: std::time::Duration::from_secs(15),
            unconfirmed_move_after: std::time::Duration::from_secs(10),
        };
        let state = State::new(Tables::default(), settings);
        let (engine, _failure) = Engine::start(state, store).unwrap();
        (folder, engine)
    }

    #[tokio::test]
    async fn a_session_that_takes_nothing_ends_when_its_queue_is_full() {
        let (_folder, engine) = engine();
        let mut slow = engine.attach(hello()).await.unwrap();
        for _ in 0..SESSION_QUEUE {
            let cluster_id = slow.cluster_id.clone();
            engine.tell(move |state, _| state.subnet(&cluster_id, "worker".to_owned())).await;
        }
        engine.ask(|_, _| Ok(())).await.unwrap();
        let mut taken = 0;
        let take_all = async {
            while slow.outgoing.recv().await.is_some() {
                taken += 1;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), take_all).await.unwrap();
        assert_eq!(taken, SESSION_QUEUE, "what was queued, and then the end");
        // The next session is well.
        let mut next = engine.attach(hello()).await.unwrap();
        assert!(matches!(next.outgoing.recv().await, Some(FromRoot::Welcome { .. })));
    }

    #[tokio::test]
    async fn a_refused_change_leaves_no_row_and_no_message() {
        let (_folder, engine) = engine();
        let mut session = engine.attach(hello()).await.unwrap();
        let cluster_id = session.cluster_id.clone();
        let refused: Result<(), _> = engine
            .ask(move |state, _| {
                state.subnet(&cluster_id, "worker".to_owned());
                Err(Refusal::NotAdmin)
            })
            .await;
        assert!(matches!(refused, Err(AskError::Refused(Refusal::NotAdmin))));
        let subnets = engine.ask(|state, _| Ok(state.ipam.subnets.held())).await.unwrap();
        assert_eq!(subnets, 0);
        drop(engine);
        let mut messages = Vec::new();
        while let Some(message) = session.outgoing.recv().await {
            messages.push(message);
        }
        assert!(!messages.iter().any(|m| matches!(m, FromRoot::Subnet { .. })), "{messages:?}");
    }
}

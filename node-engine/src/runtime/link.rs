//! The engine's end of a shim: starting one, talking to it, noticing that it is gone.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::Command,
    sync::mpsc,
    time::timeout,
};

use super::{
    folder::InstanceFolder,
    protocol::{Birth, FromShim, LINE_MAX, ToShim, line},
};
use crate::core::outcome::Exit;

/// Making a container takes tens of milliseconds; a shim that needs this long hangs.
const BIRTH_TIMEOUT: Duration = Duration::from_secs(30);
/// Commands that may wait for the shim to read them.
const COMMANDS: usize = 8;

/// Says things to a shim. Dropping it hangs up, which the shim does not mind.
#[derive(Debug)]
pub struct ShimLink {
    commands: mpsc::Sender<ToShim>,
}

/// What a shim tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    Started,
    NotStarted {
        cause: String,
    },
    /// The shim is gone; without an exit status it did not go by itself.
    Ended(Option<Exit>),
}

#[derive(Debug, thiserror::Error)]
pub enum BirthError {
    #[error("the shim cannot be started")]
    Spawn(#[source] io::Error),
    #[error("the shim says nothing")]
    Silent(#[source] io::Error),
    #[error("the shim took longer than {BIRTH_TIMEOUT:?}")]
    Timeout,
    /// In the shim's own words.
    #[error("{0}")]
    Failed(String),
    #[error("the shim said something unknown")]
    Unknown(#[source] serde_json::Error),
}

/// Starts a shim for the bundle in `folder`, and returns the process id of its container.
///
/// The shim's standard input is a locked file: while somebody holds that lock, the shim lives
/// (see [`super::teardown`]).
///
/// # Errors
/// When the container cannot be made. A shim that hangs is killed.
pub async fn start_shim(program: &Path, folder: &InstanceFolder) -> Result<i32, BirthError> {
    let mut child = spawn(program, folder).map_err(BirthError::Spawn)?;
    let output = child.stdout.take().expect("standard output is piped");
    let mut first_line = String::new();
    let mut output = BufReader::new(output);
    match timeout(BIRTH_TIMEOUT, output.read_line(&mut first_line)).await {
        Err(_) => {
            // Killed by `teardown` otherwise; this only saves time.
            let _ = child.start_kill();
            return Err(BirthError::Timeout);
        }
        Ok(Err(error)) => return Err(BirthError::Silent(error)),
        Ok(Ok(0)) => {
            let log = std::fs::read_to_string(folder.shim_log()).unwrap_or_default();
            let last = log.lines().next_back().unwrap_or("no output").to_owned();
            return Err(BirthError::Silent(io::Error::other(last)));
        }
        Ok(Ok(_)) => {}
    }
    match serde_json::from_str(&first_line).map_err(BirthError::Unknown)? {
        Birth::Created { pid } => Ok(pid),
        Birth::Failed { cause } => Err(BirthError::Failed(cause)),
    }
}

fn spawn(program: &Path, folder: &InstanceFolder) -> io::Result<tokio::process::Child> {
    let life = File::create(folder.life())?;
    life.try_lock()?;
    let log = OpenOptions::new().create(true).append(true).open(folder.shim_log())?;
    Command::new(program)
        .arg("shim")
        .arg(folder.path())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(life))
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()
}

impl ShimLink {
    /// Connects to the shim of `folder`; what it tells goes to `events`, `Ended` last. With no
    /// shim there, `Ended` is all that comes.
    pub async fn connect<F, Fut>(folder: &InstanceFolder, events: F) -> Self
    where
        F: Fn(LinkEvent) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let (commands, queue) = mpsc::channel(COMMANDS);
        let stream = connect(folder).await;
        let folder = folder.clone();
        tokio::spawn(async move {
            if let Ok(stream) = stream
                && converse(stream, queue, &events).await == Ending::HungUp
            {
                return;
            }
            events(LinkEvent::Ended(read_exit(&folder))).await;
        });
        Self { commands }
    }

    /// Passes a command on. A shim that is gone does not get it; its end is told by itself.
    pub fn send(&self, command: ToShim) {
        if let Err(error) = self.commands.try_send(command) {
            tracing::debug!(%error, "shim does not take commands");
        }
    }
}

async fn connect(folder: &InstanceFolder) -> io::Result<UnixStream> {
    let (_open, path) = folder.short_socket_path()?;
    UnixStream::connect(path).await
}

#[derive(PartialEq, Eq)]
enum Ending {
    /// The shim is gone.
    Gone,
    /// Nobody is interested any more.
    HungUp,
}

async fn converse<F, Fut>(
    stream: UnixStream,
    mut queue: mpsc::Receiver<ToShim>,
    events: &F,
) -> Ending
where
    F: Fn(LinkEvent) -> Fut,
    Fut: Future<Output = ()>,
{
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::with_capacity(LINE_MAX, reader).lines();
    loop {
        tokio::select! {
            command = queue.recv() => match command {
                None => return Ending::HungUp,
                Some(command) => if writer.write_all(&line(&command)).await.is_err() {
                    return Ending::Gone;
                },
            },
            next = lines.next_line() => match next {
                Ok(Some(text)) => match serde_json::from_str(&text) {
                    Ok(FromShim::Hello { .. }) => {}
                    Ok(FromShim::Started) => events(LinkEvent::Started).await,
                    Ok(FromShim::NotStarted { cause }) => {
                        events(LinkEvent::NotStarted { cause }).await;
                    }
                    Err(error) => tracing::warn!(%error, "shim said something unknown"),
                },
                Ok(None) | Err(_) => return Ending::Gone,
            },
        }
    }
}

/// What a shim that is gone left behind.
fn read_exit(folder: &InstanceFolder) -> Option<Exit> {
    serde_json::from_slice(&std::fs::read(folder.exit()).ok()?).ok()
}

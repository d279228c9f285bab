//! What others ask the daemon's task to do.

use net_maps::Name;
use tokio::sync::{mpsc, oneshot};
use xylem_types::{
    net_api::{RegisterRequest, Status},
    port::PortMapping,
};

use crate::core::{
    ipam::Lease,
    published::PortsRefused,
    translation::{LocalInstance, MapFull},
    worker::NoLease,
};
use crate::metrics::read::Observed;

/// The daemon's task has ended.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the net manager is shutting down")]
pub struct Gone;

/// Why an instance is not in the maps.
#[derive(Debug, thiserror::Error)]
pub enum NotAttached {
    #[error(transparent)]
    Gone(#[from] Gone),
    #[error(transparent)]
    Full(#[from] MapFull),
    #[error("{0} (in `portMappings`)")]
    Ports(#[from] PortsRefused),
    #[error("the maps of the data path could not be written; the log says why")]
    NotWritten,
}

#[derive(Debug)]
pub(super) enum Command {
    Register(RegisterRequest),
    Lease(oneshot::Sender<Result<Lease, NoLease>>),
    Release(Lease),
    Attach {
        name: Name,
        number: u32,
        lease: Lease,
        ifindex: u32,
        ports: Vec<PortMapping>,
        reply: oneshot::Sender<Result<(), NotAttached>>,
    },
    Detach {
        name: Name,
        number: u32,
        reply: oneshot::Sender<Option<LocalInstance>>,
    },
    Local {
        name: Name,
        number: u32,
        reply: oneshot::Sender<Option<(LocalInstance, Vec<PortMapping>)>>,
    },
    /// Replied to when the instance knows its instance IP.
    Named {
        name: Name,
        number: u32,
        reply: oneshot::Sender<()>,
    },
    Status(oneshot::Sender<Status>),
    Observe(oneshot::Sender<Observed>),
}

/// Speaks with the daemon's task.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
}

impl Handle {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { commands }
    }

    /// Says which worker this is; the same again changes nothing.
    ///
    /// # Errors
    /// The daemon is going.
    pub async fn register(&self, request: RegisterRequest) -> Result<(), Gone> {
        self.commands.send(Command::Register(request)).await.map_err(|_| Gone)
    }

    pub(super) async fn lease(&self) -> Result<Result<Lease, NoLease>, Gone> {
        self.ask(Command::Lease).await
    }

    pub(super) async fn release(&self, lease: Lease) -> Result<(), Gone> {
        self.commands.send(Command::Release(lease)).await.map_err(|_| Gone)
    }

    /// Writes an instance with its published ports to the maps and announces it.
    pub(super) async fn attach(
        &self,
        name: Name,
        number: u32,
        lease: Lease,
        ifindex: u32,
        ports: Vec<PortMapping>,
    ) -> Result<(), NotAttached> {
        self.ask(|reply| Command::Attach { name, number, lease, ifindex, ports, reply }).await?
    }

    /// Takes an instance out of the maps and announces that; what it was, if it was there.
    pub(super) async fn detach(
        &self,
        name: Name,
        number: u32,
    ) -> Result<Option<LocalInstance>, Gone> {
        self.ask(|reply| Command::Detach { name, number, reply }).await
    }

    /// An instance of this node, with its published ports.
    pub(super) async fn local(
        &self,
        name: Name,
        number: u32,
    ) -> Result<Option<(LocalInstance, Vec<PortMapping>)>, Gone> {
        self.ask(|reply| Command::Local { name, number, reply }).await
    }

    /// Returns when the instance knows its instance IP.
    pub(super) async fn named(&self, name: Name, number: u32) -> Result<(), Gone> {
        self.ask(|reply| Command::Named { name, number, reply }).await
    }

    /// How the daemon is doing.
    ///
    /// # Errors
    /// It is going.
    pub async fn status(&self) -> Result<Status, Gone> {
        self.ask(Command::Status).await
    }

    /// What only the daemon's task knows, for its metrics.
    ///
    /// # Errors
    /// It is going.
    pub async fn observe(&self) -> Result<Observed, Gone> {
        self.ask(Command::Observe).await
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Gone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}

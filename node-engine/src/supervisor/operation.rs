//! What takes time: each operation runs in a task of its own and answers with one message.

use std::{
    io::Write,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};
use xylem_daemon::Chain;
use xylem_types::{mqtt::DeployCommand, net_api::DeployResponse};

use super::slot::Slot;
use crate::{
    core::{
        id::InstanceId,
        instance::{self, AttachFailure, Event},
    },
    image::{Image, Images},
    net_api::NetApi,
    resources::machine::VIRTUALIZATION,
    runtime::{
        bundle::{Bundle, Limits},
        cgroup::Cgroup,
        folder::InstanceFolder,
        link::{LinkEvent, ShimLink, start_shim},
        process::Process,
        teardown::tear_down,
    },
};

/// Between two attempts to clear an instance away.
const CLEAR_RETRY: Duration = Duration::from_secs(1);

/// MB to bytes, as SLAs count.
const MEGABYTE: u64 = 1_000_000;

/// What operations work with.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) images: Arc<Images>,
    pub(super) net: Option<NetApi>,
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) image_permits: Arc<Semaphore>,
    pub(super) program: PathBuf,
    pub(super) processes_max: u64,
    pub(super) log_bytes_max: u64,
    /// A net manager that is away does not keep an instance from going for longer than this.
    pub(super) detach_within: Duration,
}

/// Something came of an operation or a shim.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) id: InstanceId,
    pub(super) stamp: Stamp,
    pub(super) answer: Answer,
}

/// Which operation or link a message is of.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stamp {
    Operation(u64),
    Link(u64),
}

#[derive(Debug)]
pub(super) enum Answer {
    Event(Event),
    Prepared(Box<Bundle>),
    Linked(ShimLink),
    Link(LinkEvent),
}

/// Sends the messages of one operation.
#[derive(Clone, Debug)]
struct Reply {
    id: InstanceId,
    stamp: Stamp,
    messages: mpsc::Sender<Message>,
}

impl Reply {
    async fn send(&self, answer: Answer) {
        let message = Message { id: self.id.clone(), stamp: self.stamp, answer };
        if self.messages.send(message).await.is_err() {
            tracing::debug!("engine is stopping, answer dropped");
        }
    }
}

impl Context {
    fn reply(&self, id: &InstanceId, stamp: Stamp) -> Reply {
        Reply { id: id.clone(), stamp, messages: self.messages.clone() }
    }

    /// Fetches and unpacks the image, and works out what to run.
    pub(super) fn prepare(&self, id: &InstanceId, slot: &mut Slot) {
        let Some(command) = instance::command(&slot.phase).cloned() else { return };
        let reply = self.reply(id, Stamp::Operation(slot.next_operation()));
        let (context, cgroup) = (self.clone(), slot.cgroup.path().to_owned());
        let task = tokio::spawn(async move {
            let answer = match context.bundle(&reply.id, &command, cgroup).await {
                Ok(bundle) => Answer::Prepared(Box::new(bundle)),
                Err(cause) => Answer::Event(Event::Prepared(Err(cause))),
            };
            reply.send(answer).await;
        });
        slot.preparation = Some(task.abort_handle());
    }

    async fn bundle(
        &self,
        id: &InstanceId,
        command: &DeployCommand,
        cgroup: PathBuf,
    ) -> Result<Bundle, String> {
        // Users may write `container`, which the control plane makes `docker`.
        if ![VIRTUALIZATION, "container"].contains(&command.virtualization.as_str()) {
            return Err(format!(
                "this worker runs {VIRTUALIZATION:?}, not {:?}",
                command.virtualization
            ));
        }
        let permit = self.image_permits.acquire().await;
        let image = self.images.prepare(&command.image).await;
        drop(permit);
        let Image { config, needs, .. } =
            image.map_err(|e| format!("image {}: {}", command.image, Chain(&e)))?;
        let process = Process::new(&config, command).map_err(|e| Chain(&e).to_string())?;
        Ok(Bundle {
            id: id.to_string(),
            process,
            layers_folder: self.images.layers_folder().to_owned(),
            needs,
            cgroup,
            limits: Limits {
                memory_bytes: command.memory.saturating_mul(MEGABYTE),
                cpus: command.vcpus,
                processes: self.processes_max,
            },
            privileged: command.privileged,
            log_bytes_max: self.log_bytes_max,
        })
    }

    /// Makes the container, its first process held back, and a link to its shim.
    pub(super) fn create(&self, id: &InstanceId, slot: &mut Slot) {
        let reply = self.reply(id, Stamp::Operation(slot.next_operation()));
        let link = self.reply(id, Stamp::Link(slot.next_link()));
        let (folder, program) = (slot.folder.clone(), self.program.clone());
        let Some(bundle) = slot.bundle.take() else { return };
        tokio::spawn(async move {
            let created = match bundle.save(&folder) {
                Err(error) => Err(format!("instance cannot be written down: {error}")),
                Ok(()) => start_shim(&program, &folder).await.map_err(|e| Chain(&e).to_string()),
            };
            if created.is_ok() {
                connect(&folder, link).await;
            }
            reply.send(Answer::Event(Event::Created(created))).await;
        });
    }

    /// Finds the shim of an earlier engine.
    pub(super) fn reconnect(&self, id: &InstanceId, slot: &mut Slot) {
        let link = self.reply(id, Stamp::Link(slot.next_link()));
        let folder = slot.folder.clone();
        tokio::spawn(async move { connect(&folder, link).await });
    }

    pub(super) fn attach(&self, id: &InstanceId, slot: &mut Slot, pid: i32) {
        let Some(command) = instance::command(&slot.phase) else { return };
        let ports = command.port.clone();
        let reply = self.reply(id, Stamp::Operation(slot.next_operation()));
        let (net, folder) = (self.net.clone(), slot.folder.clone());
        tokio::spawn(async move {
            let attached = match net {
                Some(net) => attach(&net, &folder, &reply.id, pid, &ports).await,
                None => Ok(()),
            };
            reply.send(Answer::Event(Event::Attached(attached))).await;
        });
    }

    /// Goes on until nothing is left: an instance that cannot be cleared away is never forgotten.
    pub(super) fn clear(&self, id: &InstanceId, slot: &mut Slot) {
        let reply = self.reply(id, Stamp::Operation(slot.next_operation()));
        slot.next_link();
        slot.bundle = None;
        let (net, folder, cgroup) = (self.net.clone(), slot.folder.clone(), slot.cgroup.clone());
        let give_up_at = Instant::now() + self.detach_within;
        tokio::spawn(async move {
            if let Some(net) = net.filter(|_| folder.attached().exists()) {
                end(&folder, &cgroup).await;
                detach(&net, &reply.id, give_up_at).await;
            }
            clear(&folder, &cgroup).await;
            reply.send(Answer::Event(Event::Cleared)).await;
        });
    }
}

/// Removes what nobody knows.
pub(super) async fn clear_unknown(folder: InstanceFolder, cgroup: Cgroup) {
    clear(&folder, &cgroup).await;
    if let Err(error) = std::fs::remove_dir_all(folder.path()) {
        tracing::error!(path = %folder.path().display(), %error, "cannot be removed");
    }
}

async fn connect(folder: &InstanceFolder, link: Reply) {
    let tell = link.clone();
    let made = ShimLink::connect(folder, move |event| {
        let tell = tell.clone();
        async move { tell.send(Answer::Link(event)).await }
    });
    link.send(Answer::Linked(made.await)).await;
}

async fn attach(
    net: &NetApi,
    folder: &InstanceFolder,
    id: &InstanceId,
    pid: i32,
    ports: &str,
) -> Result<(), AttachFailure> {
    // Before the request: whoever clears up has to know that it may have been made.
    std::fs::write(folder.attached(), "")
        .map_err(|error| AttachFailure::Refused(format!("cannot be written down: {error}")))?;
    let DeployResponse { ns_address, ns_addressv6, .. } = net.attach(id, pid, ports).await?;
    let addresses = [Some(IpAddr::from(ns_address)), ns_addressv6.map(IpAddr::from)];
    let lines =
        addresses.into_iter().flatten().map(|ip| format!("{ip}\tinstance-{}\n", id.number()));
    let append = || {
        let mut hosts = std::fs::OpenOptions::new().append(true).open(folder.etc("hosts"))?;
        hosts.write_all(lines.collect::<String>().as_bytes())
    };
    append().map_err(|error| AttachFailure::Refused(format!("/etc/hosts: {error}")))
}

async fn detach(net: &NetApi, id: &InstanceId, give_up_at: Instant) {
    loop {
        match net.detach(id).await {
            Ok(()) => return,
            Err(AttachFailure::Refused(error)) => {
                tracing::warn!(instance.id = %id, error, "not detached");
                return;
            }
            Err(AttachFailure::Unavailable(error)) if Instant::now() >= give_up_at => {
                // Its namespace is gone, which the net manager finds out when it is back.
                tracing::error!(instance.id = %id, error, "not detached");
                return;
            }
            Err(AttachFailure::Unavailable(_)) => sleep(CLEAR_RETRY).await,
        }
    }
}

/// Ends shim and container, and leaves their files.
async fn end(folder: &InstanceFolder, cgroup: &Cgroup) {
    let (folder, cgroup) = (folder.clone(), cgroup.clone());
    at_last(move || crate::runtime::teardown::end(&folder, &cgroup)).await;
}

async fn clear(folder: &InstanceFolder, cgroup: &Cgroup) {
    let (folder, cgroup) = (folder.clone(), cgroup.clone());
    at_last(move || tear_down(&folder, &cgroup)).await;
}

/// Tries until it goes well.
async fn at_last<F, E>(attempt: F)
where
    F: Fn() -> Result<(), E> + Send + Sync + 'static,
    E: std::error::Error + Send + 'static,
{
    let attempt = Arc::new(attempt);
    loop {
        let attempt = attempt.clone();
        match tokio::task::spawn_blocking(move || attempt()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(error = %Chain(&error), "instance cannot be cleared away, will retry");
            }
            Err(error) => tracing::error!(%error, "clearing away failed, will retry"),
        }
        sleep(CLEAR_RETRY).await;
    }
}

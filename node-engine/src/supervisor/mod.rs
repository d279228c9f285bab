//! Owns all instances of the worker.
//!
//! One task feeds events to [`crate::core::instance::step`] and has the effects carried out; it
//! never waits for one of them. What takes time runs in a task of its own (`operation`) and
//! comes back as a message. A message that belongs to something given up meanwhile is known by
//! its stamp and dropped.

mod operation;
mod slot;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use xylem_daemon::Chain;
use xylem_types::{
    instance::InstanceStatus,
    mqtt::{InstanceReport, InstanceUsage},
};

use self::{
    operation::{Answer, Context, Message, Stamp},
    slot::Slot,
};
use crate::{
    core::{
        id::InstanceId,
        instance::{self, Effect, Event, Phase, Timing},
    },
    image::Images,
    net_api::NetApi,
    resources::{
        instances::{Running, log_tail},
        machine::VIRTUALIZATION,
    },
    runtime::{
        cgroup::{Cgroup, Hierarchies},
        folder::InstanceFolder,
        link::LinkEvent,
        protocol::ToShim,
    },
    state_folder::{StateFolder, write_record},
    uplink::{Command, Incoming, Outgoing},
};

/// Messages of operations that may wait.
const MESSAGES: usize = 256;

/// A leftover that nobody knows holds the start up for at most this.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(20);

/// What the supervisor works with.
#[derive(Debug)]
pub struct Parts {
    pub state: StateFolder,
    pub images: Arc<Images>,
    /// `None` = instances have loopback only.
    pub net: Option<NetApi>,
    pub hierarchies: Hierarchies,
    pub outgoing: mpsc::Sender<Outgoing>,
    pub running: watch::Sender<Vec<Running>>,
    pub settings: Settings,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub timing: Timing,
    /// Images that are fetched and unpacked at a time.
    pub concurrent_images: usize,
    /// Program that is started as the shim.
    pub program: PathBuf,
    pub cgroup_parent: PathBuf,
    pub processes_max: u64,
    pub log_bytes_max: u64,
    /// Reported as the address of instances.
    pub address: String,
}

#[derive(Debug)]
pub struct Supervisor {
    state: StateFolder,
    hierarchies: Hierarchies,
    outgoing: mpsc::Sender<Outgoing>,
    running: watch::Sender<Vec<Running>>,
    settings: Settings,
    context: Context,
    messages: mpsc::Receiver<Message>,
    slots: BTreeMap<InstanceId, Slot>,
}

impl Supervisor {
    pub fn new(parts: Parts) -> Self {
        let (sender, messages) = mpsc::channel(MESSAGES);
        let context = Context {
            images: parts.images,
            net: parts.net,
            messages: sender,
            image_permits: Arc::new(Semaphore::new(parts.settings.concurrent_images)),
            program: parts.settings.program.clone(),
            processes_max: parts.settings.processes_max,
            log_bytes_max: parts.settings.log_bytes_max,
            detach_within: parts.settings.timing.attach_within,
        };
        Self {
            state: parts.state,
            hierarchies: parts.hierarchies,
            outgoing: parts.outgoing,
            running: parts.running,
            settings: parts.settings,
            context,
            messages,
            slots: BTreeMap::new(),
        }
    }

    /// Until `stop`. Instances go on without it.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Incoming>, stop: CancellationToken) {
        self.adopt().await;
        loop {
            let deadline =
                self.slots.values().filter_map(|slot| instance::deadline(&slot.phase)).min();
            let alarm = async {
                match deadline {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                Some(incoming) = commands.recv() => {
                    self.obey(incoming.command).await;
                    incoming.receipt.confirm();
                }
                Some(message) = self.messages.recv() => self.take(message).await,
                () = alarm => self.tick().await,
            }
        }
    }

    /// Goes on with what an earlier engine left.
    async fn adopt(&mut self) {
        let known = match self.state.instances() {
            Ok(known) => known,
            Err(error) => {
                tracing::error!(error = %Chain(&error), "instances cannot be adopted");
                return;
            }
        };
        for (folder, record) in known {
            let id = record.as_ref().and_then(|record| {
                InstanceId::new(&record.command.job_name, record.command.instance_number).ok()
            });
            let (Some(id), Some(record)) = (id, record) else {
                self.clear_unknown(folder).await;
                continue;
            };
            tracing::info!(instance.id = %id, generation = record.command.generation, "adopted");
            let now = Instant::now();
            let cgroup = self.cgroup_of(&folder);
            let slot = Slot::new(folder, cgroup);
            self.slots.insert(id.clone(), slot);
            let (phase, effects) = instance::resume(record, now, &self.settings.timing);
            self.enter(id, phase, effects).await;
        }
    }

    /// A folder that says nothing about whose it is still has a name and may have a shim.
    async fn clear_unknown(&self, folder: InstanceFolder) {
        tracing::warn!(path = %folder.path().display(), "folder has no record, it is removed");
        let cgroup = self.cgroup_of(&folder);
        // Before any command, which could be for the same instance.
        if timeout(UNKNOWN_TIMEOUT, operation::clear_unknown(folder, cgroup)).await.is_err() {
            tracing::error!("folder without a record could not be removed");
        }
    }

    /// The control group in which the instance in a folder is, or will be.
    fn cgroup_of(&self, folder: &InstanceFolder) -> Cgroup {
        Cgroup::new(self.hierarchies.clone(), folder.cgroup(&self.settings.cgroup_parent))
    }

    async fn obey(&mut self, command: Command) {
        let (job_name, number) = match &command {
            Command::Deploy(deploy) => (&deploy.job_name, deploy.instance_number),
            Command::Delete(delete) => (&delete.job_name, delete.instance_number),
        };
        let id = match InstanceId::new(job_name, number) {
            Ok(id) => id,
            Err(error) => {
                tracing::error!(%error, "command refused");
                return;
            }
        };
        let event = match command {
            Command::Deploy(deploy) => {
                tracing::info!(instance.id = %id, generation = deploy.generation, image = deploy.image, "deploy");
                Event::Deploy(deploy)
            }
            Command::Delete(delete) => {
                tracing::info!(instance.id = %id, generation = delete.generation, "delete");
                Event::Delete { generation: delete.generation }
            }
        };
        if !self.slots.contains_key(&id) {
            let folder = self.state.instance(&id);
            let cgroup = self.cgroup_of(&folder);
            let slot = Slot::new(folder, cgroup);
            self.slots.insert(id.clone(), slot);
        }
        self.feed(id, event).await;
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| instance::deadline(&slot.phase).is_some_and(|at| at <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            self.feed(id, Event::Tick).await;
        }
    }

    async fn take(&mut self, message: Message) {
        let Message { id, stamp, answer } = message;
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if !slot.expects(stamp) {
            return;
        }
        let event = match answer {
            Answer::Event(event) => event,
            Answer::Prepared(bundle) => {
                slot.bundle = Some(*bundle);
                Event::Prepared(Ok(()))
            }
            Answer::Linked(link) => {
                // Asked to end before there was anybody to pass that on.
                if matches!(slot.phase, Phase::Stopping { .. }) {
                    link.send(ToShim::Terminate);
                }
                slot.link = Some(link);
                return;
            }
            Answer::Link(LinkEvent::Started) => Event::Started(Ok(())),
            Answer::Link(LinkEvent::NotStarted { cause }) => Event::Started(Err(cause)),
            Answer::Link(LinkEvent::Ended(exit)) => {
                self.say_last_usage(&id).await;
                exit.map_or(Event::Lost, Event::Exited)
            }
        };
        self.feed(id, event).await;
    }

    async fn feed(&mut self, id: InstanceId, event: Event) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let phase = std::mem::replace(&mut slot.phase, Phase::Vacant);
        let (phase, effects) = instance::step(phase, event, Instant::now(), &self.settings.timing);
        self.enter(id, phase, effects).await;
    }

    /// Makes a phase the one the instance is in: written down, told, its effects begun.
    async fn enter(&mut self, id: InstanceId, phase: Phase, effects: Vec<Effect>) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        slot.phase = phase;
        let record = instance::record(&slot.phase);
        if record != slot.recorded {
            if let Some(record) = &record
                && let Err(error) = write_record(&slot.folder, record)
            {
                tracing::error!(instance.id = %id, %error, "instance cannot be written down");
            }
            slot.recorded = record;
        }
        let status = instance::status(&slot.phase);
        if status != slot.reported {
            slot.reported.clone_from(&status);
            if let Some(status) = status {
                tracing::info!(
                    instance.id = %id,
                    generation = status.generation,
                    status = %status.status,
                    detail = status.detail,
                    "instance"
                );
                let (generation, detail) = (status.generation, status.detail);
                let report = self.report(&id, generation, status.status, detail);
                self.say(Outgoing::State(id.clone(), report)).await;
            }
        }
        for effect in effects {
            self.carry_out(&id, effect).await;
        }
        self.list_running();
    }

    async fn carry_out(&mut self, id: &InstanceId, effect: Effect) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        match effect {
            Effect::Prepare => self.context.prepare(id, slot),
            Effect::Create => self.context.create(id, slot),
            Effect::Attach { pid } => self.context.attach(id, slot, pid),
            Effect::Start => slot.send(ToShim::Start),
            Effect::Reconnect => self.context.reconnect(id, slot),
            Effect::Terminate => slot.send(ToShim::Terminate),
            Effect::Kill => slot.send(ToShim::Kill),
            Effect::Clear => self.context.clear(id, slot),
            Effect::Refuse { generation, current } => {
                tracing::warn!(instance.id = %id, generation, current, "older generation refused");
            }
            Effect::ReportGone { generation } => {
                if slot.phase == Phase::Vacant {
                    slot.remove_folder();
                    self.slots.remove(id);
                }
                let status = InstanceStatus::Undeployed;
                let report = self.report(id, generation, status, String::new());
                self.say(Outgoing::Gone(id.clone(), report)).await;
            }
        }
    }

    /// Before the cluster learns that it is over: what the instance printed last.
    async fn say_last_usage(&self, id: &InstanceId) {
        let Some(slot) = self.slots.get(id) else { return };
        let Phase::Running { command } = &slot.phase else { return };
        let usage = InstanceUsage {
            job_name: id.job_name().to_owned(),
            instance: id.number(),
            virtualization: VIRTUALIZATION.to_owned(),
            cpu_percent: "0".to_owned(),
            memory_percent: "0".to_owned(),
            disk: "0".to_owned(),
            logs: log_tail(&slot.folder),
            generation: command.generation,
        };
        self.say(Outgoing::LastUsage(usage)).await;
    }

    fn report(
        &self,
        id: &InstanceId,
        generation: u64,
        status: InstanceStatus,
        status_detail: String,
    ) -> InstanceReport {
        InstanceReport {
            sname: id.job_name().to_owned(),
            status,
            status_detail,
            instance: id.number(),
            publicip: self.settings.address.clone(),
            generation,
        }
    }

    /// The publisher takes what it is given at once, so this does not wait for the network.
    async fn say(&self, outgoing: Outgoing) {
        if self.outgoing.send(outgoing).await.is_err() {
            tracing::debug!("engine is stopping, report not said");
        }
    }

    fn list_running(&self) {
        let running = self.slots.iter().filter_map(|(id, slot)| {
            let Phase::Running { command } = &slot.phase else { return None };
            Some(Running {
                id: id.clone(),
                generation: command.generation,
                virtualization: VIRTUALIZATION.to_owned(),
                folder: slot.folder.clone(),
                cgroup: slot.cgroup.clone(),
            })
        });
        let running: Vec<_> = running.collect();
        self.running.send_replace(running);
    }
}

impl Slot {
    fn expects(&self, stamp: Stamp) -> bool {
        match stamp {
            Stamp::Operation(number) => self.operation == number,
            Stamp::Link(number) => self.link_number == number,
        }
    }
}

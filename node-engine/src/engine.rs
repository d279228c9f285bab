//! Puts the tasks of the daemon together.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use xylem_daemon::Chain;
use xylem_types::net_api::RegisterRequest;

use crate::{
    config::Config,
    image::{ImageError, Images, sweep::Needs},
    net_api::NetApi,
    resources::{
        instances::{Meter, Running},
        machine::{Identity, Machine},
    },
    runtime::{bundle::Bundle, cgroup::Hierarchies, folder::InstanceFolder},
    state_folder::{StateFolder, StateFolderError},
    supervisor::{Parts, Settings, Supervisor},
    uplink::{
        Outgoing,
        cluster::{Cluster, Registration},
        dial::{Connection, Dialer},
        publish::Publisher,
    },
};

/// Commands that may wait for the supervisor.
const COMMANDS: usize = 64;
/// Reports that may wait for the publisher, which takes them at once.
const OUTGOING: usize = 256;

/// A net manager that restarted is told again who this worker is within this time.
const NET_REGISTER_EVERY: Duration = Duration::from_secs(3);

const SWEEP_EVERY: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    State(#[from] StateFolderError),
    #[error(transparent)]
    Images(#[from] ImageError),
    #[error("control groups cannot be used")]
    Cgroups(#[source] io::Error),
    #[error("the HTTP client cannot be made")]
    Http(#[source] reqwest::Error),
    #[error("this machine cannot be measured")]
    Machine(#[from] sysinfo::Error),
}

/// Runs the engine until `stop`; instances go on.
///
/// # Errors
/// When this machine lacks what an engine needs. What is away (cluster, broker, net manager) is
/// waited for.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), EngineError> {
    let state = StateFolder::open(&config.state_dir)?;
    let hierarchies = Hierarchies::detect().map_err(EngineError::Cgroups)?;
    let images = Arc::new(Images::open(state.content(), config.registries.clone())?);
    let instances = state.instances_folder();
    let cluster = Cluster::new(config.cluster_url.clone()).map_err(EngineError::Http)?;
    let net = config.net_socket.clone().map(NetApi::new).transpose().map_err(EngineError::Http)?;
    let identity = Identity {
        id: state.id().to_string(),
        name: config.node_name.clone(),
        address: config
            .node_address
            .or_else(|| cluster.own_address())
            .map(|address| address.to_string())
            .unwrap_or_default(),
        tunnel_port: config.tunnel_port,
    };
    tracing::info!(worker.id = identity.id, cluster.url = %config.cluster_url, "starting");

    let (outgoing, to_publish) = mpsc::channel(OUTGOING);
    let (commands, to_obey) = mpsc::channel(COMMANDS);
    let (running, to_measure) = watch::channel(vec![]);
    let (connection, seen_connection) = watch::channel(Connection::default());
    let (registration, registered) = watch::channel(None);

    let supervisor = Supervisor::new(Parts {
        settings: Settings {
            timing: config.timing,
            concurrent_images: config.concurrent_images,
            program: PathBuf::from("/proc/self/exe"),
            cgroup_parent: config.cgroup_parent(&state.id()),
            processes_max: config.instance_processes_max,
            log_bytes_max: config.instance_log_bytes_max,
            address: identity.address.clone(),
        },
        state,
        images: images.clone(),
        net: net.clone(),
        hierarchies,
        outgoing: outgoing.clone(),
        running,
    });
    let dialer = Dialer {
        cluster,
        identity: identity.clone(),
        machine: Mutex::new(Machine::new()?),
        connection,
        registration,
        commands,
    };

    let mut tasks = JoinSet::new();
    tasks.spawn(dialer.run());
    tasks.spawn(Publisher::new(to_publish, seen_connection).run());
    tasks.spawn(measure(Machine::new()?, identity, outgoing, to_measure, config.report_interval));
    tasks.spawn(sweep(images, instances, config.image_retention));
    if let Some(net) = net {
        tasks.spawn(introduce(net, registered));
    }
    supervisor.run(to_obey, stop).await;
    tracing::info!("stopping, instances go on");
    tasks.shutdown().await;
    Ok(())
}

/// Tells the net manager who this worker is, again and again: it may have restarted.
async fn introduce(net: NetApi, mut registered: watch::Receiver<Option<Registration>>) {
    let mut every = interval(NET_REGISTER_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fine = None;
    loop {
        tokio::select! {
            _ = every.tick() => {}
            changed = registered.changed() => if changed.is_err() { return },
        }
        let Some(registration) = registered.borrow_and_update().clone() else { continue };
        let request = RegisterRequest {
            client_id: registration.worker_id,
            cluster_address: registration.host,
            mqtt_port: Some(registration.mqtt_port),
        };
        let result = net.register(&request).await;
        if fine != Some(result.is_ok()) {
            match &result {
                Ok(()) => tracing::info!("net manager knows this worker"),
                Err(error) => tracing::warn!(?error, "net manager not registered, will retry"),
            }
            fine = Some(result.is_ok());
        }
    }
}

/// Removes images that are not used any more, now and then.
async fn sweep(images: Arc<Images>, instances: PathBuf, keep: Duration) {
    let mut every = interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        let swept = match needs(&instances) {
            Ok(needs) => images.sweep(&needs, keep).await,
            Err(source) => Err(ImageError::Store { path: instances.clone(), source }),
        };
        match swept {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "unused layers and blobs removed"),
            Err(error) => tracing::warn!(error = %Chain(&error), "unused images not removed"),
        }
    }
}

/// What the instances consist of. One that is being prepared has nothing written down yet, and
/// nothing that is old.
fn needs(instances: &Path) -> io::Result<Vec<Needs>> {
    let mut all = vec![];
    for entry in std::fs::read_dir(instances)? {
        match Bundle::load(&InstanceFolder::new(entry?.path())) {
            Ok(bundle) => all.push(bundle.needs),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Reports, periodically, what the machine has left and what the instances use.
async fn measure(
    mut machine: Machine,
    identity: Identity,
    outgoing: mpsc::Sender<Outgoing>,
    running: watch::Receiver<Vec<Running>>,
    period: Duration,
) {
    let mut every = interval(period);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut meter = Meter::default();
    loop {
        every.tick().await;
        let information = machine.measure(&identity);
        let (instances, memory) = (running.borrow().clone(), machine.memory_bytes());
        // Walks files, which may block.
        let measured = tokio::task::spawn_blocking(move || {
            let resources = meter.measure(&instances, memory, Instant::now());
            (meter, resources)
        });
        let resources = match measured.await {
            Ok((kept, resources)) => {
                meter = kept;
                resources
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), "instances could not be measured");
                meter = Meter::default();
                continue;
            }
        };
        for report in [Outgoing::Information(Box::new(information)), Outgoing::Resources(resources)]
        {
            if outgoing.send(report).await.is_err() {
                return;
            }
        }
    }
}

//! The start: takes over whatever a net manager before left in the kernel, finishes what it had
//! not finished, and begins to serve.

use std::{
    collections::HashMap, fs, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration,
};

use net_common::Addr;
use net_maps::{MapsError, OpenError, PinnedMaps};
use tokio::{net::TcpListener, sync::mpsc, task::JoinError, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{debug, error, info};

use super::{
    Daemon, Inputs,
    command::Handle,
    full::FullMaps,
    gate::Gate,
    instances::Instances,
    network::{self, Network, Remover, Senders},
    node::Node,
    observation::Observation,
    plumbing::Plumbing,
    state::{State, StateError},
    sweeper::Sweeper,
    uplink::{self, Refitter},
};
use crate::{
    api,
    config::Config,
    core::{
        port_range::PortRange,
        tables::PeerAddr,
        translation::{Capacities, LocalInstance, Translation},
        uplink::NoUplink,
        worker::{Settings, Worker},
    },
    kernel::{
        apply,
        bpf::{BpfError, DataPath},
        bpffs::{BpffsError, Lock},
        clock,
        events::{self, Queues},
        inject::Injector,
        netlink::NetlinkError,
        socket,
    },
    metrics::{
        http::{self, Metrics},
        latency::Latencies,
    },
};

/// Parked packets on their way to the daemon's task.
const MISS_QUEUE: usize = 1024;
/// Requests on their way to it.
const COMMAND_QUEUE: usize = 64;
/// How long requests under way may take after a stop.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Why the daemon does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    NoUplink(#[from] NoUplink),
    #[error("cannot read which ports the node's own connections get")]
    OwnPorts(#[source] io::Error),
    #[error(
        "port {clash} is among the masquerade ports {ports} and among those that the node's own \
         connections get ({local}): choose others with --masquerade-ports, or keep these free \
         (`sysctl net.ipv4.ip_local_reserved_ports={ports}`)"
    )]
    PortsClash { ports: PortRange, local: PortRange, clash: u16 },
    #[error("cannot open a packet socket")]
    Inject(#[source] io::Error),
    #[error("cannot listen on {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot serve metrics at {address}: choose another address with --metrics-listen")]
    ListenMetrics {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{part} ended early")]
    Ended {
        part: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("{part} failed")]
    Failed {
        part: &'static str,
        #[source]
        source: JoinError,
    },
}

/// Serves until `stop`; the data path stays in place.
///
/// # Errors
/// It cannot start; what was there before goes on as it was.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), DaemonError> {
    let state = State::open(&config.state_dir)?;
    let node = Node::open(&config).await?;
    let mut data_path = DataPath::load(&config.bpffs_root, &config.map_sizes)?;
    let mut maps = PinnedMaps::open(&config.bpffs_root)?;
    let published_count = maps.published()?.len();
    let before = maps.config()?;
    maps.set_config(&node.config(published_count))?;

    let held = apply::read(&maps)?;
    let capacities = Capacities {
        slots: maps.slot_capacity(),
        instances: maps.instance_capacity(),
        nodes: maps.node_capacity(),
    };
    let me = node.endpoint();
    let addr = PeerAddr { addr: me.host_ip.into(), port: me.host_port };
    let translation = Translation::recover(&held, addr, capacities);
    let now = clock::now();
    let settings = Settings { check_sources: config.check_sources, ..Settings::default() };
    let mut worker = Worker::new(me, translation, state.subnet(), &settings, now);
    uplink::set_carried_at_start(&mut worker, &node.uplink, &before);
    node.take_over(&mut data_path, &mut worker).await?;
    let attached = worker.translation().local().map(|local| local.ifindex).collect();
    socket::start(&mut data_path, config.socket_path, &attached);

    let (written, taken) = &node.injection;
    let injector = Injector::open(written, taken, node.uplink.instance_mtu());
    let programs = data_path.programs();
    let (ports, wiring) = (node.ports(), node.wiring());
    for LocalInstance { name, number, .. } in worker.translation().local() {
        ports.take_over((name, number), &worker.translation().ports(name, number));
    }
    let Node { netlink, id, lock, watcher, uplink, .. } = node;
    let plumbing = Arc::new(Plumbing::new(netlink, id, ports, data_path, wiring));
    // The uplink may have changed while nobody watched.
    let mut refitter = Refitter::new(Arc::clone(&plumbing));
    refitter.start(&uplink);
    let mut remover = Remover::new(config.bpffs_root.clone());
    let own = uplink::addresses(&uplink);
    let is_lost = |addr: &Addr| !addr.is_unspecified() && !own.contains(&addr.to_ip());
    if is_lost(&before.node_addr) || is_lost(&before.node_addr_v6) {
        remover.keep_outside(&own);
    }
    let sweeper = Sweeper::new(config.bpffs_root.clone(), config.timeouts, config.map_sizes.flows);
    let (watchers, network, senders) =
        network::watch(&uplink, config.tunnel_port, watcher, config.next_hop_cache);
    let latencies = Latencies::default();
    let daemon = Daemon {
        worker,
        maps,
        held,
        published_count: published_count as u32,
        incomplete: false,
        injector: injector.map_err(DaemonError::Inject)?,
        state,
        mqtt_port: config.mqtt_port,
        session: None,
        full: FullMaps::default(),
        lost_packets: Gate::default(),
        failed_writes: Gate::default(),
        unnamed: Vec::new(),
        replies: Vec::new(),
        sweeper,
        observation: Observation::new(latencies.clone(), now),
        watchers,
        remover,
        uplink,
        uplink_xdp: config.uplink_xdp,
        plumbing: Arc::clone(&plumbing),
        refitter,
        oversized: false,
        unmoved: None,
        failed_moves: Gate::default(),
        counted: HashMap::new(),
    };
    let served = Served { plumbing, programs, latencies, lock };
    serve(&config, served, daemon, (network, senders), stop).await
}

/// What is served besides the daemon's task.
struct Served {
    plumbing: Arc<Plumbing>,
    programs: Vec<(u32, String)>,
    latencies: Latencies,
    lock: Lock,
}

/// Runs the tasks until `stop`, or until one of them ends by itself.
async fn serve(
    config: &Config,
    served: Served,
    daemon: Daemon,
    (network, senders): (Network, Senders),
    stop: CancellationToken,
) -> Result<(), DaemonError> {
    let (misses, miss_queue) = mpsc::channel(MISS_QUEUE);
    let (commands, command_queue) = mpsc::channel(COMMAND_QUEUE);
    let handle = Handle::new(commands);
    let Served { plumbing, programs, latencies, lock } = served;
    let instances = Instances::new(handle.clone(), plumbing);
    let ring = PinnedMaps::open_events(&config.bpffs_root)?;
    let listener = api::listen(&config.socket)
        .map_err(|source| DaemonError::Listen { path: config.socket.clone(), source })?;

    let scraped = match config.metrics_listen {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .map_err(|source| DaemonError::ListenMetrics { address, source })?,
        ),
        None => None,
    };

    let inputs = Inputs { misses: miss_queue, commands: command_queue, cluster: None, network };
    // The daemon's task outlives the requests, which it answers.
    let daemon_stop = CancellationToken::new();
    let mut daemon = AbortOnDropHandle::new(tokio::spawn(daemon.run(inputs, daemon_stop.clone())));
    let queues = Queues { misses, replies: senders.replies, notices: senders.notices };
    let mut events = AbortOnDropHandle::new(tokio::spawn(events::forward(ring, queues)));
    let metrics = Metrics {
        daemon: handle.clone(),
        latencies,
        bpffs_root: config.bpffs_root.clone(),
        programs,
    };
    let metrics_stop = stop.clone();
    let mut metrics = AbortOnDropHandle::new(tokio::spawn(async move {
        match scraped {
            Some(listener) => http::serve(listener, metrics, metrics_stop).await,
            None => std::future::pending().await,
        }
    }));
    let serving = api::serve(listener, handle, instances, stop.clone());
    let mut api = AbortOnDropHandle::new(tokio::spawn(serving));
    info!(bpffs = %config.bpffs_root.display(), socket = %config.socket.display(), "ready");

    let early = tokio::select! {
        // In this order: what ends because it was told to does not end early.
        biased;
        () = stop.cancelled() => Ok(()),
        ended = &mut events => Err(early("the reader of the event ring", ended)),
        ended = &mut api => Err(early("the Net API", ended)),
        ended = &mut metrics => Err(early("the metrics' server", ended)),
        ended = &mut daemon => Err(early("the daemon's task", ended.map(Ok))),
    };
    stop.cancel();
    if !api.is_finished() && timeout(STOP_PATIENCE, &mut api).await.is_err() {
        error!("requests under way did not end in time");
        api.abort();
    }
    // Whoever dials it now learns at once that nobody is there.
    if let Err(error) = fs::remove_file(&config.socket) {
        debug!(%error, "the socket stays");
    }
    events.abort();
    metrics.abort();
    daemon_stop.cancel();
    if !daemon.is_finished() {
        daemon.await.map_err(|source| DaemonError::Failed { part: "the daemon", source })?;
    }
    drop(lock);
    early
}

/// A task that should never end did.
fn early(part: &'static str, ended: Result<io::Result<()>, JoinError>) -> DaemonError {
    match ended {
        Ok(Ok(())) => DaemonError::Ended { part, source: io::ErrorKind::BrokenPipe.into() },
        Ok(Err(source)) => DaemonError::Ended { part, source },
        Err(source) => DaemonError::Failed { part, source },
    }
}

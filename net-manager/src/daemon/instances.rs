//! Attaches and detaches instances: one at a time for each, many at once.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use net_maps::{BadName, Name};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};
use xylem_types::{
    net_api::{DeployRequest, DeployResponse, UndeployRequest},
    port::{PortMapping, published},
};

use super::{
    command::{Gone, Handle, NotAttached},
    plumbing::Plumbing,
};
use crate::{
    chain::Chain,
    core::{
        ifname::Alias, ipam::Lease, published::PortsRefused, translation::LocalInstance,
        worker::NoLease,
    },
    kernel::{
        bpf::{BpfError, Program},
        netlink::{Link, NetlinkError},
        netns::NetnsError,
        socket,
        veth::{self, VethError},
    },
};

/// How long a deployment waits for the node's subnet, which comes soon after the registration.
const SUBNET_PATIENCE: Duration = Duration::from_secs(2);
/// How long a deployment waits for the instance's own instance IP. Without it the instance works
/// all the same; its first packets are parked.
const NAME_PATIENCE: Duration = Duration::from_secs(2);

/// Why an instance is not attached, or not detached.
#[derive(Debug, thiserror::Error)]
pub enum InstanceError {
    #[error("{0} (in `serviceName`)")]
    Name(#[from] BadName),
    #[error("{0} (in `portMappings`)")]
    Ports(#[from] PortsRefused),
    #[error(transparent)]
    NoLease(#[from] NoLease),
    #[error(transparent)]
    Veth(#[from] VethError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error(transparent)]
    NotAttached(#[from] NotAttached),
    #[error(transparent)]
    Gone(#[from] Gone),
}

type Key = (Name, u32);

/// The instances of this node.
#[derive(Debug)]
pub struct Instances {
    daemon: Handle,
    plumbing: Arc<Plumbing>,
    busy: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

impl Instances {
    pub(super) fn new(daemon: Handle, plumbing: Arc<Plumbing>) -> Self {
        Self { daemon, plumbing, busy: Mutex::default() }
    }

    /// Attaches the namespace of a process. Repeating it for the same process changes nothing;
    /// for another, the instance moves to that one.
    ///
    /// # Errors
    /// It cannot be attached; nothing half made is left.
    pub async fn deploy(&self, request: &DeployRequest) -> Result<DeployResponse, InstanceError> {
        let key = (Name::try_from(request.service_name.as_str())?, request.instance_number);
        let turn = self.turn(key);
        let alone = turn.lock().await;
        let result = self.deploy_alone(key, request).await;
        drop(alone);
        self.end_turn(key, turn);
        result
    }

    async fn deploy_alone(
        &self,
        (name, number): Key,
        request: &DeployRequest,
    ) -> Result<DeployResponse, InstanceError> {
        let pid = request.pid;
        let ports = published(&request.port_mappings).map_err(PortsRefused::from)?;
        if let Some((local, before)) = self.daemon.local(name, number).await? {
            if veth::leads_to(local.ifindex, pid).await? {
                self.republish((name, number), &local, &before, &ports).await?;
                return Ok(response(request, lease_of(&local)));
            }
            info!(service = %name, instance = number, pid, "the instance has another process now");
            self.undeploy_alone((name, number)).await?;
        }
        self.plumbing.ports.reserve((name, number), &ports)?;
        let leased = self.leased_attach((name, number), pid, ports).await;
        if leased.is_err() {
            self.plumbing.ports.retain((name, number), &[]);
        }
        let lease = leased?;
        if timeout(NAME_PATIENCE, self.daemon.named(name, number)).await.is_err() {
            warn!(service = %name, instance = number, "the cluster has not told the instance IP");
        }
        info!(service = %name, instance = number, net.ns_ip = %lease.v4, "attached");
        Ok(response(request, lease))
    }

    async fn leased_attach(
        &self,
        (name, number): Key,
        pid: i32,
        ports: Vec<PortMapping>,
    ) -> Result<Lease, InstanceError> {
        let lease = self.lease().await?;
        let attached = self.attach(name, number, pid, lease, ports).await;
        if let Err(error) = attached {
            self.daemon.release(lease).await?;
            return Err(error);
        }
        Ok(lease)
    }

    /// An instance that is attached gets other ports.
    async fn republish(
        &self,
        (name, number): Key,
        local: &LocalInstance,
        before: &[PortMapping],
        ports: &[PortMapping],
    ) -> Result<(), InstanceError> {
        let is_same = before.len() == ports.len() && ports.iter().all(|p| before.contains(p));
        if is_same {
            return Ok(());
        }
        self.plumbing.ports.reserve((name, number), ports)?;
        let (lease, ifindex) = (lease_of(local), local.ifindex);
        let attached = self.daemon.attach(name, number, lease, ifindex, ports.to_vec()).await;
        self.plumbing.ports.retain((name, number), if attached.is_ok() { ports } else { before });
        Ok(attached?)
    }

    async fn lease(&self) -> Result<Lease, InstanceError> {
        let started = Instant::now();
        loop {
            match self.daemon.lease().await? {
                Err(NoLease::NoSubnet) if started.elapsed() < SUBNET_PATIENCE => {
                    sleep(Duration::from_millis(20)).await;
                }
                other => return Ok(other?),
            }
        }
    }

    async fn attach(
        &self,
        name: Name,
        number: u32,
        pid: i32,
        lease: Lease,
        ports: Vec<PortMapping>,
    ) -> Result<(), InstanceError> {
        let alias = Alias { data_path: self.plumbing.id, name, number };
        let wiring = self.plumbing.wiring();
        let link = veth::attach(&self.plumbing.netlink, &alias, pid, lease, wiring).await?;
        if self.plumbing.wiring() != wiring {
            // The uplink has changed, and whoever looked for the pairs may not have seen this one.
            if let Err(error) = self.plumbing.resize().await {
                warn!(error = %Chain(&error), "an instance keeps the size of the old uplink");
            }
        }
        let attached = self.plumbing.with_data_path(|data_path| {
            data_path.attach(Program::FromInstance, &link.name, &link.name)
        });
        let attached = match attached {
            Ok(()) => {
                self.with_namespace(socket::namespace_of(pid).await, &link);
                let attached = self.daemon.attach(name, number, lease, link.index, ports).await;
                attached.map_err(Into::into)
            }
            Err(error) => Err(error.into()),
        };
        if attached.is_err()
            && let Err(error) = self.remove(&link).await
        {
            warn!(error = %Chain(&error), "an interface is left over until the next start");
        }
        attached
    }

    /// Detaches an instance; one that is not attached is detached.
    ///
    /// # Errors
    /// Its interface cannot be removed.
    pub async fn undeploy(&self, request: &UndeployRequest) -> Result<(), InstanceError> {
        let key = (Name::try_from(request.service_name.as_str())?, request.instance_number);
        let turn = self.turn(key);
        let alone = turn.lock().await;
        let result = self.undeploy_alone(key).await;
        drop(alone);
        self.end_turn(key, turn);
        result
    }

    /// First out of the maps, so that no packet is sent to it any more, then off the machine,
    /// and only then is its address free.
    async fn undeploy_alone(&self, (name, number): Key) -> Result<(), InstanceError> {
        let local = self.daemon.detach(name, number).await?;
        self.plumbing.ports.retain((name, number), &[]);
        let alias = Alias { data_path: self.plumbing.id, name, number }.to_string();
        // A pair that an earlier, failed attempt left over goes as well.
        for link in veth::of_instances(&self.plumbing.netlink, self.plumbing.id).await? {
            let is_its = local.is_some_and(|local| local.ifindex == link.index)
                || link.alias.as_ref() == Some(&alias);
            if is_its {
                self.remove(&link).await?;
            }
        }
        if let Some(local) = local {
            self.daemon.release(lease_of(&local)).await?;
            info!(service = %name, instance = number, "detached");
        }
        Ok(())
    }

    async fn remove(&self, link: &Link) -> Result<(), InstanceError> {
        let detached = self.plumbing.with_data_path(|data_path| {
            let forgotten = data_path.keep_namespaces(|ifindex| ifindex != link.index);
            if let Err(error) = forgotten {
                warn!(error = %Chain(&error), "a namespace is known until the next start");
            }
            data_path.detach(&link.name)
        });
        self.plumbing.netlink.remove(link.index).await?;
        Ok(detached?)
    }

    /// Only the socket path needs to know it, and does without it for this instance.
    fn with_namespace(&self, cookie: Option<u64>, link: &Link) {
        let Some(cookie) = cookie else { return };
        let set =
            self.plumbing.with_data_path(|data_path| data_path.set_namespace(cookie, link.index));
        if let Err(error) = set {
            warn!(error = %Chain(&error), "the instance's sockets will not be joined to others");
        }
    }

    /// Requests for one instance wait for each other.
    fn turn(&self, key: Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(busy.entry(key).or_default())
    }

    fn end_turn(&self, key: Key, turn: Arc<tokio::sync::Mutex<()>>) {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        drop(turn);
        if busy.get(&key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            busy.remove(&key);
        }
    }
}

fn response(request: &DeployRequest, lease: Lease) -> DeployResponse {
    DeployResponse {
        service_name: request.service_name.clone(),
        ns_address: lease.v4,
        ns_addressv6: lease.v6,
    }
}

fn lease_of(local: &LocalInstance) -> Lease {
    let v4 = match local.instance.namespace_ip_v4.to_ip() {
        IpAddr::V4(v4) => v4,
        // Every instance has one; this is the field for it.
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let v6 = Ipv6Addr::from(local.instance.namespace_ip_v6.octets());
    Lease { v4, v6: (!v6.is_unspecified()).then_some(v6) }
}

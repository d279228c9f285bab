//! The net managers' side of the cluster: subnets, and where instances are attached.

use std::net::IpAddr;

use xylem_types::{
    mqtt::{AddressChanged, NetDeployed, PeerKind, SubnetGrant, SubnetRequest, TunnelEndpoint},
    session::{FromCluster, InstanceKey, SubnetResult},
};

use super::{Attachment, Cluster, Subnet};
use crate::message::ToWorker;

impl Cluster {
    /// A net manager came (back).
    pub(super) fn on_subnet_request(&mut self, id: &str, request: &SubnetRequest) {
        let worker = self.workers.get_mut(id).expect("heard just before");
        worker.live.peers_sent = None;
        self.peers_stale = true;
        let moved = request.endpoint.is_some() && worker.endpoint != request.endpoint;
        if moved {
            worker.endpoint = request.endpoint;
            self.touched.workers.insert(id.to_owned());
            self.move_instances(id);
        }
        match self.workers[id].subnet {
            Some(subnet) => {
                self.send_subnet(id, subnet);
                if moved {
                    self.announce_workers();
                }
            }
            None => self.want_subnet(id),
        }
    }

    fn want_subnet(&mut self, id: &str) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.live.subnet_wanted = true;
        if !self.root_listens() {
            tracing::info!(node.id = id, "worker waits for the root, which gives subnets");
        }
        self.tell_root(FromCluster::Subnet { worker_id: id.to_owned() });
    }

    /// Asks for what was wanted while the root was away. A worker that waits need not ask again.
    pub(super) fn ask_for_subnets(&mut self) {
        let without: Vec<String> = self
            .workers
            .iter()
            .filter(|(_, w)| w.subnet.is_none())
            .filter(|(_, w)| w.live.subnet_wanted || w.endpoint.is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for worker_id in without {
            self.tell_root(FromCluster::Subnet { worker_id });
        }
    }

    pub(super) fn on_subnet_result(&mut self, id: &str, result: SubnetResult) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        match result {
            SubnetResult::Granted { v4, v6 } => {
                let subnet = Subnet { v4, v6 };
                let wanted = std::mem::take(&mut worker.live.subnet_wanted);
                if worker.subnet == Some(subnet) && !wanted {
                    return;
                }
                if let Some(old) = worker.subnet.filter(|old| *old != subnet) {
                    tracing::warn!(
                        node.id = id, old = %old.v4, new = %v4,
                        "the root gives a worker another subnet than before",
                    );
                }
                worker.subnet = Some(subnet);
                self.touched.workers.insert(id.to_owned());
                self.announce_workers();
                self.send_subnet(id, subnet);
            }
            SubnetResult::Refused { reason } => {
                tracing::warn!(node.id = id, reason, "the root refuses a worker its subnet");
                worker.live.subnet_wanted = false;
                // Oakestra's net manager would take an empty address for an answer.
                if worker.kind() == PeerKind::Xylem {
                    let refusal = SubnetGrant {
                        address: String::new(),
                        addressv6: String::new(),
                        error: Some(reason),
                    };
                    self.send(id, ToWorker::Subnet(refusal));
                }
            }
        }
    }

    fn send_subnet(&mut self, id: &str, subnet: Subnet) {
        let grant = SubnetGrant {
            address: subnet.v4.to_string(),
            addressv6: subnet.v6.to_string(),
            error: None,
        };
        self.send(id, ToWorker::Subnet(grant));
    }

    /// An instance has its place in the network.
    pub(super) fn on_attached(&mut self, id: &str, event: &NetDeployed) {
        let Some(key) = self.key_on(id, &event.appname, event.instance_number) else {
            return tracing::debug!(
                node.id = id,
                instance.name = event.appname,
                "attached instance is not placed on this worker",
            );
        };
        let Some(attachment) = Attachment::of(event) else {
            return tracing::warn!(
                node.id = id,
                instance.name = event.appname,
                nsip = event.nsip,
                "attached instance without a namespace ip that can be read",
            );
        };
        self.note_endpoint(id, &attachment.host_ip, attachment.host_port);
        self.attach(&key, Some(attachment));
    }

    pub(super) fn on_detached(&mut self, id: &str, event: &NetDeployed) {
        let Some(key) = self.key_on(id, &event.appname, event.instance_number) else { return };
        let attached = self.instances[&key].attached.as_ref();
        // One that names another address means a copy that was here before.
        let same = Attachment::of(event).is_none_or(|gone| {
            attached.is_some_and(|a| {
                a.namespace_ip == gone.namespace_ip && a.namespace_ip_v6 == gone.namespace_ip_v6
            })
        });
        if same {
            self.attach(&key, None);
        }
    }

    pub(super) fn on_address_changed(&mut self, id: &str, event: &AddressChanged) {
        let Some(key) = self.key_on(id, &event.appname, event.instance_number) else { return };
        let Some(attachment) = self.instances[&key].attached.clone() else { return };
        self.note_endpoint(id, &event.host_ip, event.host_port);
        let attachment =
            Attachment { host_ip: event.host_ip.clone(), host_port: event.host_port, ..attachment };
        self.attach(&key, Some(attachment));
    }

    fn attach(&mut self, key: &InstanceKey, attachment: Option<Attachment>) {
        let Some(instance) = self.instances.get_mut(key) else { return };
        if instance.attached != attachment {
            instance.attached = attachment;
            let job_name = instance.job_name().to_owned();
            self.touch(key, &job_name);
            self.touched.attached.insert(job_name);
        }
    }

    fn key_on(&self, worker: &str, job_name: &str, number: u32) -> Option<InstanceKey> {
        self.key_of(job_name, number)
            .filter(|key| self.instances[key].worker.as_deref() == Some(worker))
    }

    /// Where a worker that has not said so itself is reached.
    fn note_endpoint(&mut self, id: &str, host_ip: &str, host_port: u16) {
        let Ok(host_ip) = host_ip.parse::<IpAddr>() else { return };
        let seen = Some(TunnelEndpoint { host_ip, host_port });
        let Some(worker) = self.workers.get_mut(id) else { return };
        if host_port == 0 || host_ip.is_unspecified() || worker.endpoint_seen == seen {
            return;
        }
        let before = worker.tunnel();
        worker.endpoint_seen = seen;
        self.touched.workers.insert(id.to_owned());
        if self.workers[id].tunnel() != before {
            self.announce_workers();
        }
    }

    /// The worker is reached elsewhere, and so is everything on it.
    fn move_instances(&mut self, id: &str) {
        let Some(endpoint) = self.workers.get(id).and_then(|w| w.endpoint) else { return };
        let moved: Vec<(InstanceKey, Attachment)> = self
            .instances
            .iter()
            .filter(|(_, i)| i.worker.as_deref() == Some(id))
            .filter_map(|(key, i)| Some((key.clone(), i.attached.clone()?)))
            .collect();
        for (key, attachment) in moved {
            let host_ip = endpoint.host_ip.to_string();
            let host_port = endpoint.host_port;
            self.attach(&key, Some(Attachment { host_ip, host_port, ..attachment }));
        }
    }
}

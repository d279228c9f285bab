//! What one instance needs of the place where it runs.

use std::collections::BTreeSet;

use xylem_types::{
    port::{NodePort, node_ports},
    session::{Placement, WorkerRoom},
};

use crate::Reason;

/// What one instance needs. The default needs nothing and fits everywhere.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    pub vcpus: f64,
    /// MB
    pub memory: u64,
    pub vgpus: u32,
    /// All of these, of which each worker has one.
    pub node_ports: BTreeSet<NodePort>,
    /// The runtime (`docker`, `unikernel`, …); empty = any.
    pub virtualization: String,
    /// Any one of these (`amd64`, …); empty = any.
    pub architectures: Vec<String>,
    /// All of these.
    pub csi_drivers: Vec<String>,
    /// Names or ids of workers, as a `direct` constraint gives them; empty = any.
    pub allowed_workers: Vec<String>,
    /// Names or ids of clusters, as a `direct` constraint gives them; empty = any.
    pub allowed_clusters: Vec<String>,
}

impl Request {
    /// What a cluster knows of an instance that its root gave it.
    pub fn of_placement(placement: &Placement) -> Self {
        Self {
            vcpus: placement.command.vcpus,
            memory: placement.command.memory,
            vgpus: placement.vgpus,
            node_ports: node_ports(&placement.command.port),
            virtualization: placement.command.virtualization.clone(),
            allowed_workers: placement.allowed_nodes.clone(),
            ..Self::default()
        }
    }

    /// Why this worker cannot take the instance, constraints before room: a worker that is not
    /// qualified will not be after others have left.
    pub(crate) fn refused_by(&self, room: &WorkerRoom) -> Option<Reason> {
        if !allows(&self.allowed_workers, &room.worker_id, &room.name) {
            return Some(Reason::NotAllowed);
        }
        if !self.virtualization.is_empty() && !room.virtualization.contains(&self.virtualization) {
            return Some(Reason::Virtualization { needs: self.virtualization.clone() });
        }
        if !self.architectures.is_empty() && !self.architectures.contains(&room.architecture) {
            return Some(Reason::Architecture {
                needs: self.architectures.join(" or "),
                has: room.architecture.clone(),
            });
        }
        if let Some(driver) = self.csi_drivers.iter().find(|d| !room.csi_drivers.contains(d)) {
            return Some(Reason::CsiDriver { needs: driver.clone() });
        }
        if room.cordoned {
            return Some(Reason::Cordoned);
        }
        if !fits(self.vcpus, room.free_vcpus) {
            return Some(Reason::Vcpus { needs: self.vcpus, free: room.free_vcpus });
        }
        if !fits(self.memory as f64, room.free_memory) {
            return Some(Reason::Memory { needs: self.memory, free: room.free_memory });
        }
        if self.vgpus > room.free_vgpus {
            return Some(Reason::Vgpus { needs: self.vgpus, free: room.free_vgpus });
        }
        let taken: Vec<_> =
            self.node_ports.intersection(&room.node_ports).map(NodePort::to_string).collect();
        if !taken.is_empty() {
            return Some(Reason::NodePorts { taken: taken.join(", ") });
        }
        None
    }
}

/// False for a NaN from outside on either side.
fn fits(needed: f64, free: f64) -> bool {
    needed <= free
}

pub(crate) fn allows(allowed: &[String], id: &str, name: &str) -> bool {
    allowed.is_empty() || allowed.iter().any(|a| a == id || a == name)
}

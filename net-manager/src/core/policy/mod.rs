//! Balancing policies: from what is known of a service's instances to its lookup tables.
//!
//! The kernel only indexes. Round robin, closest and underutilized take the next place of the
//! table for each new flow (a cursor), affinity the place `hash(client) % length`. What a policy
//! is, is therefore only *which instances stand in the table, how often and in which order*:
//!
//! | Policy | Module | Table |
//! |---|---|---|
//! | round robin | [`table`] | each instance once, by number |
//! | closest | [`closest`] | shares by ring of distance and room, interleaved |
//! | underutilized | [`underutilized`] | shares by flows in progress and CPU, interleaved |
//! | affinity | [`maglev`] | consistent hashing, always 1021 places |
//!
//! One [`LookupTable`] stands for one table and remembers what its policy needs. Time is an
//! argument, and so is everything measured. Invariants:
//!
//! * An instance that is not up, or whose node is down, is in no table; a table is empty only
//!   when nobody is left.
//! * The table does not depend on the order of the candidates, and with affinity nor on anything
//!   that is of this node alone (kernel ids, measurements, history): all nodes compute the same.
//! * A table has at most `limits::TABLE_SLOTS` places.
//!
//! Absent on purpose: flows. A table decides of new flows only; one that is placed stays.

pub mod apportion;
pub mod closest;
pub mod interleave;
pub mod maglev;
pub mod moved;
pub mod table;
#[cfg(test)]
mod tests;
pub mod underutilized;

use std::time::Duration;

use net_common::InstanceState;

pub use self::{
    maglev::Seed,
    moved::{share_moved, share_moved_needlessly},
    table::{Change, LookupTable},
};
use super::tables::{InstanceId, NodeId};

/// This node in the map `nodes`.
const HERE: NodeId = 0;

/// What is known of one instance of a service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// What stands in the table.
    pub id: InstanceId,
    /// Its number within the service. With the service's [`Seed`] it is the identity on which all
    /// nodes agree; two candidates of one service never share it.
    pub number: u32,
    pub node: NodeId,
    pub state: InstanceState,
    /// Its node answers, as far as that is known; true for this node.
    pub node_is_up: bool,
    /// Smoothed round trip to its node; `None` while unknown. Not looked at for this node.
    pub rtt: Option<Duration>,
    /// As last reported, 0 to 100; `None` while unknown. Anything else is clamped.
    pub cpu_percent: Option<f32>,
    /// Flows in progress to it, of any address of the service.
    pub flows: u32,
}

impl Candidate {
    /// Whether new flows may go to it.
    pub fn takes_flows(&self) -> bool {
        self.state == InstanceState::Up && self.node_is_up
    }

    fn cpu(&self) -> Option<f64> {
        let cpu = self.cpu_percent.filter(|cpu| cpu.is_finite())?;
        Some(f64::from(cpu).clamp(0.0, 100.0))
    }
}

/// What can be set of the policies; the defaults are meant to stay.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    pub closest: closest::Settings,
    pub underutilized: underutilized::Settings,
}

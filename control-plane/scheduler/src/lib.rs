//! Placement decisions, as pure code: a request and the candidates' room in, a ranking or the
//! reasons against every candidate out.
//!
//! The cluster chooses among its workers ([`rank_workers`]), the root among its clusters
//! ([`rank_clusters`]), by one rule: filter on what the instance needs, then take the candidate
//! that keeps the largest share of its CPUs and memory free. Room is counted in reservations and
//! not in measured load, so a burst spreads although no measurement has caught up with it. The
//! caller subtracts what it has placed ([`reserve`]) before it asks again.
//!
//! Architecture invariant: no I/O, no clock, no randomness; the same input gives the same answer.

mod rank;
mod refusal;
mod request;

pub use rank::{
    ClusterCandidate, ClusterFit, WorkerCandidate, rank_clusters, rank_workers, reserve,
};
pub use refusal::{Reason, Refusal, RefusalKind};
pub use request::Request;

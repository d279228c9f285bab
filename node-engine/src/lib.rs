//! The worker's workload daemon.
pub mod core;

//! The worker's network daemon.
pub mod core;
pub mod kernel;
pub mod uplink;

//! The worker's network daemon.
pub mod core;

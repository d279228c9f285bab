//! The cluster: runs what the root wants on its workers, and goes on doing so without the root.

pub mod core;
pub mod message;

//! The worker's network daemon.
//!
//! * [`core`]: decides; no I/O, no clock.
//! * [`kernel`]: does; BPF, netlink, namespaces, packet sockets.
//! * [`uplink`]: the session with the cluster.
//! * [`api`]: the local socket for the node engine.
//! * [`metrics`]: what Prometheus reads.
//! * [`daemon`]: the task that joins them, its start and its end.
//!
//! Architecture invariant: no packet of a known flow or service ever waits for anything in here.

pub mod api;
pub mod chain;
pub mod config;
pub mod core;
pub mod daemon;
pub mod kernel;
pub mod metrics;
pub mod uplink;

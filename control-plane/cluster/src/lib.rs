//! The cluster: runs what the root wants on its workers, and goes on doing so without the root.
//!
//! `core` knows and decides, and does no I/O. `daemon` owns it: it takes what happens, makes the
//! changes durable and sends what follows. `mqtt` speaks to the workers through a broker, by
//! default the embedded one (`broker`); `session` dials the root; `http` is where workers
//! register.

mod broker;
mod config;
pub mod core;
mod daemon;
mod http;
pub mod message;
mod metrics;
mod mqtt;
mod records;
mod session;
mod summary;

pub use broker::BrokerError;
pub use config::{Broker, Config, ConfigError, Flags};
pub use daemon::{ClusterError, run};

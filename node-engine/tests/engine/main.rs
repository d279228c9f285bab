//! The engine as a process, against a real broker, a real registry and real containers.
//!
//! Needs root, and says so instead of skipping. Every test has its own state folder, broker,
//! cluster and control groups, and checks when it ends that its worker left nothing behind.

mod images;
mod instances;
mod isolation;
mod restarts;
mod support;
mod uplink;

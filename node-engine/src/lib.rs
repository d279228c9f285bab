//! The worker's workload daemon: it obeys its cluster's commands by running containers, and
//! reports what became of them.
//!
//! | Module | Is |
//! |---|---|
//! | [`core`] | every decision about an instance, as pure code |
//! | [`supervisor`] | the one task that owns all instances and has decisions carried out |
//! | [`image`] | images fetched, verified, unpacked, shared |
//! | [`runtime`] | containers, each under a shim process that outlives the engine |
//! | [`uplink`] | registration, commands and reports |
//! | [`net_api`] | the net manager, who gives instances their network |
//! | [`resources`] | what the worker has and its instances use |
//!
//! Invariants: the network is attached before the first process of an instance runs. Stopping,
//! killing or upgrading the engine touches no instance. An instance that was deleted leaves
//! nothing behind.

pub mod config;
pub mod core;
pub mod engine;
pub mod image;
pub mod net_api;
pub mod purge;
pub mod resources;
pub mod runtime;
pub mod state_folder;
pub mod supervisor;
pub mod uplink;

//! Running instances: containers, each under a shim of its own.

pub mod bundle;
pub mod cgroup;
pub mod folder;
pub mod link;
pub mod process;
pub mod protocol;
pub mod seccomp;
pub mod shim;
pub mod spec;
pub mod teardown;
pub mod user;

//! Everything that is decided here, without I/O and without a clock: time is an argument.

pub mod answer;
pub mod btf;
pub mod checksum;
pub mod expiry;
pub mod ids;
pub mod ifname;
pub mod interests;
pub mod ipam;
pub mod parking;
pub mod plan;
pub mod policy;
pub mod port_range;
pub mod probe;
pub mod published;
pub mod questions;
pub mod tables;
pub mod translation;
pub mod uplink;
pub mod worker;
pub mod xdp;

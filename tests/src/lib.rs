//! What the suites that cross crates are made of: hosts, processes, images, and waiting.
//!
//! A host is a network namespace with its own uplink; a daemon is the real binary, started
//! inside it. Whatever a value here made, it removes when it is dropped, in the right order and
//! also when a test panics. Nothing here knows how Xylem works inside; its flags are in
//! [`daemon`] only.

pub mod daemon;
pub mod deployment;
pub mod image;
pub mod inside;
pub mod leftovers;
pub mod link;
pub mod load;
pub mod netns;
pub mod platform;
pub mod process;
pub mod registry;
pub mod relay;
pub mod rest;
pub mod suite;
pub mod topology;
pub mod wait;

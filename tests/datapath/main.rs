//! Every step of the data path, packet by packet: exact output packets, exact counters.
#![expect(unreachable_pub, reason = "a test binary exports nothing")]

mod batch;
mod counts;
mod early;
mod fixture;
mod fixtures;
mod frame;
mod fuzz;
mod harness;
mod ipv6;
mod local;
mod misses;
mod model;
mod opinion;
mod packets;
mod policy;
mod pool;
mod world;

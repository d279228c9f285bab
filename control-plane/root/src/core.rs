//! What the root knows and decides. Pure: no I/O and no clock, `now` is an argument; the only
//! way out are the messages that a change leaves in the outbox.
//!
//! Architecture invariant: a change that can be refused is refused before it touches anything
//! that cannot be rolled back, which is all that is not in [`rows::Rows`].

pub(crate) mod account;
pub(crate) mod application;
pub(crate) mod census;
pub(crate) mod cluster;
pub(crate) mod drain;
pub(crate) mod instance;
pub(crate) mod ipam;
pub(crate) mod load;
pub(crate) mod moment;
pub(crate) mod node;
pub(crate) mod peers;
pub(crate) mod placement;
pub(crate) mod pool;
pub(crate) mod receive;
pub(crate) mod refusal;
pub(crate) mod report;
pub(crate) mod route;
pub(crate) mod rows;
pub(crate) mod service;
pub(crate) mod state;
pub(crate) mod usage;
pub(crate) mod view;

#[cfg(test)]
mod sim;

//! Decisions about instances, without I/O and without a clock: what an event makes of an
//! instance, and what follows from it. The shell around it is [`crate::supervisor`].

pub mod id;
pub mod instance;
pub mod outcome;

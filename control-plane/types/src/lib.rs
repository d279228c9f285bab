//! Types of every interface between Xylem's services, and nothing else: no I/O, no clock.
//!
//! What Oakestra already defines keeps its field names and spellings (`nsip`, `appname`,
//! `MQTT_BROKER_PORT`), so that either system's worker can join either system's cluster. Fields
//! of ours are optional on the wire: an absent `generation` is generation 0.

pub mod address;
pub mod instance;
pub mod job;
pub mod load;
pub mod mqtt;
pub mod net_api;
pub mod node;
pub mod port;
pub mod rest;
pub mod session;
pub mod sla;

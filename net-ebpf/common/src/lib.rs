//! What the kernel programs and user space share: map keys and values, addresses, drop reasons.
//!
//! Every type here is plain bytes without padding (proved by `zerocopy`), because map keys are
//! compared bytewise and map values are untrusted bytes to whoever reads them: no `bool`, `enum`,
//! `Option` or `usize`. A change of any size, offset or meaning raises [`LAYOUT_VERSION`];
//! `tests/layout.rs` pins them.
//!
//! Addresses are 16 bytes everywhere, IPv4 as v4-mapped, so that both families share one layout.
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod checksum;
pub mod config;
pub mod counters;
pub mod endpoint;
pub mod event;
pub mod explain;
pub mod flow;
pub mod fragment;
pub mod instance;
pub mod limits;
pub mod miss;
pub mod node;
pub mod packet;
pub mod probe;
pub mod published;
pub mod reason;
pub mod service;
pub mod socket;

pub use addr::Addr;
pub use config::Config;
pub use counters::{Counter, ProgramCounter, Traffic};
pub use endpoint::Endpoint;
pub use event::{Event, EventKind};
pub use explain::{Explanation, Step, StepKind};
pub use flow::{Flow, FlowKey};
pub use fragment::{FragmentKey, FragmentPorts};
pub use instance::{Instance, InstanceState};
pub use miss::MissBudget;
pub use node::{Node, NodeKind, NodeState, PeerKey};
pub use packet::Packet;
pub use probe::Probe;
pub use published::{Published, PublishedKey};
pub use reason::DropReason;
pub use service::{Chunk, Policy, Service, Table};
pub use socket::{Joined, SocketKey, SocketLayout};

/// Version of everything that is pinned: maps live below `<bpffs root>/v<LAYOUT_VERSION>/`.
pub const LAYOUT_VERSION: u32 = 3;

/// Declares that a type may cross into a map as its bytes.
macro_rules! map_type {
    ($($name:ty),+) => {$(
        #[cfg(feature = "user")]
        // SAFETY: `IntoBytes` proves that there is no padding, `FromBytes` that every bit
        // pattern is a value.
        unsafe impl aya::Pod for $name where $name: zerocopy::IntoBytes + zerocopy::FromBytes {}
    )+};
}
pub(crate) use map_type;

//! Counters: per CPU, so that no two CPUs write one cache line; user space sums them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A count of packets and the bytes of their IP packets (inner ones, where tunnelled).
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Counter {
    pub packets: u64,
    /// Of a large GSO packet, the bytes of the whole.
    pub bytes: u64,
}

/// Traffic of one service IP (by slot) or of one instance (by id).
///
/// `egress` is what a local client sent towards it, `ingress` what came back to the client. For
/// an instance that runs here and is dialled from elsewhere, `ingress` is what arrived for it
/// and `egress` what it answered.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Traffic {
    pub egress: Counter,
    pub ingress: Counter,
    pub new_flows: u64,
    /// `CLOCK_MONOTONIC` (coarse) of the last packet, nanoseconds; 0 = never.
    pub last_used_ns: u64,
}

/// What the programs do besides dropping; index of the map `program_counters`.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgramCounter {
    /// Delivered to an instance of this node.
    Delivered = 0,
    /// Sent to another node through the tunnel.
    Encapsulated = 1,
    /// Received through the tunnel from a known peer.
    Decapsulated = 2,
    /// Handed to user space until its service is resolved.
    Parked = 3,
    /// Not ours: left to the kernel's own stack.
    Passed = 4,
}

impl ProgramCounter {
    pub const COUNT: u32 = 5;

    pub const ALL: [Self; Self::COUNT as usize] =
        [Self::Delivered, Self::Encapsulated, Self::Decapsulated, Self::Parked, Self::Passed];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Encapsulated => "encapsulated",
            Self::Decapsulated => "decapsulated",
            Self::Parked => "parked",
            Self::Passed => "passed",
        }
    }
}

crate::map_type!(Counter, Traffic);

//! Counters: per CPU, so that no two CPUs write one cache line; user space sums them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A count of packets and their bytes: those of the IP packets (inner ones, where tunnelled) for the
/// traffic of services and instances, and where [`ProgramCounter`] does not say otherwise; those of
/// whole frames, with the Ethernet header, in the map `drops`.
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
    /// Not ours: left to the kernel's own stack. Bytes of the frame.
    Passed = 4,
    /// Let out to a host outside of the overlay, with the node's address.
    LeftOverlay = 5,
    /// Let in from outside: of a published port, or the answer to what was let out.
    EnteredOverlay = 6,
    /// ICMP errors translated, outer and inner; they are counted where they go as well.
    ErrorTranslated = 7,
    /// Answered with a TCP RST or an ICMP error; the packet itself is counted as dropped. Bytes of
    /// the answer's frame.
    Refused = 8,
    /// Probes of peers sent back. Bytes of the frame.
    ProbeReflected = 9,
    /// Answers to this node's probes. Bytes of the frame.
    ProbeAnswered = 10,
    /// SYNs whose largest segment was clamped.
    MssClamped = 11,
    /// Flows that both sides have confirmed.
    FlowConfirmed = 12,
    /// Messages that went from socket to socket, past the stack; bytes without headers.
    SocketToSocket = 13,
    /// TCP connections that both sides have ended, and whose entries left the flow table with
    /// their last segment.
    FlowClosed = 14,
    /// Events for people who watch that found their ring full; no bytes.
    EventLost = 15,
}

impl ProgramCounter {
    pub const COUNT: u32 = 16;

    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Delivered,
        Self::Encapsulated,
        Self::Decapsulated,
        Self::Parked,
        Self::Passed,
        Self::LeftOverlay,
        Self::EnteredOverlay,
        Self::ErrorTranslated,
        Self::Refused,
        Self::ProbeReflected,
        Self::ProbeAnswered,
        Self::MssClamped,
        Self::FlowConfirmed,
        Self::SocketToSocket,
        Self::FlowClosed,
        Self::EventLost,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Encapsulated => "encapsulated",
            Self::Decapsulated => "decapsulated",
            Self::Parked => "parked",
            Self::Passed => "passed",
            Self::LeftOverlay => "left-overlay",
            Self::EnteredOverlay => "entered-overlay",
            Self::ErrorTranslated => "error-translated",
            Self::Refused => "refused",
            Self::ProbeReflected => "probe-reflected",
            Self::ProbeAnswered => "probe-answered",
            Self::MssClamped => "mss-clamped",
            Self::FlowConfirmed => "flow-confirmed",
            Self::SocketToSocket => "socket-to-socket",
            Self::FlowClosed => "flow-closed",
            Self::EventLost => "event-lost",
        }
    }
}

crate::map_type!(Counter, Traffic);

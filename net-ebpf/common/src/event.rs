//! Records of the ring buffers `events` (what user space must act on) and `observations` (what
//! people watch): an [`Event`], followed in `events` by `packet_len` bytes of packet.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Event {
    /// [`EventKind`].
    pub kind: u32,
    /// Interface on which the packet arrived.
    pub ifindex: u32,
    /// The namespace IP that sent it.
    pub src: Addr,
    /// The service or instance IP that nobody has resolved yet. For a packet of an instance whose
    /// own instance IP is unknown it is the dialled address all the same.
    pub dst: Addr,
    /// Bytes of the packet that follow, from its Ethernet header on.
    pub packet_len: u32,
    /// What it says depends on the kind.
    pub value: u32,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub time_ns: u64,
    /// Of a probe, what it carried: [`crate::probe::Probe::sent_ns`] and `nonce`.
    pub sent_ns: u64,
    pub nonce: u64,
    /// Network byte order.
    pub sport: u16,
    pub dport: u16,
    /// IANA number.
    pub proto: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// A packet waits for the answer who `dst` is.
    Miss = 1,
    /// A packet waits because its sender's own instance IP is not known yet.
    UnnamedSender = 2,
    /// The peer `src`:`sport`, node `value`, answered the probe with number `ifindex`.
    ProbeReply = 3,
    /// A tunnel packet came from `src`:`sport`, whom nobody has announced. Once a second at most.
    UnknownPeer = 4,
    /// A router says that the path to the node `value` carries packets of `packet_len` bytes only,
    /// outer headers included.
    PathMtu = 5,
    /// The node `value` sent the first packet of the instance IP `src`, which this node does not
    /// know, to the local instance `dst`.
    LearnedSource = 6,
    /// A flow began: `src`:`sport` to `dst`:`dport`, to the instance `value`.
    FlowOpened = 7,
    /// A flow ended by FIN or RST.
    FlowClosed = 8,
    /// A packet was dropped; `value` is the reason.
    Dropped = 9,
}

impl EventKind {
    pub const ALL: [Self; 9] = [
        Self::Miss,
        Self::UnnamedSender,
        Self::ProbeReply,
        Self::UnknownPeer,
        Self::PathMtu,
        Self::LearnedSource,
        Self::FlowOpened,
        Self::FlowClosed,
        Self::Dropped,
    ];

    pub fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == raw)
    }
}

crate::map_type!(Event);

//! Records of the ring buffer `events`: an [`Event`] followed by `packet_len` bytes of packet.

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
    pub _pad: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// A packet waits for the answer who `dst` is.
    Miss = 1,
    /// A packet waits because its sender's own instance IP is not known yet.
    UnnamedSender = 2,
}

impl EventKind {
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Miss),
            2 => Some(Self::UnnamedSender),
            _ => None,
        }
    }
}

crate::map_type!(Event);

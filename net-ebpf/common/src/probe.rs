//! Probes: datagrams between the tunnel ports of two nodes, sent and read by user space and
//! reflected by the kernel of the other node.
//!
//! The first byte's high nibble is neither 4 nor 6, so no probe is a tunnelled packet, and
//! Oakestra's proxy ignores it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The payload of a probe. Numbers are big-endian bytes.
#[repr(C)]
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
    Unaligned,
)]
pub struct Probe {
    /// [`Probe::MAGIC`] and the version.
    pub magic: u8,
    /// [`Probe::REQUEST`] or [`Probe::REPLY`].
    pub kind: u8,
    pub _reserved: [u8; 2],
    pub seq: [u8; 4],
    /// Sender's `CLOCK_MONOTONIC`, nanoseconds.
    pub sent_ns: [u8; 8],
    /// Known to the sender alone, so that nobody off the path can answer.
    pub nonce: [u8; 8],
}

impl Probe {
    pub const MAGIC: u8 = 0x11;
    pub const REQUEST: u8 = 1;
    pub const REPLY: u8 = 2;

    pub fn request(seq: u32, sent_ns: u64, nonce: u64) -> Self {
        Self {
            magic: Self::MAGIC,
            kind: Self::REQUEST,
            _reserved: [0; 2],
            seq: seq.to_be_bytes(),
            sent_ns: sent_ns.to_be_bytes(),
            nonce: nonce.to_be_bytes(),
        }
    }
}

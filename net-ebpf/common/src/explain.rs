//! How a decision is explained: a packet that carries [`DRY_RUN_MARK`] runs through the live
//! program over the live maps, changes nothing, and leaves the steps of its decision here.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// `skb->mark` of such a packet. Only `BPF_PROG_TEST_RUN` can give it: the kernel clears the mark
/// of a packet that leaves its instance's network namespace.
pub const DRY_RUN_MARK: u32 = 0x7879_6c65;

/// Steps kept of one decision.
pub const STEPS: usize = 16;

/// Value 0 of the map `explain`.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Explanation {
    /// Steps taken; those beyond [`STEPS`] are not kept.
    pub len: u32,
    pub _pad: u32,
    pub steps: [Step; STEPS],
}

#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Step {
    /// [`StepKind`].
    pub kind: u32,
    /// What it says depends on the kind.
    pub value: u32,
    pub addr: Addr,
}

/// One decision.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepKind {
    /// The packet has a flow: `value` is its instance id, `addr` where it goes.
    FlowFound = 1,
    /// It has none.
    NoFlow = 2,
    /// The sender is the instance with the id `value` and the instance IP `addr`.
    Sender = 3,
    /// The sender's own instance IP is not known yet.
    UnnamedSender = 4,
    /// The destination is the service IP of the slot `value`; `addr` is the dialled address.
    Service = 5,
    /// It is known and has the policy `value`.
    Policy = 6,
    /// Its lookup table has `value` places.
    Table = 7,
    /// The instance with the id `value` was chosen; `addr` is its namespace IP.
    Chosen = 8,
    /// The instance with the id `value` was passed over: it is draining or gone.
    PassedOver = 9,
    /// The packet goes to the interface `value` of this node.
    Deliver = 10,
    /// The packet goes through the tunnel to the node `value`, at `addr`.
    Tunnel = 11,
    /// The packet leaves the overlay with the node's own address `addr`.
    Outside = 12,
    /// Nobody has resolved `addr` yet: the packet would be parked and the cluster asked.
    Miss = 13,
    /// The packet would be dropped for the reason `value`.
    Dropped = 14,
    /// The packet is left to the kernel's own stack.
    Passed = 15,
}

impl StepKind {
    pub const ALL: [Self; 15] = [
        Self::FlowFound,
        Self::NoFlow,
        Self::Sender,
        Self::UnnamedSender,
        Self::Service,
        Self::Policy,
        Self::Table,
        Self::Chosen,
        Self::PassedOver,
        Self::Deliver,
        Self::Tunnel,
        Self::Outside,
        Self::Miss,
        Self::Dropped,
        Self::Passed,
    ];

    pub fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == raw)
    }
}

crate::map_type!(Explanation, Step);

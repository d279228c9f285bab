//! The translation table: what a service IP means.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits;

/// Value of the map `services`, keyed by service IP or instance IP.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Service {
    /// [`Policy`].
    pub policy: u32,
    /// Index of this address's counters, name, cursor and (for policies that choose) lookup
    /// table.
    pub slot: u32,
    /// The instance, for [`Policy::Instance`]; else 0.
    pub instance: u32,
    pub _pad: u32,
}

/// How an instance is chosen for a new flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Policy {
    RoundRobin = 1,
    Closest = 2,
    Underutilized = 3,
    Affinity = 4,
    /// The address is that of one instance.
    Instance = 5,
}

impl Policy {
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::RoundRobin),
            2 => Some(Self::Closest),
            3 => Some(Self::Underutilized),
            4 => Some(Self::Affinity),
            5 => Some(Self::Instance),
            _ => None,
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Closest => "closest",
            Self::Underutilized => "underutilized",
            Self::Affinity => "affinity",
            Self::Instance => "instance",
        }
    }
}

/// Value of the map `tables`, keyed by slot: where in the map `chunks` the weighted lookup table of
/// the slot is. A new table is written to free chunks and then takes the place of the old one by
/// one update of this entry.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Table {
    /// The first of its chunks, which follow one another.
    pub first: u32,
    /// Instance ids in it.
    pub len: u32,
}

/// Value of the map `chunks`: a part of a lookup table.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Chunk {
    pub ids: [u32; limits::CHUNK_IDS as usize],
}

crate::map_type!(Service, Table, Chunk);

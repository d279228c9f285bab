//! Instances that this node knows, its own and those of other nodes.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

/// Value of the map `instances`. Id 0 is never used.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Instance {
    pub namespace_ip_v4: Addr,
    pub namespace_ip_v6: Addr,
    pub instance_ip_v4: Addr,
    pub instance_ip_v6: Addr,
    /// Id in the map `nodes`; 0 = this node.
    pub node: u32,
    /// Rises whenever the id is given to another instance or the instance moves: flows placed on
    /// an older generation are placed anew. Never 0 for an instance that exists.
    pub generation: u32,
    /// Slot of the service it belongs to.
    pub service: u32,
    /// The instance's number within its service.
    pub number: u32,
    /// [`InstanceState`].
    pub state: u32,
    pub _pad: u32,
}

impl Instance {
    /// Its namespace IP of the family of `like`.
    #[inline(always)]
    pub fn namespace_ip(&self, like: &Addr) -> Addr {
        if like.is_v4() { self.namespace_ip_v4 } else { self.namespace_ip_v6 }
    }

    /// Its instance IP of the family of `like`.
    #[inline(always)]
    pub fn instance_ip(&self, like: &Addr) -> Addr {
        if like.is_v4() { self.instance_ip_v4 } else { self.instance_ip_v6 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InstanceState {
    Absent = 0,
    Up = 1,
    /// Keeps its flows, gets no new ones.
    Draining = 2,
}

impl InstanceState {
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            0 => Some(Self::Absent),
            1 => Some(Self::Up),
            2 => Some(Self::Draining),
            _ => None,
        }
    }
}

crate::map_type!(Instance);

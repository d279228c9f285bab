//! The flow table: what was decided for a 5-tuple, so that it is decided once.
//!
//! A flow is kept in the map `opening` until both sides have answered each other, and then moves to
//! the map `flows`: `opening` forgets the oldest entry when it is full, `flows` forgets nothing. So
//! a flood of connections that nobody completes costs other such connections, and no established
//! one.
//!
//! Each flow has two entries, one a direction, and each packet of an established flow costs one
//! look-up:
//!
//! * packets that a local instance sends are keyed as the instance sees them
//!   (`origin` = its veth, `local` = its namespace IP, `remote` = what it dialled or answers to);
//! * packets that arrive through the tunnel are keyed as the peer wrote them
//!   (`origin` = the peer, `local` = the inner destination, `remote` = the inner source);
//! * packets that arrive by the uplink without a tunnel likewise (`origin` = [`OUTSIDE`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Addr;

#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct FlowKey {
    pub local: Addr,
    pub remote: Addr,
    /// Network byte order; the identifier for ICMP echo.
    pub local_port: u16,
    /// Network byte order; type and code for ICMP echo, so that a request and its answer differ.
    pub remote_port: u16,
    /// Where the packet entered: the host end of the sending instance's veth, or
    /// [`from_node`] of the peer whose tunnel it came through. A packet with another's source
    /// therefore never meets the other's flow.
    pub origin: u32,
    /// IANA protocol number, one byte used.
    pub proto: u32,
}

/// [`FlowKey::origin`] of packets from the tunnel of node `id`. Interface indices are below 2³¹.
#[inline(always)]
pub const fn from_node(id: u32) -> u32 {
    0x8000_0000 | id
}

/// Stands for a node in [`Flow::node`] and [`from_node`]: the uplink without a tunnel, where
/// published ports are dialled and masqueraded flows leave.
pub const OUTSIDE: u32 = 0x7fff_ffff;

#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Flow {
    /// Exact also when a flow's packets run on several CPUs.
    pub packets: u64,
    /// Bytes of the IP packets.
    pub bytes: u64,
    /// `CLOCK_MONOTONIC` (coarse), nanoseconds.
    pub created_ns: u64,
    pub last_seen_ns: u64,
    /// Addresses and ports that the packet leaves with. Of ICMP echo, `sport` is the identifier.
    pub src: Addr,
    pub dst: Addr,
    /// Network byte order.
    pub sport: u16,
    pub dport: u16,
    /// What the change of addresses adds to a checksum over them, folded to 32 bits.
    pub address_delta: u32,
    /// Deliver to the instance behind this veth, when `node` is 0.
    pub ifindex: u32,
    /// Send to this node through the tunnel; 0 = this node, [`OUTSIDE`] = by the uplink as it is.
    pub node: u32,
    /// Slot of the service IP that was dialled; 0 = the flow was opened by a remote client or
    /// leads to or from outside.
    pub service: u32,
    /// The instance that was chosen; of a flow opened by a remote client, the local instance that
    /// it reached; of a flow to outside, the instance that opened it. 0 = not known to this node.
    pub instance: u32,
    /// Generation of that instance when the flow was placed.
    pub generation: u32,
    /// [`flags`].
    pub flags: u32,
    /// Of TCP in this direction, once `CLOSING`: the sequence number behind the FIN and the last
    /// acknowledgement (RFC 9293, 3.4), host byte order.
    pub fin_end: u32,
    pub acked: u32,
}

impl Flow {
    /// The key of the answers to this entry's packets, which are questions. `answering` is the
    /// address that answers: not always the one that was sent to, because a peer answers with its
    /// instance IP.
    #[inline(always)]
    pub fn answers_key(&self, key: &FlowKey, answering: Addr) -> FlowKey {
        let is_echo = is_echo(key.proto);
        let reply = if key.proto == ICMP { ECHO_REPLY } else { ECHO_REPLY_V6 };
        if self.node == 0 {
            // As the server of this node sends them.
            FlowKey {
                local: self.dst,
                remote: self.src,
                local_port: if is_echo { self.sport } else { self.dport },
                remote_port: if is_echo { reply } else { self.sport },
                origin: self.ifindex,
                proto: key.proto,
            }
        } else {
            FlowKey {
                local: self.src,
                remote: answering,
                local_port: self.sport,
                remote_port: if is_echo { reply } else { self.dport },
                origin: from_node(self.node),
                proto: key.proto,
            }
        }
    }

    /// The key of the questions to which this entry's packets are the answers. A client elsewhere
    /// may have asked another address of the server than the one that answers: then `local` of the
    /// key is that of `key`.
    #[inline(always)]
    pub fn questions_key(&self, key: &FlowKey) -> FlowKey {
        let request = if key.proto == ICMP { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
        if self.node == 0 {
            // As the client of this node sends them.
            let is_echo = is_echo(key.proto);
            FlowKey {
                local: self.dst,
                remote: self.src,
                local_port: if is_echo { self.sport } else { self.dport },
                remote_port: if is_echo { request } else { self.sport },
                origin: self.ifindex,
                proto: key.proto,
            }
        } else {
            FlowKey {
                local: self.src,
                remote: self.dst,
                local_port: self.sport,
                remote_port: if is_echo(key.proto) { request } else { self.dport },
                origin: from_node(self.node),
                proto: key.proto,
            }
        }
    }

    /// Whether both ends of a TCP connection, whose other half is `other`, have ended it and know
    /// so of each other.
    #[inline(always)]
    pub fn is_closed_with(&self, other: &Self) -> bool {
        self.flags & other.flags & flags::CLOSING != 0
            && self.acked == other.fin_end
            && other.acked == self.fin_end
    }
}

const ICMP: u32 = 1;
const ICMPV6: u32 = 58;

/// Type and code of pings and their answers, as they stand in [`FlowKey::remote_port`].
const ECHO_REPLY: u16 = u16::from_ne_bytes([0, 0]);
const ECHO_REQUEST: u16 = u16::from_ne_bytes([8, 0]);
const ECHO_REQUEST_V6: u16 = u16::from_ne_bytes([128, 0]);
const ECHO_REPLY_V6: u16 = u16::from_ne_bytes([129, 0]);

#[inline(always)]
fn is_echo(proto: u32) -> bool {
    proto == ICMP || proto == ICMPV6
}

/// Bits of [`Flow::flags`].
pub mod flags {
    /// The packets of this entry are the answers of the flow, not its questions.
    pub const REPLY: u32 = 1;
    /// The flow was opened by a client on another node, or from outside.
    pub const REMOTE_CLIENT: u32 = 2;
    /// A TCP FIN or RST went by in this direction: the entry is of no use once it is quiet, and a
    /// SYN on the same ports is a new connection.
    pub const CLOSING: u32 = 4;
    /// A TCP RST went by: the flow has ended.
    pub const RESET: u32 = 8;
    /// Both sides have answered each other: the entry is in the map `flows`, not in `opening`.
    pub const CONFIRMED: u32 = 16;
}

crate::map_type!(FlowKey, Flow);

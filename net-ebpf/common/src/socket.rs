//! Sockets of instances of one node that are joined: what one sends is put into the other's
//! receive queue, past the network stack.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, FlowKey};

/// A TCP socket of an instance, as the instance sees it. Key of the maps `sockets` and `joined`.
///
/// Unique on a node, because each namespace IP belongs to one network namespace, whose cookie is
/// checked before a socket is entered.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SocketKey {
    pub local: Addr,
    pub remote: Addr,
    /// Network byte order.
    pub local_port: u16,
    pub remote_port: u16,
}

/// Value of the map `joined`: what must hold for what a socket sends to go past the stack.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Joined {
    /// Address of the kernel's `struct sock`, read through a helper that survives any address.
    pub sock: u64,
    /// The socket's cookie, by which a `struct sock` that was given to another is noticed.
    pub cookie: u64,
    /// TCP sequence number of the first byte that the socket sends: as long as it is still the
    /// next one, no byte has gone by TCP.
    pub first_seq: u32,
    /// [`flags`].
    pub flags: u32,
    /// Of what the socket sends.
    pub flow: FlowKey,
    /// The socket at the other end.
    pub peer: SocketKey,
}

/// Bits of [`Joined::flags`].
pub mod flags {
    /// Bytes of this socket have gone by TCP, and so will all that follow: none overtakes another.
    pub const BY_TCP: u32 = 1;
}

/// Where the running kernel has the fields of a socket, in bytes from the start of `struct sock`.
/// One entry, index 0 of the map `socket_layout`; all zeros: no sockets are joined.
#[repr(C)]
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct SocketLayout {
    /// `sock.sk_rcvbuf`.
    pub rcvbuf: u32,
    /// `sock_common.skc_cookie`.
    pub cookie: u32,
    /// `sock.sk_backlog.rmem_alloc`.
    pub rmem_alloc: u32,
    /// `inet_connection_sock.icsk_ulp_ops`.
    pub ulp_ops: u32,
    /// `tcp_sock.write_seq`.
    pub write_seq: u32,
    /// `tcp_sock.copied_seq`.
    pub copied_seq: u32,
}

crate::map_type!(SocketKey, Joined, SocketLayout);

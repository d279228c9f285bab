//! Changes the addresses of a packet.

use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    programs::TcContext,
};
use net_common::{DropReason, checksum};

use crate::packet::{IPV4_LEN, Ipv4Header, Packet, TCP, UDP};

const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// Puts `src` and `dst` (network byte order) into the IPv4 header and mends both checksums.
///
/// The IP header's own sum is written directly. The transport sum goes through the helper: it may
/// be unfinished (`CHECKSUM_PARTIAL`), which a program cannot see.
#[inline(always)]
pub fn addresses(ctx: &TcContext, packet: &Packet, src: u32, dst: u32) -> Result<(), DropReason> {
    if packet.src == src && packet.dst == dst {
        return Ok(());
    }
    let delta =
        checksum::fold32(checksum::delta(packet.src, src) + checksum::delta(packet.dst, dst));
    let start = ctx.data() + packet.l3;
    if start + IPV4_LEN > ctx.data_end() {
        return Err(DropReason::Truncated);
    }
    let header = start as *mut Ipv4Header;
    // SAFETY: the header is inside the packet, as just checked, and aligned as in `packet::read`.
    unsafe {
        (*header).checksum = checksum::update((*header).checksum, delta);
        (*header).src = src;
        (*header).dst = dst;
    }
    let (offset, flags) = match packet.proto {
        TCP => (TCP_CHECKSUM, BPF_F_PSEUDO_HDR),
        UDP => (UDP_CHECKSUM, BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0),
        // ICMP's sum does not cover the addresses (RFC 792).
        _ => return Ok(()),
    };
    ctx.l4_csum_replace(packet.l3 + packet.ihl + offset, 0, u64::from(delta), u64::from(flags))
        .map_err(|_| DropReason::RewriteFailed)
}

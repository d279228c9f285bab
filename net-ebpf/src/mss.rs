//! Clamps the largest segment size that a SYN announces to what the tunnel carries, for where
//! path-MTU discovery does not work (RFC 9293, 3.7.1).

use aya_ebpf::programs::TcContext;
use net_common::{
    Packet, ProgramCounter, limits,
    packet::{ETH_LEN, IPV4_LEN, IPV6_LEN},
};

use crate::verdict::count;

const TCP_LEN: usize = 20;
const TCP_CHECKSUM: usize = 16;
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: [u8; 2] = [2, 4];

/// `mtu` is that of the IP packet. A packet whose options cannot be read stays as it is.
#[inline(never)]
pub fn clamp(ctx: &TcContext, packet: &Packet, mtu: u32) {
    let headers = if packet.src.is_v4() { IPV4_LEN + TCP_LEN } else { IPV6_LEN + TCP_LEN } as u32;
    let most = mtu.saturating_sub(headers) as u16;
    let tcp = ETH_LEN + packet.transport_at();
    let mut distance = TCP_LEN;
    for _ in 0..limits::TCP_OPTIONS {
        if distance + 4 > packet.transport_len as usize {
            return;
        }
        let Ok(option) = ctx.load::<[u8; 2]>(tcp + distance) else { return };
        match option {
            [END, _] => return,
            [NO_OPERATION, _] => distance += 1,
            MAXIMUM_SEGMENT_SIZE => {
                let Ok(announced) = ctx.load::<[u8; 2]>(tcp + distance + 2) else { return };
                if u16::from_be_bytes(announced) <= most {
                    return;
                }
                let wanted = most.to_be_bytes();
                // At an odd distance each byte is in the other half of a summed word (RFC 1071, 2).
                let (old, new) = if distance.is_multiple_of(2) {
                    (u16::from_ne_bytes(announced), u16::from_ne_bytes(wanted))
                } else {
                    (
                        u16::from_ne_bytes(announced).swap_bytes(),
                        u16::from_ne_bytes(wanted).swap_bytes(),
                    )
                };
                if ctx.store(tcp + distance + 2, &wanted, 0).is_ok()
                    && ctx
                        .l4_csum_replace(tcp + TCP_CHECKSUM, u64::from(old), u64::from(new), 2)
                        .is_ok()
                {
                    count(ProgramCounter::MssClamped, packet.len);
                }
                return;
            }
            [_, len] if len >= 2 => distance += usize::from(len),
            _ => return,
        }
    }
}

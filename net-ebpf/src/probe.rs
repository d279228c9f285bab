//! Probes of the path between two nodes: sent back here, so that no daemon's delay is measured.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    programs::TcContext,
};
use net_common::{
    DropReason, EventKind, PeerKey, Probe, ProgramCounter,
    packet::{ETH_LEN, Frame, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, UDP_LEN},
};

use crate::{
    event,
    packet::Skb,
    tunnel::UdpHeader,
    verdict::{Verdict, count},
};

/// The frame's addresses.
#[repr(C)]
#[derive(Clone, Copy)]
struct Macs {
    dst: [u16; 3],
    src: [u16; 3],
}

/// A packet from the tunnel of the node `peer` that is no IP packet, behind an outer IP header of
/// `OUTER` bytes.
#[inline(always)]
pub fn receive<const OUTER: usize>(
    ctx: &TcContext,
    sender: &PeerKey,
    peer: u32,
) -> Result<Verdict, DropReason> {
    let frame = Skb(ctx);
    let probe = probe::<OUTER>(&frame).ok_or(DropReason::TunnelMalformed)?;
    // SAFETY: inside the packet, as `at` says, and aligned to a byte.
    let probe = unsafe { &*probe };
    match (probe.magic, probe.kind) {
        (Probe::MAGIC, Probe::REQUEST) => {
            turn_round::<OUTER>(&frame).ok_or(DropReason::Truncated)?;
            count(ProgramCounter::ProbeReflected, ctx.len());
            // SAFETY: a field of the context that the kernel passed; a helper call without
            // pointers.
            Ok(Verdict::Redirect(unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) } as i32))
        }
        (Probe::MAGIC, Probe::REPLY) => {
            tell(probe, sender, peer);
            count(ProgramCounter::ProbeAnswered, ctx.len());
            Ok(Verdict::Consumed)
        }
        _ => Err(DropReason::TunnelMalformed),
    }
}

#[inline(always)]
fn probe<const OUTER: usize>(frame: &impl Frame) -> Option<*mut Probe> {
    Some(frame.at::<[u8; size_of::<Probe>()]>(ETH_LEN + OUTER + UDP_LEN)?.cast::<Probe>())
}

/// Whether a tunnel packet asks to be sent back.
#[inline(always)]
pub fn is_request<const OUTER: usize>(frame: &impl Frame) -> bool {
    let Some(probe) = probe::<OUTER>(frame) else { return false };
    // SAFETY: as in `receive`.
    let (magic, kind) = unsafe { ((*probe).magic, (*probe).kind) };
    magic == Probe::MAGIC && kind == Probe::REQUEST
}

/// Makes a probe its own answer.
#[inline(always)]
pub fn turn_round<const OUTER: usize>(frame: &impl Frame) -> Option<()> {
    const { assert!(OUTER == IPV4_LEN || OUTER == IPV6_LEN) };
    let macs = frame.at::<Macs>(0)?;
    let udp = frame.at::<UdpHeader>(ETH_LEN + OUTER)?;
    let probe = probe::<OUTER>(frame)?;
    // SAFETY: inside the packet and aligned, as `at` says. The order of addresses and ports does
    // not matter to a checksum; that of UDP is left out (RFC 768, RFC 6935), because the kind has
    // changed.
    unsafe {
        if OUTER == IPV4_LEN {
            let ip = frame.at::<Ipv4Header>(ETH_LEN)?;
            let (src, dst) = ((*ip).src, (*ip).dst);
            ((*ip).src, (*ip).dst) = (dst, src);
        } else {
            let ip = frame.at::<Ipv6Header>(ETH_LEN)?;
            let (src, dst) = ((*ip).src, (*ip).dst);
            ((*ip).src, (*ip).dst) = (dst, src);
        }
        (*probe).kind = Probe::REPLY;
        *macs = Macs { dst: (*macs).src, src: (*macs).dst };
        let (sport, dport) = ((*udp).sport, (*udp).dport);
        ((*udp).sport, (*udp).dport) = (dport, sport);
        (*udp).checksum = 0;
    }
    Some(())
}

/// The answer to a probe of this node, with the time at which the kernel had it.
#[inline(always)]
fn tell(probe: &Probe, sender: &PeerKey, peer: u32) {
    // SAFETY: a helper call without arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    event::send(EventKind::ProbeReply, |event| {
        event.ifindex = u32::from_be_bytes(probe.seq);
        event.src = sender.addr;
        event.sport = sender.port;
        event.value = peer;
        event.time_ns = now;
        event.sent_ns = u64::from_be_bytes(probe.sent_ns);
        event.nonce = u64::from_be_bytes(probe.nonce);
    });
}

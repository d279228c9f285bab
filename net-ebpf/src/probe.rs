//! Probes of the path between two nodes: sent back here, so that no daemon's delay is measured.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    programs::TcContext,
};
use net_common::{
    Addr, DropReason, EventKind, Probe, ProgramCounter,
    packet::{ETH_LEN, Frame, IPV4_LEN, Ipv4Header, TUNNEL_LEN},
};

use crate::{
    event,
    packet::{Skb, at},
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

/// A packet from the tunnel of the node `peer` that is no IP packet.
#[inline(never)]
pub fn receive(ctx: &TcContext, peer: u32) -> Result<Verdict, DropReason> {
    let frame = Skb(ctx);
    let probe = probe(&frame).ok_or(DropReason::TunnelMalformed)?;
    match (probe.magic, probe.kind) {
        (Probe::MAGIC, Probe::REQUEST) => {
            turn_round(&frame).ok_or(DropReason::Truncated)?;
            count(ProgramCounter::ProbeReflected, ctx.len());
            // SAFETY: a field of the context that the kernel passed; a helper call without
            // pointers.
            Ok(Verdict::Redirect(unsafe { bpf_redirect((*ctx.skb.skb).ifindex, 0) } as i32))
        }
        (Probe::MAGIC, Probe::REPLY) => {
            read(ctx, probe, peer)?;
            count(ProgramCounter::ProbeAnswered, ctx.len());
            Ok(Verdict::Consumed)
        }
        _ => Err(DropReason::TunnelMalformed),
    }
}

#[inline(always)]
fn probe<'a>(frame: &'a impl Frame) -> Option<&'a mut Probe> {
    let probe = frame.at::<[u8; size_of::<Probe>()]>(ETH_LEN + TUNNEL_LEN)?.cast::<Probe>();
    // SAFETY: inside the packet, as `at` says, and aligned to a byte.
    Some(unsafe { &mut *probe })
}

/// Whether a tunnel packet asks to be sent back.
#[inline(always)]
pub fn is_request(frame: &impl Frame) -> bool {
    probe(frame).is_some_and(|p| p.magic == Probe::MAGIC && p.kind == Probe::REQUEST)
}

/// Makes a probe its own answer.
#[inline(always)]
pub fn turn_round(frame: &impl Frame) -> Option<()> {
    let macs = frame.at::<Macs>(0)?;
    let ip = frame.at::<Ipv4Header>(ETH_LEN)?;
    let udp = frame.at::<UdpHeader>(ETH_LEN + IPV4_LEN)?;
    probe(frame)?.kind = Probe::REPLY;
    // SAFETY: inside the packet and aligned, as `at` says. The order of addresses and ports does
    // not matter to a checksum; that of UDP is left out (RFC 768), because the kind has changed.
    unsafe {
        *macs = Macs { dst: (*macs).src, src: (*macs).dst };
        let (src, dst) = ((*ip).src, (*ip).dst);
        ((*ip).src, (*ip).dst) = (dst, src);
        let (sport, dport) = ((*udp).sport, (*udp).dport);
        ((*udp).sport, (*udp).dport) = (dport, sport);
        (*udp).checksum = 0;
    }
    Some(())
}

/// The answer to a probe of this node, with the time at which the kernel had it.
#[inline(always)]
fn read(ctx: &TcContext, probe: &Probe, peer: u32) -> Result<(), DropReason> {
    let ip = at::<Ipv4Header>(ctx, ETH_LEN).ok_or(DropReason::Truncated)?;
    let udp = at::<UdpHeader>(ctx, ETH_LEN + IPV4_LEN).ok_or(DropReason::Truncated)?;
    // SAFETY: inside the packet and aligned, as `at` says; the helper takes no arguments.
    let (src, sport, now) = unsafe { ((*ip).src, (*udp).sport, bpf_ktime_get_ns()) };
    event::send(EventKind::ProbeReply, |event| {
        event.ifindex = u32::from_be_bytes(probe.seq);
        event.src = Addr::from_v4_word(src);
        event.sport = sport;
        event.value = peer;
        event.time_ns = now;
        event.sent_ns = u64::from_be_bytes(probe.sent_ns);
        event.nonce = u64::from_be_bytes(probe.nonce);
    });
    Ok(())
}

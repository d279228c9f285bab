//! Probes of the path between two nodes: sent back here, so that no daemon's delay is measured.

use aya_ebpf::{
    helpers::{bpf_ktime_get_ns, bpf_redirect},
    programs::TcContext,
};
use net_common::{
    Addr, DropReason, EventKind, Probe, ProgramCounter,
    packet::{ETH_LEN, IPV4_LEN, Ipv4Header, TUNNEL_LEN},
};

use crate::{
    event,
    packet::at,
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
    let probe = at::<[u8; size_of::<Probe>()]>(ctx, ETH_LEN + TUNNEL_LEN)
        .ok_or(DropReason::TunnelMalformed)?
        .cast::<Probe>();
    // SAFETY: inside the packet, as `at` says, and aligned to a byte.
    let probe = unsafe { &mut *probe };
    match (probe.magic, probe.kind) {
        (Probe::MAGIC, Probe::REQUEST) => reflect(ctx, probe),
        (Probe::MAGIC, Probe::REPLY) => {
            read(ctx, probe, peer)?;
            count(ProgramCounter::ProbeAnswered, ctx.len());
            Ok(Verdict::Consumed)
        }
        _ => Err(DropReason::TunnelMalformed),
    }
}

/// Sends a probe back to where it came from.
#[inline(always)]
fn reflect(ctx: &TcContext, probe: &mut Probe) -> Result<Verdict, DropReason> {
    let macs = at::<Macs>(ctx, 0).ok_or(DropReason::Truncated)?;
    let ip = at::<Ipv4Header>(ctx, ETH_LEN).ok_or(DropReason::Truncated)?;
    let udp = at::<UdpHeader>(ctx, ETH_LEN + IPV4_LEN).ok_or(DropReason::Truncated)?;
    probe.kind = Probe::REPLY;
    // SAFETY: inside the packet and aligned, as `at` says. The order of addresses and ports does
    // not matter to a checksum; that of UDP is left out (RFC 768), because the kind has changed.
    let ifindex = unsafe {
        *macs = Macs { dst: (*macs).src, src: (*macs).dst };
        let (src, dst) = ((*ip).src, (*ip).dst);
        ((*ip).src, (*ip).dst) = (dst, src);
        let (sport, dport) = ((*udp).sport, (*udp).dport);
        ((*udp).sport, (*udp).dport) = (dport, sport);
        (*udp).checksum = 0;
        (*ctx.skb.skb).ifindex
    };
    count(ProgramCounter::ProbeReflected, ctx.len());
    // SAFETY: a helper call without pointers.
    Ok(Verdict::Redirect(unsafe { bpf_redirect(ifindex, 0) } as i32))
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

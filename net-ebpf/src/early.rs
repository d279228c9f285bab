//! What the uplink's XDP program does before the kernel makes a buffer of a packet: drops what
//! nobody announced, sends probes back, and translates packets of established flows to published
//! ports. Everything else goes on to `from_uplink`.
//!
//! Checksums are mended in place (RFC 1624), which is right only where the network card has left
//! none unfinished: on a veth `CHECKSUM_PARTIAL` cannot be seen, so user space by itself attaches this
//! to real network cards only.

use aya_ebpf::{
    bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    helpers::bpf_xdp_adjust_meta,
    programs::{TcContext, XdpContext},
};
use net_common::{
    Addr, Config, DropReason, Flow, Packet, PeerKey, ProgramCounter, checksum,
    flow::{OUTSIDE, flags::CLOSING},
    packet::{ETH_LEN, ETH_P_IP, Fragment, Frame, IPV4_LEN, Ipv4Header, TCP, UDP, parse},
};

use crate::{
    event, flow,
    maps::{CONFIG, FLOWS, PACKET, PEERS},
    packet::keys,
    probe,
    tunnel::UdpHeader,
    verdict::{count, count_drop},
};

/// In front of a packet that is translated already.
#[repr(C)]
#[derive(Clone, Copy)]
struct Note {
    magic: u32,
    /// Host end of its instance's veth pair.
    ifindex: u32,
}

const MAGIC: u32 = 0x7879_6c6d;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

struct Buffer<'a>(&'a XdpContext);

impl Frame for Buffer<'_> {
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() <= 2) };
        let start = self.0.data() + offset;
        (start + size_of::<T>() <= self.0.data_end()).then_some(start as *mut T)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        // The kernel attaches a program without `BPF_F_XDP_HAS_FRAGS` where packets are in one
        // piece only.
        (self.0.data_end() - self.0.data()) as u32
    }
}

#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    let frame = Buffer(ctx);
    let (Some(config), Some(outer)) = (CONFIG.get(0), frame.at::<Ipv4Header>(ETH_LEN)) else {
        return XDP_PASS;
    };
    if frame.read::<u16>(ETH_LEN - 2) != Some(ETH_P_IP.to_be()) {
        return XDP_PASS;
    }
    // SAFETY: inside the packet and aligned, as `at` says.
    let outer = unsafe { &*outer };
    if outer.dst != config.node_addr.v4_word()
        || outer.version_ihl != 0x45
        || Ipv4Header::is_fragment(outer.fragment)
    {
        return XDP_PASS;
    }
    if outer.proto == UDP
        && let Some(udp) = frame.read::<UdpHeader>(ETH_LEN + IPV4_LEN)
        && udp.dport == config.tunnel_port
    {
        return from_tunnel(&frame, outer.src, udp.sport);
    }
    if config.watches_uplink() && (outer.proto == TCP || outer.proto == UDP) {
        // What cannot be done here is done behind.
        let _ = to_instance(ctx, config);
    }
    XDP_PASS
}

#[inline(always)]
fn from_tunnel(frame: &Buffer, src: u32, sport: u16) -> u32 {
    let sender = PeerKey { addr: Addr::from_v4_word(src), port: sport, _pad: 0 };
    // SAFETY: only looked at for being there.
    if unsafe { PEERS.get(sender) }.is_none() {
        event::ask_who(&sender);
        count_drop(DropReason::UnknownPeer as u32, frame.len());
        return XDP_DROP;
    }
    if probe::is_request::<IPV4_LEN>(frame) && probe::turn_round::<IPV4_LEN>(frame).is_some() {
        count(ProgramCounter::ProbeReflected, frame.len());
        return XDP_TX;
    }
    XDP_PASS
}

/// Translates a packet of an established flow from outside to an instance; `from_uplink` delivers
/// it as its note says.
#[inline(always)]
fn to_instance(ctx: &XdpContext, config: &Config) -> Option<()> {
    let frame = Buffer(ctx);
    // SAFETY: this CPU's own element, as in `packet::parse`.
    let packet = unsafe { &mut *PACKET.get_ptr_mut(0)? };
    packet.dry_run = 0;
    parse(&frame, ETH_LEN, true, packet).ok()?;
    let keys = keys().ok()?;
    keys.key = packet.tunnel_key(OUTSIDE);
    let key = &keys.key;
    let flow = FLOWS.get_ptr_mut(key)?;
    // SAFETY: as in `flow::entry`.
    let (node, ifindex, flags) = unsafe { ((*flow).node, (*flow).ifindex, (*flow).flags) };
    if node != 0
        || flags & CLOSING != 0
        || packet.is_closing()
        || packet.is_error()
        || packet.fragment != Fragment::Whole as u32
        || packet.len > config.instance_mtu
        || packet.is_syn()
        || !flow::is_current(flow)
    {
        return None;
    }
    // SAFETY: the context that the kernel passed.
    if unsafe { bpf_xdp_adjust_meta(ctx.ctx, -(size_of::<Note>() as i32)) } != 0 {
        return None;
    }
    let note = ctx.metadata() as *mut Note;
    if note as usize + size_of::<Note>() > ctx.metadata_end() {
        return None;
    }
    // SAFETY: inside the metadata, as just checked, whose size is a multiple of 4 bytes. A note
    // without its magic number is none.
    unsafe { *note = Note { magic: 0, ifindex } };
    // SAFETY: as in `flow::entry`.
    translate(&frame, packet, unsafe { &*flow })?;
    let note = ctx.metadata() as *mut Note;
    if note as usize + size_of::<Note>() > ctx.metadata_end() {
        return None;
    }
    // SAFETY: as above.
    unsafe { (*note).magic = MAGIC };
    flow::account(packet, flow);
    count(ProgramCounter::EnteredOverlay, packet.len);
    Some(())
}

/// Either nothing is changed or everything.
#[inline(always)]
fn translate(frame: &Buffer, packet: &Packet, flow: &Flow) -> Option<()> {
    let transport = ETH_LEN + packet.transport_at();
    let is_tcp = packet.is_tcp();
    let field = transport + if is_tcp { TCP_CHECKSUM } else { UDP_CHECKSUM };
    let sum = frame.at::<u16>(field)?;
    let ports = frame.at::<[u16; 2]>(transport)?;
    let header = frame.at::<Ipv4Header>(ETH_LEN)?;
    let delta = checksum::fold32(
        u64::from(flow.address_delta)
            + checksum::delta(u32::from(packet.sport), u32::from(flow.sport))
            + checksum::delta(u32::from(packet.dport), u32::from(flow.dport)),
    );
    // SAFETY: inside the packet and aligned, as `at` says.
    unsafe {
        // A datagram without a sum keeps none (RFC 768).
        if is_tcp || *sum != 0 {
            let updated = checksum::update(*sum, delta);
            *sum = if !is_tcp && updated == 0 { 0xffff } else { updated };
        }
        *ports = [flow.sport, flow.dport];
        (*header).checksum = checksum::update((*header).checksum, flow.address_delta);
        (*header).src = flow.src.v4_word();
        (*header).dst = flow.dst.v4_word();
    }
    Some(())
}

/// The interface to which a packet that was translated before goes.
#[inline(always)]
pub fn noted(ctx: &TcContext) -> Option<u32> {
    // SAFETY: fields of the context that the kernel passed.
    let (start, end) = unsafe { ((*ctx.skb.skb).data_meta as usize, ctx.data()) };
    if start + size_of::<Note>() > end {
        return None;
    }
    // SAFETY: inside the metadata, as just checked.
    let note = unsafe { *(start as *const Note) };
    (note.magic == MAGIC).then_some(note.ifindex)
}

//! A packet in the kernel: how its bytes are reached, and where what was read of it is kept.

use aya_ebpf::{helpers::bpf_skb_pull_data, programs::TcContext};
use net_common::{
    DropReason, FlowKey, FragmentKey, FragmentPorts, Packet,
    explain::DRY_RUN_MARK,
    packet::{
        self, ETH_LEN, Fragment, Frame, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, TCP,
        TUNNEL_LEN, TUNNEL_LEN_V6, UDP, UDP_LEN,
    },
};

use crate::maps::{FRAGMENTS, KEYS, PACKET};

/// Headers that the programs look at: Ethernet, a tunnel, IPv6 with some extension headers or
/// IPv4 with options, TCP.
const HEADERS_LEN: u32 = (ETH_LEN + TUNNEL_LEN_V6 + 80 + 20) as u32;

/// A socket buffer's packet.
pub struct Skb<'a>(pub &'a TcContext);

impl Frame for Skb<'_> {
    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        at(self.0, offset)
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }
}

/// As [`Frame::at`].
#[inline(always)]
pub fn at<T>(ctx: &TcContext, offset: usize) -> Option<*mut T> {
    const { assert!(align_of::<T>() <= 2) };
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}

/// As [`Frame::read`].
#[inline(always)]
pub fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    Skb(ctx).read(offset)
}

/// Makes the headers of the packet at `l3` directly readable: a buffer may hold its first bytes
/// elsewhere.
///
/// What is most common needs no more than the headers that the sender's stack has put in front of
/// its data. To pull more would copy the head of every TCP segment, which its socket keeps a
/// clone of, and receivers could not join such segments any more.
#[inline(always)]
pub fn pull_headers(ctx: &TcContext, l3: usize) {
    if plain_transport(ctx, l3).is_none() {
        pull_all(ctx);
    }
}

/// As [`pull_headers`], of a packet that may be inside a tunnel packet.
#[inline(always)]
pub fn pull_tunnelled_headers(ctx: &TcContext, is_v4: bool) {
    let tunnel_len = if is_v4 { TUNNEL_LEN } else { TUNNEL_LEN_V6 };
    let is_readable = match plain_transport(ctx, ETH_LEN) {
        Some(UDP) => plain_transport(ctx, ETH_LEN + tunnel_len).is_some(),
        proto => proto.is_some(),
    };
    if !is_readable {
        pull_all(ctx);
    }
}

#[inline(always)]
fn pull_all(ctx: &TcContext) {
    let wanted = if ctx.len() < HEADERS_LEN { ctx.len() } else { HEADERS_LEN };
    if ctx.data() + wanted as usize > ctx.data_end() {
        // SAFETY: `skb` is the context that the kernel passed. A failure shows as a short packet.
        unsafe { bpf_skb_pull_data(ctx.skb.skb, wanted) };
    }
}

/// TCP or UDP, where the packet has that and no options in front of it, and all that is read of it
/// can be: of a SYN, also the options behind.
#[inline(always)]
fn plain_transport(ctx: &TcContext, l3: usize) -> Option<u8> {
    let header = at::<Ipv4Header>(ctx, l3)?;
    // SAFETY: inside the packet and aligned, as `at` says.
    let (version_ihl, v4_proto) = unsafe { ((*header).version_ihl, (*header).proto) };
    let (proto, l4) = if version_ihl == 0x45 {
        (v4_proto, l3 + IPV4_LEN)
    } else if version_ihl >> 4 == 6 {
        let header = at::<Ipv6Header>(ctx, l3)?;
        // SAFETY: as above.
        (unsafe { (*header).next_header }, l3 + IPV6_LEN)
    } else {
        return None;
    };
    match proto {
        TCP => {
            let header = at::<[u8; TCP_LEN]>(ctx, l4)?;
            // SAFETY: as above.
            let flags = unsafe { (*header)[TCP_FLAGS] };
            (flags & TCP_SYN == 0).then_some(TCP)
        }
        UDP => at::<[u8; UDP_LEN]>(ctx, l4).map(|_| UDP),
        _ => None,
    }
}

/// A TCP header without options, and where its flags stand.
const TCP_LEN: usize = 20;
const TCP_FLAGS: usize = 13;
const TCP_SYN: u8 = 0x02;

/// Parses the IP packet at `l3`, of the version that its first byte says; whoever calls has
/// called [`pull_headers`]. A later fragment gets the ports of the first, which entered at
/// `origin` as well.
#[inline(always)]
pub fn parse(
    ctx: &TcContext,
    l3: usize,
    is_v4: bool,
    origin: u32,
) -> Result<&'static mut Packet, DropReason> {
    let packet = PACKET.get_ptr_mut(0).ok_or(DropReason::Truncated)?;
    // SAFETY: this CPU's own element; the program is not interrupted by another of ours, and no
    // other reference to it exists before it is returned.
    let packet = unsafe { &mut *packet };
    // SAFETY: a field of the context that the kernel passed.
    packet.dry_run = u32::from(unsafe { (*ctx.skb.skb).mark } == DRY_RUN_MARK);
    packet::parse(&Skb(ctx), l3, is_v4, packet)?;
    if packet.fragment == Fragment::Later as u32 {
        ports_of_first(packet, origin)?;
    }
    Ok(packet)
}

#[inline(never)]
fn ports_of_first(packet: &mut Packet, origin: u32) -> Result<(), DropReason> {
    // SAFETY: read at once.
    let ports = unsafe { FRAGMENTS.get(fragment_key(packet, origin)) };
    let ports = ports.ok_or(DropReason::FragmentWithoutFirst)?;
    (packet.sport, packet.dport) = (ports.sport, ports.dport);
    Ok(())
}

/// The keys of a packet's flow. In a map and not on the stack, of which there are 512 bytes.
pub struct Keys {
    /// Of the packet itself.
    pub key: FlowKey,
    /// Of the answers to it.
    pub answers: FlowKey,
}

/// This CPU's own; a program calls it once.
#[inline(always)]
pub fn keys() -> Result<&'static mut Keys, DropReason> {
    let keys = KEYS.get_ptr_mut(0).ok_or(DropReason::NotConfigured)?;
    // SAFETY: this CPU's own element; the program is not interrupted by another of ours.
    Ok(unsafe { &mut *keys })
}

/// Keeps the ports of a first fragment for those that follow it.
#[inline(always)]
pub fn remember_fragment(packet: &Packet, origin: u32) {
    if packet.fragment == Fragment::First as u32 && packet.dry_run == 0 {
        insert_ports(packet, origin);
    }
}

#[inline(never)]
fn insert_ports(packet: &Packet, origin: u32) {
    let ports = FragmentPorts { sport: packet.sport, dport: packet.dport };
    // A failure shows when the later ones come: they are dropped with a reason.
    let _ = FRAGMENTS.insert(fragment_key(packet, origin), ports, 0);
}

#[inline(always)]
fn fragment_key(packet: &Packet, origin: u32) -> FragmentKey {
    FragmentKey {
        src: packet.src,
        dst: packet.dst,
        id: packet.fragment_id,
        origin,
        proto: packet.proto,
    }
}

#[inline(always)]
pub fn ethertype(ctx: &TcContext) -> u16 {
    // SAFETY: a field of the context that the kernel passed.
    u16::from_be(unsafe { (*ctx.skb.skb).protocol } as u16)
}

//! Reads the headers of an IPv4 packet, checking every bound once.

use aya_ebpf::{helpers::bpf_skb_pull_data, programs::TcContext};
use net_common::{Addr, DropReason, FlowKey, flow::from_node};

pub const ETH_LEN: usize = 14;
pub const IPV4_LEN: usize = 20;
pub const UDP_LEN: usize = 8;
/// What the tunnel adds between the Ethernet header and the inner packet.
pub const TUNNEL_LEN: usize = IPV4_LEN + UDP_LEN;

pub const ETH_P_IP: u32 = 0x0800;
pub const ETH_P_ARP: u32 = 0x0806;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// More-fragments flag and offset, of the third word's upper half in network byte order.
const FRAGMENT_MASK: u16 = 0x3fff;

const ICMP_ECHO: u8 = 8;
const ICMP_ECHO_REPLY: u8 = 0;

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// Headers that the programs look at: Ethernet, a tunnel, IPv4 with options, TCP.
const HEADERS_LEN: u32 = (ETH_LEN + TUNNEL_LEN + 60 + 20) as u32;

/// What the programs need of a packet. Ports are in network byte order; for ICMP echo `sport` is
/// the identifier and `dport` the type and code.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Offset of the IP header.
    pub l3: usize,
    /// Length of the IP header, 20…60.
    pub ihl: usize,
    pub src: u32,
    pub dst: u32,
    pub sport: u16,
    pub dport: u16,
    pub proto: u8,
    pub tos: u8,
    pub tcp_flags: u8,
    /// Length of the IP packet as its header says it, checked against the buffer.
    pub len: u32,
}

impl Packet {
    pub fn is_closing(&self) -> bool {
        self.tcp_flags & (TCP_FIN | TCP_RST) != 0
    }

    /// A connection is opened: SYN without ACK.
    pub fn is_opening(&self) -> bool {
        self.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// An answer to a ping; it never opens a flow.
    pub fn is_echo_reply(&self) -> bool {
        self.proto == ICMP && self.dport == echo_port(ICMP_ECHO_REPLY)
    }

    /// As the flow table keys a packet that a local instance sends.
    #[inline(always)]
    pub fn egress_key(&self, ifindex: u32) -> FlowKey {
        FlowKey {
            local: Addr::from_v4_word(self.src),
            remote: Addr::from_v4_word(self.dst),
            local_port: self.sport,
            remote_port: self.dport,
            origin: ifindex,
            proto: u32::from(self.proto),
        }
    }

    /// As the flow table keys a packet that the tunnel of node `peer` brings.
    #[inline(always)]
    pub fn tunnel_key(&self, peer: u32) -> FlowKey {
        let (local_port, remote_port) =
            if self.proto == ICMP { (self.sport, self.dport) } else { (self.dport, self.sport) };
        FlowKey {
            local: Addr::from_v4_word(self.dst),
            remote: Addr::from_v4_word(self.src),
            local_port,
            remote_port,
            origin: from_node(peer),
            proto: u32::from(self.proto),
        }
    }

    /// Ports of the answers to this packet, as seen by whoever sends them.
    #[inline(always)]
    pub fn ports_answered(&self) -> (u16, u16) {
        if self.proto == ICMP {
            (self.sport, echo_port(ICMP_ECHO_REPLY))
        } else {
            (self.dport, self.sport)
        }
    }

    /// Ports of the answers to this packet, as seen by whoever receives them.
    #[inline(always)]
    pub fn ports_awaited(&self) -> (u16, u16) {
        if self.proto == ICMP {
            (self.sport, echo_port(ICMP_ECHO_REPLY))
        } else {
            (self.sport, self.dport)
        }
    }
}

const fn echo_port(icmp_type: u8) -> u16 {
    u16::from_ne_bytes([icmp_type, 0])
}

/// Makes the headers directly readable: a buffer may hold its first bytes elsewhere.
#[inline(always)]
pub fn pull_headers(ctx: &TcContext) {
    let wanted = if ctx.len() < HEADERS_LEN { ctx.len() } else { HEADERS_LEN };
    if ctx.data() + wanted as usize > ctx.data_end() {
        // SAFETY: `skb` is the context that the kernel passed. A failure shows as a short packet.
        unsafe { bpf_skb_pull_data(ctx.skb.skb, wanted) };
    }
}

/// Reads a `T` at an even `offset`, if the packet is that long.
///
/// Drivers align the IP header, so every even offset from the Ethernet header's beginning is at
/// an even address. Nothing that is read is aligned to more: the compiler reads a larger number
/// as its halves, and not byte by byte.
#[inline(always)]
pub fn read<T: Copy>(ctx: &TcContext, offset: usize) -> Option<T> {
    const { assert!(align_of::<T>() <= 2) };
    let start = ctx.data() + offset;
    if start + size_of::<T>() > ctx.data_end() {
        return None;
    }
    // SAFETY: the bytes are inside the packet, as just checked, and aligned; `T` is plain bytes.
    Some(unsafe { *(start as *const T) })
}

/// An IPv4 header without options, as it stands in the packet, at an even address.
#[repr(C, packed(2))]
#[derive(Clone, Copy)]
pub struct Ipv4Header {
    pub version_ihl: u8,
    pub tos: u8,
    pub total_len: u16,
    pub id: u16,
    pub fragment: u16,
    pub ttl: u8,
    pub proto: u8,
    pub checksum: u16,
    pub src: u32,
    pub dst: u32,
}

/// An IPv4 header where it stands in the packet. Fields are read one by one: a copy of the whole
/// would be taken through the stack.
#[derive(Clone, Copy)]
pub struct Ipv4View(*const Ipv4Header);

impl Ipv4View {
    /// The header at `offset`, if the packet is that long.
    #[inline(always)]
    pub fn at(ctx: &TcContext, offset: usize) -> Option<Self> {
        let start = ctx.data() + offset;
        (start + size_of::<Ipv4Header>() <= ctx.data_end()).then_some(Self(start as *const _))
    }

    #[inline(always)]
    pub fn version_ihl(self) -> u8 {
        // SAFETY: here and below: inside the packet, as `at` has checked, and aligned as in `read`.
        unsafe { (*self.0).version_ihl }
    }

    #[inline(always)]
    pub fn tos(self) -> u8 {
        // SAFETY: see above.
        unsafe { (*self.0).tos }
    }

    #[inline(always)]
    pub fn proto(self) -> u8 {
        // SAFETY: see above.
        unsafe { (*self.0).proto }
    }

    /// Network byte order.
    #[inline(always)]
    pub fn src(self) -> u32 {
        // SAFETY: see above.
        unsafe { (*self.0).src }
    }

    /// Network byte order.
    #[inline(always)]
    pub fn dst(self) -> u32 {
        // SAFETY: see above.
        unsafe { (*self.0).dst }
    }

    #[inline(always)]
    pub fn is_fragment(self) -> bool {
        // SAFETY: see above.
        u16::from_be(unsafe { (*self.0).fragment }) & FRAGMENT_MASK != 0
    }

    /// Length of the header, and of the packet, when both make sense within `available` bytes.
    #[inline(always)]
    fn lengths(self, available: u32) -> Result<(usize, u32), DropReason> {
        let ihl = usize::from(self.version_ihl() & 0x0f) * 4;
        // SAFETY: see above.
        let len = u32::from(u16::from_be(unsafe { (*self.0).total_len }));
        if self.version_ihl() >> 4 != 4 || ihl < IPV4_LEN || (len as usize) < ihl {
            return Err(DropReason::BadHeader);
        }
        if len > available {
            return Err(DropReason::Truncated);
        }
        Ok((ihl, len))
    }
}

/// Parses the IPv4 packet at `l3`; whoever calls has called [`pull_headers`].
#[inline(always)]
pub fn parse(ctx: &TcContext, l3: usize) -> Result<Packet, DropReason> {
    let header = Ipv4View::at(ctx, l3).ok_or(DropReason::Truncated)?;
    let available = ctx.len().wrapping_sub(l3 as u32);
    let (ihl, len) = header.lengths(available)?;
    if header.is_fragment() {
        return Err(DropReason::Fragment);
    }
    let l4 = l3 + ihl;
    let payload = len - ihl as u32;

    let mut tcp_flags = 0;
    let (sport, dport) = match header.proto() {
        TCP => {
            if payload < 20 {
                return Err(DropReason::Truncated);
            }
            let bytes: [u16; 7] = read(ctx, l4).ok_or(DropReason::Truncated)?;
            tcp_flags = (u16::from_be(bytes[6]) & 0xff) as u8;
            (bytes[0], bytes[1])
        }
        UDP => {
            if payload < UDP_LEN as u32 {
                return Err(DropReason::Truncated);
            }
            let ports: [u16; 4] = read(ctx, l4).ok_or(DropReason::Truncated)?;
            (ports[0], ports[1])
        }
        ICMP => {
            if payload < 8 {
                return Err(DropReason::Truncated);
            }
            let words: [u16; 4] = read(ctx, l4).ok_or(DropReason::Truncated)?;
            if words[0] != echo_port(ICMP_ECHO) && words[0] != echo_port(ICMP_ECHO_REPLY) {
                return Err(DropReason::UnsupportedIcmp);
            }
            (words[2], words[0])
        }
        _ => return Err(DropReason::UnsupportedProtocol),
    };
    Ok(Packet {
        l3,
        ihl,
        src: header.src(),
        dst: header.dst(),
        sport,
        dport,
        proto: header.proto(),
        tos: header.tos(),
        tcp_flags,
        len,
    })
}

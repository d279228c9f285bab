//! What the host-side parser says of a packet, and whether a program agrees. Both are one code over
//! two kinds of memory, so they must.

use net_common::{
    Counter, DropReason, NodeState, Packet, ProgramCounter,
    flow::OUTSIDE,
    packet::{self, Bytes, ETH_LEN, Fragment, IPV4_LEN, IPV6_LEN, UDP_LEN},
};

use crate::{
    counts::Count,
    frame::is_v4,
    harness::{Datapath, NODE_IP, TUNNEL_PORT},
    packets::sum,
    world::NODE_IP6,
};

/// Reasons that only the parser gives.
const OF_PARSER: [DropReason; 5] = [
    DropReason::Truncated,
    DropReason::BadHeader,
    DropReason::UnsupportedProtocol,
    DropReason::ExtensionHeaders,
    DropReason::BadQuote,
];

pub enum Opinion {
    /// The program must have parsed it.
    Parsed(Box<Packet>),
    /// So too, but its header's checksum is wrong: it opens no flow.
    Damaged,
    /// The program must drop it for this, if it gets that far.
    Fault(DropReason),
    /// The program reads it in another way, or not at all.
    None,
}

/// Parses a packet as the programs do.
pub fn parse(bytes: &[u8], l3: usize, is_v4: bool) -> Result<Packet, DropReason> {
    let pairs: Vec<u16> = bytes
        .chunks(2)
        .map(|pair| u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))
        .collect();
    let mut packet = Packet::default();
    packet::parse(&Bytes::new(&pairs, bytes.len()), l3, is_v4, &mut packet).map(|()| packet)
}

impl Opinion {
    pub fn of(program: &str, packet: &[u8]) -> Self {
        let ethertype = packet.get(12..14).unwrap_or_default();
        if !matches!(ethertype, [0x08, 0x00] | [0x86, 0xdd]) {
            return Self::None;
        }
        let parsed = match program {
            "from_uplink" => match inner(packet) {
                Some((at, true)) if is_v4(packet) && is_damaged(&packet[at..]) => {
                    match parse(packet, at, true) {
                        Ok(_) => return Self::Damaged,
                        fault => fault,
                    }
                }
                Some((at, is_inner_v4)) if is_v4(packet) => parse(packet, at, is_inner_v4),
                // A node without an IPv6 address reads none of them.
                Some(_) => return Self::None,
                // What cannot be read there is passed.
                None => return Self::None,
            },
            _ if is_link_multicast(packet) => return Self::None,
            _ => parse(packet, ETH_LEN, is_v4(packet)),
        };
        match parsed {
            Ok(packet) => Self::Parsed(Box::new(packet)),
            Err(reason) => Self::Fault(reason),
        }
    }

    /// # Errors
    /// What program and parser make of the packet differently.
    pub fn agrees(&self, dropped: Option<DropReason>) -> Result<(), String> {
        match self {
            Self::Parsed(packet) => match dropped {
                Some(reason) if OF_PARSER.contains(&reason) => {
                    Err(format!("dropped as {}, but the parser reads it", reason.name()))
                }
                Some(DropReason::FragmentWithoutFirst)
                    if packet.fragment != Fragment::Later as u32 =>
                {
                    Err("dropped as a later fragment, which it is not".to_owned())
                }
                _ => Ok(()),
            },
            // A sender may be refused before its packet is read.
            Self::Fault(reason) => match dropped {
                Some(DropReason::UnknownPeer | DropReason::SpoofedSource) => Ok(()),
                Some(dropped) if dropped == *reason => Ok(()),
                other => Err(format!("the parser says {}, the program {other:?}", reason.name())),
            },
            Self::Damaged => match dropped {
                Some(reason) if reason != DropReason::BadHeader && OF_PARSER.contains(&reason) => {
                    Err(format!("dropped as {}, but the parser reads it", reason.name()))
                }
                _ => Ok(()),
            },
            Self::None => Ok(()),
        }
    }
}

/// Whether an IPv4 header without options has another checksum than it says.
fn is_damaged(packet: &[u8]) -> bool {
    packet[0] == 0x45 && packet.get(..IPV4_LEN).is_some_and(|header| sum(header) != 0)
}

/// Where an IP packet is inside a tunnel packet to this node, and whether it is IPv4.
pub fn inner(packet: &[u8]) -> Option<(usize, bool)> {
    let is_v4 = is_v4(packet);
    let udp = ETH_LEN + if is_v4 { IPV4_LEN } else { IPV6_LEN };
    if packet.get(udp + 2..udp + 4)? != TUNNEL_PORT.to_be_bytes() {
        return None;
    }
    let is_tunnel = if is_v4 {
        packet[ETH_LEN] == 0x45
            && packet[ETH_LEN + 9] == packet::UDP
            && packet[30..34] == NODE_IP.octets()
            && u16::from_be_bytes([packet[20], packet[21]]) & 0x3fff == 0
    } else {
        packet[ETH_LEN + 6] == packet::UDP && packet[38..54] == NODE_IP6.octets()
    };
    let at = udp + UDP_LEN;
    match packet.get(at).map(|first| first >> 4) {
        Some(4) if is_tunnel => Some((at, true)),
        Some(6) if is_tunnel => Some((at, false)),
        _ => None,
    }
}

fn is_link_multicast(packet: &[u8]) -> bool {
    !is_v4(packet) && packet.get(38..40) == Some(&[0xff, 0x02])
}

/// What a program sends goes where its addresses say: `bpf_redirect_peer` and the like tell nothing
/// of their target to whoever runs a program for a test, but the flow does. A flow that was closed
/// is not there any more to tell.
///
/// # Errors
/// The flow leads elsewhere.
pub fn check_destination(
    datapath: &mut Datapath,
    changes: &[(Count, Counter)],
    output: &[u8],
) -> Result<(), String> {
    let did = |counter| changes.iter().any(|(count, _)| *count == Count::Did(counter));
    if did(ProgramCounter::FlowClosed) {
        return Ok(());
    }
    if did(ProgramCounter::Delivered) {
        let sent = parse(output, ETH_LEN, is_v4(output)).map_err(|r| r.name().to_owned())?;
        // Of an error, the packet that answers the quoted one goes the same way.
        let dst = if sent.is_error() { sent.outer_dst } else { sent.dst };
        let endpoint = datapath.get_endpoint(dst).ok_or("delivered to nobody")?;
        let (established, opening) = datapath.flow_entries();
        let mut to_it = established
            .iter()
            .chain(&opening)
            .filter(|(_, flow)| flow.dst == dst && flow.node == 0)
            .map(|(_, flow)| flow.ifindex)
            .peekable();
        return if to_it.peek().is_some() && to_it.all(|ifindex| ifindex == endpoint.ifindex) {
            Ok(())
        } else {
            Err(format!("a flow to {dst} leads to another interface, or none leads there"))
        };
    }
    if did(ProgramCounter::Encapsulated) {
        let is_over_v4 = is_v4(output);
        let outer = parse(output, ETH_LEN, is_over_v4).map_err(|r| r.name().to_owned())?;
        let to = outer.dst;
        let (established, opening) = datapath.flow_entries();
        let nodes: Vec<u32> =
            established.iter().chain(&opening).map(|(_, flow)| flow.node).collect();
        let is_known = nodes.into_iter().any(|node| {
            node != 0 && node != OUTSIDE && {
                let node = datapath.get_node(node);
                node.addr == to && node.state != NodeState::Absent as u32
            }
        });
        return if is_known { Ok(()) } else { Err(format!("no flow leads to the node {to}")) };
    }
    Ok(())
}

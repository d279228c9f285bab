//! Reads what the programs hand over: packets that nobody can place yet, and what else user space
//! must act on.
//!
//! Each kind has a queue of its own, so that answers to probes do not wait behind parked packets.

use std::{collections::VecDeque, io, time::Duration};

use aya::maps::{MapData, RingBuf};
use bytes::Bytes;
use net_common::{Addr, Event, EventKind};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};
use tracing::{debug, warn};

use super::{clock, prober::ProbeReply};
use crate::core::{
    parking::Packet,
    probe::Reply,
    tables::{NodeId, PeerAddr},
};

/// Parked packets that wait here while the daemon's task is busy. When there are more, the ring
/// fills up, which the kernel then counts.
const BACKLOG: usize = 8192;

/// A packet that no program could place.
#[derive(Debug, PartialEq, Eq)]
pub struct Miss {
    pub kind: EventKind,
    pub dst: Addr,
    pub packet: Packet,
}

/// What else the programs say of the network. Each is said again, should it get lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Tunnel packets come from a sender whom nobody has announced.
    UnknownPeer(PeerAddr),
    /// A router says that the path to the node, which is `peer`, carries packets of so many bytes.
    PathMtu { node: NodeId, peer: PeerAddr, bytes: u32 },
    /// The node sent the first packet of the instance IP `src`, which this node does not know.
    LearnedSource { node: NodeId, src: Addr },
}

/// Where events go.
#[derive(Debug)]
pub struct Queues {
    pub misses: mpsc::Sender<Miss>,
    pub replies: mpsc::Sender<ProbeReply>,
    pub notices: mpsc::Sender<Notice>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kept {
    Miss(Miss),
    Reply(ProbeReply),
    Notice(Notice),
}

/// Forwards what is in the ring until the receiver of the misses is gone.
///
/// # Errors
/// The ring cannot be watched.
pub async fn forward(ring: RingBuf<MapData>, queues: Queues) -> io::Result<()> {
    // SAFETY: the ring owns its descriptor, returns the same one each time, and lives as long as
    // this value.
    let mut ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .map_err(|error| error.into_parts().1)?;
    let mut backlog: VecDeque<Miss> = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            room = queues.misses.reserve(), if !backlog.is_empty() => {
                let Ok(room) = room else { return Ok(()) };
                if let Some(miss) = backlog.pop_front() {
                    room.send(miss);
                }
            }
            ready = ring.readable_mut(), if backlog.len() < BACKLOG => {
                let mut ready = ready?;
                let mut is_empty = true;
                while let Some(event) = next(ready.get_inner_mut()) {
                    match event {
                        Kept::Miss(miss) => backlog.push_back(miss),
                        Kept::Reply(reply) => offer(&queues.replies, reply),
                        Kept::Notice(notice) => offer(&queues.notices, notice),
                    }
                    if backlog.len() >= BACKLOG {
                        is_empty = false;
                        break;
                    }
                }
                if is_empty {
                    ready.clear_ready();
                }
            }
            () = queues.misses.closed() => return Ok(()),
        }
    }
}

fn offer<T>(queue: &mpsc::Sender<T>, event: T) {
    if queue.try_send(event).is_err() {
        debug!("an event is lost: its receiver is busy");
    }
}

/// The next record that makes sense.
fn next(ring: &mut RingBuf<MapData>) -> Option<Kept> {
    loop {
        let record = ring.next()?;
        match parse(&record) {
            Some(kept) => return Some(kept),
            None => warn!(bytes = record.len(), "a record of the event ring makes no sense"),
        }
    }
}

fn parse(record: &[u8]) -> Option<Kept> {
    let (event, packet): (Event, _) = zerocopy::FromBytes::read_from_prefix(record).ok()?;
    let Event { kind, ifindex, src, dst, packet_len, value: node, .. } = event;
    let peer = PeerAddr { addr: src, port: u16::from_be(event.sport) };
    Some(match EventKind::from_raw(kind)? {
        kind @ (EventKind::Miss | EventKind::UnnamedSender) => {
            let frame = packet.get(..usize::try_from(packet_len).ok()?)?;
            let frame = Bytes::copy_from_slice(frame);
            let packet = Packet { src, frame, since: clock::now() };
            Kept::Miss(Miss { kind, dst, packet })
        }
        EventKind::ProbeReply => {
            let reply = Reply {
                seq: ifindex,
                sent: Duration::from_nanos(event.sent_ns),
                nonce: event.nonce,
                received: Duration::from_nanos(event.time_ns),
            };
            Kept::Reply(ProbeReply { node, from: peer, reply })
        }
        EventKind::UnknownPeer => Kept::Notice(Notice::UnknownPeer(peer)),
        EventKind::PathMtu => Kept::Notice(Notice::PathMtu { node, peer, bytes: packet_len }),
        EventKind::LearnedSource => Kept::Notice(Notice::LearnedSource { node, src }),
        // They belong to the other ring.
        EventKind::FlowOpened | EventKind::FlowClosed | EventKind::Dropped => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use zerocopy::IntoBytes;

    use super::*;

    fn event(kind: EventKind) -> Event {
        Event {
            kind: kind as u32,
            ifindex: 7,
            src: Ipv4Addr::new(192, 0, 2, 2).into(),
            packet_len: 4,
            value: 3,
            time_ns: 2000,
            sent_ns: 1000,
            nonce: 9,
            sport: 50103_u16.to_be(),
            ..Event::default()
        }
    }

    #[test]
    fn each_kind_says_what_it_means() {
        let peer = PeerAddr { addr: Ipv4Addr::new(192, 0, 2, 2).into(), port: 50103 };
        let notice = |kind| match parse(event(kind).as_bytes()) {
            Some(Kept::Notice(notice)) => notice,
            other => panic!("{other:?}"),
        };
        assert_eq!(notice(EventKind::UnknownPeer), Notice::UnknownPeer(peer));
        let path_mtu = Notice::PathMtu { node: 3, peer, bytes: 4 };
        assert_eq!(notice(EventKind::PathMtu), path_mtu);
        let learned = Notice::LearnedSource { node: 3, src: peer.addr };
        assert_eq!(notice(EventKind::LearnedSource), learned);

        let Some(Kept::Reply(reply)) = parse(event(EventKind::ProbeReply).as_bytes()) else {
            panic!("a reply")
        };
        assert_eq!((reply.node, reply.from, reply.reply.seq), (3, peer, 7));
        assert_eq!(reply.reply.received - reply.reply.sent, Duration::from_micros(1));

        let mut miss = event(EventKind::Miss).as_bytes().to_vec();
        assert_eq!(parse(&miss), None, "its packet is missing");
        miss.extend([1, 2, 3, 4, 5]);
        let Some(Kept::Miss(miss)) = parse(&miss) else { panic!("a miss") };
        assert_eq!(miss.packet.frame[..], [1, 2, 3, 4]);
    }

    #[test]
    fn what_makes_no_sense_is_left_out() {
        assert_eq!(parse(&[1; 20]), None);
        let other = Event { kind: 99, ..event(EventKind::Miss) };
        assert_eq!(parse(other.as_bytes()), None);
    }
}

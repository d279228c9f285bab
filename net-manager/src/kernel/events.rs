//! Reads the packets that the programs hand over.

use std::io;

use aya::maps::{MapData, RingBuf};
use bytes::Bytes;
use net_common::{Addr, Event, EventKind};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc,
};
use tracing::warn;

use crate::core::parking::Packet;

/// A packet that no program could place.
#[derive(Debug)]
pub struct Miss {
    pub kind: EventKind,
    pub dst: Addr,
    pub packet: Packet,
}

/// Forwards what is in the ring until the receiver is gone. A slow receiver makes the ring fill
/// up, which the kernel then counts.
///
/// # Errors
/// The ring cannot be watched.
pub async fn forward(ring: RingBuf<MapData>, misses: mpsc::Sender<Miss>) -> io::Result<()> {
    // SAFETY: the ring owns its descriptor, returns the same one each time, and lives as long as
    // this value.
    let mut ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
        .map_err(|error| error.into_parts().1)?;
    loop {
        let mut ready = ring.readable_mut().await?;
        while let Some(miss) = next(ready.get_inner_mut()) {
            if misses.send(miss).await.is_err() {
                return Ok(());
            }
        }
        ready.clear_ready();
    }
}

/// The next record that makes sense.
fn next(ring: &mut RingBuf<MapData>) -> Option<Miss> {
    loop {
        let record = ring.next()?;
        match parse(&record) {
            Some(miss) if matches!(miss.kind, EventKind::Miss | EventKind::UnnamedSender) => {
                return Some(miss);
            }
            Some(_) => {}
            None => warn!(bytes = record.len(), "a record of the event ring makes no sense"),
        }
    }
}

fn parse(record: &[u8]) -> Option<Miss> {
    let (event, packet) = zerocopy::FromBytes::read_from_prefix(record).ok()?;
    let Event { kind, src, dst, packet_len, .. } = event;
    let frame = packet.get(..usize::try_from(packet_len).ok()?)?;
    let kind = EventKind::from_raw(kind)?;
    Some(Miss { kind, dst, packet: Packet { src, frame: Bytes::copy_from_slice(frame) } })
}

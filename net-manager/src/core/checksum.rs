//! Finishes the checksums of a parked packet.
//!
//! A packet taken from a veth may carry an unfinished checksum: its sender left the sum over the
//! payload to the network card (CHECKSUM_PARTIAL), and only the sum over the pseudo-header is in
//! the field. A packet sent again through a packet socket has no card to finish it, and from the
//! bytes alone the two cases cannot be told apart, so the sum is computed anew.

use std::ops::Range;

const ETHERNET: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// Where the transport header of a frame is, for those who send it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Bytes from the start of the frame to the transport header.
    pub offset: usize,
    /// IANA protocol number.
    pub protocol: u8,
    /// Whether the packet is IPv6.
    pub v6: bool,
    /// Offset of the checksum field from `offset`.
    pub checksum_offset: usize,
    /// Bytes of the IP packet.
    pub ip_len: usize,
}

/// The frame ends before its headers do, or they contradict each other.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the packet ends before its headers do")]
pub struct Malformed;

/// What a frame carries: `None` for a later fragment and for protocols without a checksum over a
/// pseudo-header.
///
/// # Errors
/// The headers are cut short or inconsistent.
pub fn transport(frame: &[u8]) -> Result<Option<Transport>, Malformed> {
    let ethertype = frame.get(12..ETHERNET).ok_or(Malformed)?;
    let ip = &frame[ETHERNET..];
    let (header, len, protocol, v6) = if ethertype == IPV4 {
        let fixed = ip.get(..20).ok_or(Malformed)?;
        let header = usize::from(fixed[0] & 0x0f) * 4;
        let len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if fixed[0] >> 4 != 4 || header < 20 || len < header || len > ip.len() {
            return Err(Malformed);
        }
        // More fragments, or an offset: there is no whole transport packet to sum over.
        if u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0 {
            return Ok(None);
        }
        (header, len, fixed[9], false)
    } else if ethertype == IPV6 {
        let fixed = ip.get(..40).ok_or(Malformed)?;
        let len = 40 + usize::from(u16::from_be_bytes([fixed[4], fixed[5]]));
        if fixed[0] >> 4 != 6 || len > ip.len() {
            return Err(Malformed);
        }
        (40, len, fixed[6], true)
    } else {
        return Ok(None);
    };
    let checksum_offset = match protocol {
        TCP => 16,
        UDP => 6,
        ICMPV6 if v6 => 2,
        _ => return Ok(None),
    };
    let least = if protocol == TCP { 20 } else { 8 };
    if len - header < least {
        return Err(Malformed);
    }
    Ok(Some(Transport { offset: ETHERNET + header, protocol, v6, checksum_offset, ip_len: len }))
}

/// Writes the complete transport checksum into the frame. A UDP packet over IPv4 that was sent
/// without one stays without.
///
/// # Errors
/// The headers are cut short or inconsistent.
pub fn finish(frame: &mut [u8]) -> Result<(), Malformed> {
    let Some(transport) = transport(frame)? else { return Ok(()) };
    let field = transport.field();
    if transport.protocol == UDP && !transport.v6 && frame[field.clone()] == [0, 0] {
        return Ok(());
    }
    frame[field.clone()].fill(0);
    let segment = &frame[transport.offset..ETHERNET + transport.ip_len];
    let sum = !fold(transport.pseudo_header(frame) + sum(segment));
    // For UDP, 0 says that there is no checksum; its other representation is 0xffff.
    let sum = if sum == 0 && transport.protocol == UDP { 0xffff } else { sum };
    frame[field].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// Writes only the sum over the pseudo-header into the field, which is what the kernel wants of
/// a packet whose checksum it shall finish itself.
pub fn leave_unfinished(frame: &mut [u8], transport: &Transport) {
    let partial = fold(transport.pseudo_header(frame));
    frame[transport.field()].copy_from_slice(&partial.to_be_bytes());
}

impl Transport {
    fn field(&self) -> Range<usize> {
        let start = self.offset + self.checksum_offset;
        start..start + 2
    }

    /// Sum over the addresses, the protocol and the length, not yet folded.
    fn pseudo_header(&self, frame: &[u8]) -> u32 {
        let addresses =
            if self.v6 { ETHERNET + 8..ETHERNET + 40 } else { ETHERNET + 12..ETHERNET + 20 };
        let len = ETHERNET + self.ip_len - self.offset;
        // An IP packet is at most 65,575 bytes long; IPv6 sums 32 bits of length.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        sum(&frame[addresses]) + u32::from(self.protocol) + (len >> 16) + (len & 0xffff)
    }
}

/// Sum of big-endian words, an odd last byte padded with zero. At most 32,768 words, so it does
/// not overflow.
fn sum(bytes: &[u8]) -> u32 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum::<u32>()
        + rest.first().map_or(0, |last| u32::from(*last) << 8)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header = if protocol == TCP { 20 } else { 8 };
        let len = (20 + header + payload.len()) as u16;
        let mut frame = vec![0; 12];
        frame.extend(IPV4);
        frame.extend([0x45, 0]);
        frame.extend(len.to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 18, 0, 2, 10, 30, 0, 1]);
        frame.extend(vec![0xab; header]);
        frame.extend(payload);
        frame
    }

    /// RFC 1071: over a correct packet, checksum included, the sum is all ones.
    fn is_correct(frame: &[u8]) -> bool {
        let transport = transport(frame).unwrap().unwrap();
        let segment = &frame[transport.offset..ETHERNET + transport.ip_len];
        fold(transport.pseudo_header(frame) + sum(segment)) == 0xffff
    }

    #[test]
    fn a_known_segment_gets_its_known_checksum() {
        // SYN 192.168.1.1:54321 -> 192.168.1.2:80, summed by another program.
        let mut frame = vec![0; 12];
        frame.extend(IPV4);
        frame.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 168, 1, 1, 192, 168, 1, 2]);
        frame.extend([0xd4, 0x31, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
        finish(&mut frame).unwrap();
        assert_eq!(frame[ETHERNET + 36..ETHERNET + 38], 0x380c_u16.to_be_bytes());
    }

    #[test]
    fn an_absent_udp_checksum_stays_absent() {
        let mut packet = frame(UDP, b"hello");
        packet[ETHERNET + 26..ETHERNET + 28].fill(0);
        finish(&mut packet).unwrap();
        assert_eq!(packet[ETHERNET + 26..ETHERNET + 28], [0, 0]);
    }

    #[test]
    fn fragments_and_other_protocols_are_left_alone() {
        let mut fragment = frame(TCP, b"x");
        fragment[ETHERNET + 6] = 0x20;
        let mut icmp = frame(1, b"x");
        for packet in [&mut fragment, &mut icmp] {
            let before = packet.clone();
            finish(packet).unwrap();
            assert_eq!(*packet, before);
        }
    }

    proptest! {
        #[test]
        fn finished_checksums_are_correct(
            tcp: bool,
            payload in prop::collection::vec(any::<u8>(), 0..3000),
            padding in 0..8_usize,
        ) {
            let mut packet = frame(if tcp { TCP } else { UDP }, &payload);
            packet.extend(vec![0xee; padding]);
            let mut unfinished = packet.clone();
            let found = transport(&unfinished).unwrap().unwrap();
            leave_unfinished(&mut unfinished, &found);
            finish(&mut packet).unwrap();
            prop_assert!(is_correct(&packet));
            // What was in the field before does not matter, unless it was "none".
            if unfinished[found.field()] != [0, 0] {
                finish(&mut unfinished).unwrap();
                prop_assert_eq!(packet, unfinished);
            }
        }

        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), v6: bool) {
            if bytes.len() >= ETHERNET {
                bytes[12..ETHERNET].copy_from_slice(if v6 { &IPV6 } else { &IPV4 });
            }
            let _: Result<(), Malformed> = finish(&mut bytes);
        }
    }
}

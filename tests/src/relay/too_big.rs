//! What a router says of a packet that is too long for the next line.

use std::time::{Duration, Instant};

use etherparse::{Icmpv4Type, PacketBuilder, icmpv4::DestUnreachableHeader};

/// The sender of errors that has no address of its own (RFC 7600).
const ROUTER: [u8; 4] = [192, 0, 0, 8];

/// An error has no more than 576 bytes (RFC 1812, 4.3.2.3), of which 28 are headers.
const QUOTED_MAX: usize = 548;

const DONT_FRAGMENT: u8 = 0x40;
const ICMP: u8 = 1;

/// "Fragmentation needed" for the sender of an IPv4 packet; nothing if it may be fragmented, or if
/// it may be an error itself.
pub(super) fn error(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header = packet.first_chunk::<20>()?;
    if header[6] & DONT_FRAGMENT == 0 || header[9] == ICMP {
        return None;
    }
    let sender = [header[12], header[13], header[14], header[15]];
    let kind = DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: mtu };
    let quoted = &packet[..packet.len().min(QUOTED_MAX)];
    let mut error = Vec::new();
    PacketBuilder::ipv4(ROUTER, sender, 64)
        .icmpv4(Icmpv4Type::DestinationUnreachable(kind))
        .write(&mut error, quoted)
        .expect("so few bytes fit a packet, and memory takes all");
    Some(error)
}

/// How many errors may be sent: Linux allows six at once to one destination and one a second.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// When the allowance is whole again.
    whole_at: Option<Instant>,
}

impl Allowance {
    const EACH: Duration = Duration::from_secs(1);
    const BURST: u32 = 6;

    /// Whether one more is allowed now.
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        let whole_at = self.whole_at.map_or(now, |whole_at| whole_at.max(now)) + Self::EACH;
        let is_allowed = whole_at <= now + Self::EACH * Self::BURST;
        if is_allowed {
            self.whole_at = Some(whole_at);
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_at_once_and_then_one_a_second() {
        let start = Instant::now();
        let mut allowance = Allowance::default();
        let allowed =
            |allowance: &mut Allowance, now| (0..10).filter(|_| allowance.spend(now)).count();
        assert_eq!(allowed(&mut allowance, start), 6);
        assert_eq!(allowed(&mut allowance, start + Duration::from_secs(2)), 2);
    }

    #[test]
    fn error_goes_to_the_sender_and_quotes_the_packet() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut packet, &[7; 1400])
            .unwrap();
        let error = error(&packet, 1300).unwrap();
        assert_eq!((&error[12..16], &error[16..20]), (&ROUTER[..], &[10, 0, 0, 1][..]));
        assert_eq!((&error[20..22], &error[26..28]), (&[3, 4][..], &1300_u16.to_be_bytes()[..]));
        assert_eq!((error.len(), &error[28..]), (576, &packet[..548]));
        packet[6] = 0;
        assert_eq!(super::error(&packet, 1300), None);
    }
}

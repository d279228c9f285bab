//! Bytes that nobody has thought of, through everything that reads bytes from elsewhere: packets,
//! and what maps and ring buffers hold.
//!
//! Frames of the corpus, changed at random from a seed that is told; `XYLEM_FUZZ_SEED` and
//! `XYLEM_FUZZ_PACKETS` run others and more. Each frame ends where the mapped memory does, so that
//! reading beyond it is no matter of luck.

use std::{env, ptr, str::FromStr};

use etherparse::{InternetSlice, SlicedPacket, TransportSlice};
use net_common::{
    DropReason, Event, EventKind, InstanceState, NodeKind, NodeState, Packet, Policy, StepKind,
    packet::{self, Bytes, ETH_LEN, Fragment, TUNNEL_LEN},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use zerocopy::{FromBytes, IntoBytes};

const SEED: u64 = 0x7879_6c65_6d00_0002;
const PACKETS: usize = 100_000;

fn setting<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn corpus() -> Vec<Vec<u8>> {
    include_str!("corpus/frames.hex")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let pair = |at| u8::from_str_radix(&line[at..at + 2], 16).expect("hexadecimal");
            (0..line.len()).step_by(2).map(pair).collect()
        })
        .collect()
}

/// Memory behind whose end nothing may be read.
struct Guarded {
    start: *mut u8,
}

impl Guarded {
    const PAGE: usize = 4096;

    fn new() -> Self {
        // SAFETY: a new mapping, of which the second page is then made inaccessible.
        unsafe {
            let start = libc::mmap(
                ptr::null_mut(),
                2 * Self::PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            assert_ne!(start, libc::MAP_FAILED, "two pages");
            let start = start.cast::<u8>();
            assert_eq!(
                libc::mprotect(start.add(Self::PAGE).cast(), Self::PAGE, libc::PROT_NONE),
                0
            );
            Self { start }
        }
    }

    /// The frame, as close to the end as an even address allows.
    fn hold(&mut self, frame: &[u8]) -> Bytes<'_> {
        let room = frame.len().next_multiple_of(2);
        assert!(room <= Self::PAGE);
        // SAFETY: `room` bytes at the end of the first page are ours, written by nobody else, and
        // at an even address.
        let pairs = unsafe {
            let at = self.start.add(Self::PAGE - room);
            ptr::write_bytes(at, 0, room);
            ptr::copy_nonoverlapping(frame.as_ptr(), at, frame.len());
            std::slice::from_raw_parts(at.cast::<u16>(), room / 2)
        };
        Bytes::new(pairs, frame.len())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: our own mapping, to which nothing refers any more.
        unsafe { libc::munmap(self.start.cast(), 2 * Self::PAGE) };
    }
}

/// Over fields of rubbish, as the programs parse over those of the packet before.
fn parse(memory: &mut Guarded, frame: &[u8], l3: usize, is_v4: bool) -> Result<Packet, DropReason> {
    let mut packet = Packet { dry_run: 1, kept: 0xa5a5_a5a5, mtu: 9, ..Packet::default() };
    (packet.sport, packet.dport, packet.fragment, packet.quoted) = (9, 9, 9, 9);
    packet::parse(&memory.hold(frame), l3, is_v4, &mut packet).map(|()| packet)
}

fn is_v4(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[0x08, 0x00])
}

/// One change: of a bit, a byte, a word, of the length, or of a part to that of another frame.
fn change(random: &mut StdRng, frame: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    const BORDERS: [u8; 10] = [0, 1, 4, 5, 6, 44, 58, 60, 0x7f, 0xff];
    let at = random.random_range(0..frame.len());
    match random.random_range(0..8) {
        0 | 1 => frame[at] ^= 1 << random.random_range(0..8),
        2 => frame[at] = random.random(),
        3 => frame[at] = *BORDERS.choose(random).expect("some"),
        4 => frame.truncate(at.max(1)),
        5 => frame.extend((0..random.random_range(0..80)).map(|_| random.random::<u8>())),
        6 => {
            let other = corpus.choose(random).expect("some");
            let len = random.random_range(1..40);
            for (to, from) in frame.iter_mut().zip(other).skip(at).take(len) {
                *to = *from;
            }
        }
        _ => {
            // A header's worth more, of what is there already.
            let len = random.random_range(0..=(frame.len() - at).min(48));
            let part = frame[at..at + len].to_vec();
            frame.splice(at..at, part);
        }
    }
    frame.truncate(3_000);
}

#[test]
fn no_frame_is_read_beyond_its_end_and_what_is_read_is_there() {
    let (seed, frames) = (setting("XYLEM_FUZZ_SEED", SEED), setting("XYLEM_FUZZ_PACKETS", PACKETS));
    println!("XYLEM_FUZZ_SEED={seed} XYLEM_FUZZ_PACKETS={frames}");
    let mut random = StdRng::seed_from_u64(seed);
    let corpus = corpus();
    let mut memory = Guarded::new();
    let (mut parsed, mut compared) = (0, 0);
    for index in 0..frames {
        let mut frame = if index % 50 == 0 {
            (0..random.random_range(1..200)).map(|_| random.random()).collect()
        } else {
            corpus.choose(&mut random).expect("some").clone()
        };
        for _ in 0..random.random_range(0..5) {
            change(&mut random, &mut frame, &corpus);
        }
        for (l3, family) in
            [(ETH_LEN, is_v4(&frame)), (ETH_LEN, !is_v4(&frame)), (ETH_LEN + TUNNEL_LEN, true)]
        {
            let Ok(packet) = parse(&mut memory, &frame, l3, family) else { continue };
            parsed += 1;
            check(&packet, &frame, l3, family);
            if l3 == ETH_LEN && family == is_v4(&frame) {
                compared += usize::from(compare(&packet, &frame));
            }
        }
    }
    println!("{parsed} read, {compared} as etherparse reads them");
    assert!(parsed > frames / 5 && compared > frames / 10, "too few: {parsed}, {compared}");
}

/// What the programs take for granted of a packet that was parsed.
fn check(packet: &Packet, frame: &[u8], l3: usize, is_v4: bool) {
    let shown = || format!("{packet:?} of {frame:02x?} at {l3}");
    let available = (frame.len() - l3) as u32;
    assert!(packet.len <= available, "{}", shown());
    assert!(packet.header_len >= if is_v4 { 20 } else { 40 }, "{}", shown());
    assert!(packet.header_len <= packet.len, "{}", shown());
    assert_eq!(packet.transport_at(), packet.header_len as usize, "{}", shown());
    assert_eq!(packet.src.is_v4(), is_v4, "{}", shown());
    assert_eq!(packet.dst.is_v4(), is_v4, "{}", shown());
    assert_eq!((packet.dry_run, packet.kept, packet.mtu), (1, 0xa5a5_a5a5, 9), "not its to change");
    assert_eq!(packet.key_delta, 0, "{}", shown());
    assert!(packet.fragment <= Fragment::Later as u32, "{}", shown());
    if packet.fragment == Fragment::Later as u32 {
        assert_eq!((packet.sport, packet.dport, packet.quoted), (0, 0, 0), "{}", shown());
        return;
    }
    if packet.is_error() {
        assert_eq!(packet.quoted, packet.header_len + 8, "{}", shown());
        let end = l3 + packet.quoted_transport_at() + 8;
        assert!(end <= frame.len(), "{}", shown());
    } else {
        assert!(packet.header_len + packet.transport_len <= packet.len, "{}", shown());
    }
    assert!(matches!(packet.proto, 1 | 6 | 17 | 58), "{}", shown());
}

/// Whether etherparse reads the frame as well; then it must read the same.
fn compare(packet: &Packet, frame: &[u8]) -> bool {
    let Ok(other) = SlicedPacket::from_ethernet(frame) else { return false };
    let (outer_src, outer_dst) = if packet.is_error() {
        (packet.outer_src, packet.outer_dst)
    } else {
        (packet.src, packet.dst)
    };
    let addresses = match &other.net {
        Some(InternetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        Some(InternetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into())
        }
        _ => return false,
    };
    assert_eq!((outer_src.to_ip(), outer_dst.to_ip()), addresses, "{frame:02x?}");
    if packet.fragment == Fragment::Later as u32 {
        assert!(other.transport.is_none(), "{frame:02x?}");
        return true;
    }
    match &other.transport {
        Some(TransportSlice::Tcp(tcp)) if packet.is_tcp() && !packet.is_error() => {
            assert_eq!(u16::from_be(packet.sport), tcp.source_port(), "{frame:02x?}");
            assert_eq!(u16::from_be(packet.dport), tcp.destination_port(), "{frame:02x?}");
            assert_eq!(packet.transport_len as usize, tcp.header_slice().len(), "{frame:02x?}");
            let bits = [tcp.fin(), tcp.syn(), tcp.rst(), tcp.psh(), tcp.ack(), tcp.urg()];
            let flags = (0..).zip(bits).map(|(bit, set)| u32::from(set) << bit).sum::<u32>();
            assert_eq!(packet.tcp_flags & 0x3f, flags, "{frame:02x?}");
        }
        Some(TransportSlice::Udp(udp)) if packet.proto == 17 && !packet.is_error() => {
            assert_eq!(u16::from_be(packet.sport), udp.source_port(), "{frame:02x?}");
            assert_eq!(u16::from_be(packet.dport), udp.destination_port(), "{frame:02x?}");
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let kind = [icmp.type_u8(), icmp.code_u8()];
            assert_eq!(packet.is_error(), matches!(kind[0], 3 | 11 | 12), "{frame:02x?}");
            if !packet.is_error() {
                assert_eq!(packet.dport, u16::from_ne_bytes(kind), "{frame:02x?}");
            }
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let kind = [icmp.type_u8(), icmp.code_u8()];
            assert_eq!(packet.is_error(), (1..=4).contains(&kind[0]), "{frame:02x?}");
            if !packet.is_error() {
                assert_eq!(packet.dport, u16::from_ne_bytes(kind), "{frame:02x?}");
            }
        }
        // etherparse reads no transport of a first fragment.
        None => assert_eq!(packet.fragment, Fragment::First as u32, "{frame:02x?}"),
        other => panic!("{other:?}, but {packet:?} of {frame:02x?}"),
    }
    true
}

/// What user space makes of numbers that stand in maps and records.
#[test]
fn numbers_are_what_they_say_or_nothing() {
    let mut random = StdRng::seed_from_u64(SEED);
    let some = (0..4_096).chain((0..4_096).map(|_| random.random::<u32>())).chain([u32::MAX]);
    for raw in some {
        assert!(DropReason::from_raw(raw).is_none_or(|reason| reason as u32 == raw));
        assert_eq!(DropReason::from_raw(raw).is_some(), raw < DropReason::COUNT);
        assert!(EventKind::from_raw(raw).is_none_or(|kind| kind as u32 == raw));
        assert!(StepKind::from_raw(raw).is_none_or(|kind| kind as u32 == raw));
        assert!(Policy::from_raw(raw).is_none_or(|policy| policy as u32 == raw));
        assert!(InstanceState::from_raw(raw).is_none_or(|state| state as u32 == raw));
        assert!(NodeState::from_raw(raw).is_none_or(|state| state as u32 == raw));
        assert!(NodeKind::from_raw(raw).is_none_or(|kind| kind as u32 == raw));
    }
    for kind in EventKind::ALL {
        assert_eq!(EventKind::from_raw(kind as u32), Some(kind));
    }
    for kind in StepKind::ALL {
        assert_eq!(StepKind::from_raw(kind as u32), Some(kind));
    }
}

/// A record of a ring buffer is an event if it is long enough, and its bytes are the event's.
#[test]
fn records_of_any_length_and_content_are_read_or_refused() {
    let mut random = StdRng::seed_from_u64(SEED);
    for len in 0..4 * size_of::<Event>() {
        let record: Vec<u8> = (0..len).map(|_| random.random()).collect();
        let read = Event::read_from_prefix(&record);
        assert_eq!(read.is_ok(), len >= size_of::<Event>());
        if let Ok((event, packet)) = read {
            assert_eq!([event.as_bytes(), packet].concat(), record);
        }
    }
}

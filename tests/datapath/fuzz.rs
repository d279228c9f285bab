//! Packets that nobody has thought of, through the real programs: whatever they are, each is
//! accounted for once, the host-side parser agrees, and no packet whose checksums are right leaves
//! with wrong ones.
//!
//! The packets of the table, changed at random from a seed that is told. `XYLEM_FUZZ_SEED` and
//! `XYLEM_FUZZ_PACKETS` run others and more. What is found becomes a row of the table.

use std::env;

use net_common::{
    DropReason, ProgramCounter,
    packet::{ETH_LEN, TUNNEL_LEN_V6},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use crate::{
    counts::{Count, Counters},
    fixture::Fixture,
    fixtures,
    frame::{is_v4, summed, transport},
    harness::{Context, DROP, Datapath, PASS, REDIRECT, UPLINK},
    opinion::{Opinion, check_destination, parse},
    packets::{TUNNEL_LEN, sum},
    world,
};

const SEED: u64 = 0x7879_6c65_6d00_0003;
const PACKETS: usize = 20_000;
/// Packets in one scene: so many flows meet one another.
const TOGETHER: usize = 400;

/// A program, the interface and the packet.
type Input = (&'static str, u32, Vec<u8>);

/// A setting of the environment, or what is so without.
pub fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Every packet of the table but for those that end too soon, which are a third of it.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let table = fixtures::all();
    let mut seeds: Vec<_> = table
        .iter()
        .flat_map(Fixture::packets)
        .filter(|sent| !sent.counts.contains(&Count::Drop(DropReason::Truncated)))
        .map(|sent| (sent.program, sent.packet.clone()))
        .collect();
    seeds.sort_unstable();
    seeds.dedup();
    seeds
}

fn scene(datapath: &mut Datapath) {
    datapath.renew();
    world::town(datapath);
    world::publish(datapath);
    world::open_to_outside(datapath, 50_000, 16);
    world::serve(datapath, &[world::NEAR.id, world::FAR.id, world::FAR2.id, 7]);
}

#[test]
fn packets_that_nobody_has_thought_of() {
    let (seed, packets) =
        (setting("XYLEM_FUZZ_SEED", SEED), setting("XYLEM_FUZZ_PACKETS", PACKETS));
    println!("XYLEM_FUZZ_SEED={seed} XYLEM_FUZZ_PACKETS={packets}");
    let mut random = StdRng::seed_from_u64(seed);
    let seeds = seeds();
    let mut datapath = Datapath::load();
    let mut before = datapath.counters();
    let mut fates = std::collections::BTreeMap::<String, usize>::new();
    for index in 0..packets {
        if index % TOGETHER == 0 {
            scene(&mut datapath);
            before = datapath.counters();
        }
        let (program, mut packet) = seeds.choose(&mut random).expect("the table has rows").clone();
        for _ in 0..random.random_range(0..4) {
            change(&mut random, &mut packet, &seeds);
        }
        let program = match random.random_range(0..20) {
            0 => "from_uplink",
            1 => "from_instance",
            2 => "from_parked",
            _ => program,
        };
        let shortest = if is_v4(&packet) { 20 } else { 40 };
        // `BPF_PROG_TEST_RUN` takes no IP frames that are shorter than their header.
        packet.resize(packet.len().clamp(ETH_LEN + shortest, 3_000), 0);
        let ifindex = match program {
            "from_instance" => datapath.veth_of(&packet),
            _ => UPLINK,
        };
        let input = (program, ifindex, packet);
        match fate(&mut datapath, &mut before, &input, index % 64 == 0) {
            Ok(fate) => *fates.entry(fate).or_default() += 1,
            Err(fault) => panic!(
                "packet {index} of seed {seed}, {program} on {ifindex}: {fault}\n{}",
                input.2.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
            ),
        }
        if index % 64 == 0 {
            datapath.events();
            datapath.refill_misses();
        }
    }
    println!("{fates:?}");
    // Deep enough to be worth its time.
    for expected in ["delivered", "encapsulated", "left-overlay", "passed", "parked", "refused"] {
        assert!(fates.contains_key(expected), "no packet was {expected}");
    }
}

/// What became of a packet.
fn fate(
    datapath: &mut Datapath,
    before: &mut Counters,
    (program, ifindex, packet): &Input,
    is_looked_up: bool,
) -> Result<String, String> {
    let context = Context { ifindex: *ifindex, ..Context::default() };
    let (verdict, output) = datapath.run_uncounted(program, packet, context);
    let after = datapath.counters();
    let changes = after.since(before);
    *before = after;
    let has =
        |wanted: ProgramCounter| changes.iter().any(|(count, _)| *count == Count::Did(wanted));
    let mut fates = Vec::new();
    let mut dropped = None;
    for (count, change) in &changes {
        if change.packets != 1 {
            return Err(format!("{count:?} counted {} times", change.packets));
        }
        match count {
            Count::Drop(reason) => {
                dropped = Some(*reason);
                let is_refused = has(ProgramCounter::Refused);
                fates.push(if is_refused { ("refused", REDIRECT) } else { (reason.name(), DROP) });
            }
            Count::Did(counter) => match counter {
                ProgramCounter::Delivered
                | ProgramCounter::Encapsulated
                | ProgramCounter::LeftOverlay
                | ProgramCounter::ProbeReflected => fates.push((counter.name(), REDIRECT)),
                ProgramCounter::Passed => fates.push((counter.name(), PASS)),
                ProgramCounter::Parked | ProgramCounter::ProbeAnswered => {
                    fates.push((counter.name(), DROP));
                }
                _ => {}
            },
            _ => {}
        }
    }
    let [(fate, expected)] = fates[..] else {
        return Err(format!("accounted for as {fates:?}: {changes:?}"));
    };
    if verdict != expected {
        return Err(format!("{fate}, but the verdict is {verdict}"));
    }
    Opinion::of(program, packet).agrees(dropped)?;
    if fate == "passed" && output != *packet {
        return Err("passed, but changed".to_owned());
    }
    if verdict == REDIRECT {
        check_sums(packet, &output, has(ProgramCounter::Decapsulated), fate)?;
        if is_looked_up && fate != "refused" {
            check_destination(datapath, &changes, &output)?;
        }
    }
    if dropped == Some(DropReason::RewriteFailed) {
        return Err("a packet could not be rewritten".to_owned());
    }
    Ok(fate.to_owned())
}

/// What comes in right goes out right.
fn check_sums(
    packet: &[u8],
    output: &[u8],
    is_decapsulated: bool,
    fate: &str,
) -> Result<(), String> {
    let was_right =
        if is_decapsulated { sums_are_right(&inner_frame(packet)) } else { sums_are_right(packet) };
    let is_right = match fate {
        "encapsulated" => {
            outer_header_is_right(output) && sums_are_right(&inner_frame(output)).unwrap_or(true)
        }
        // Made by the program, whatever the packet was.
        "refused" => {
            return if is_answer_right(output) {
                Ok(())
            } else {
                Err(format!("an answer with a wrong checksum: {output:02x?}"))
            };
        }
        _ => sums_are_right(output).unwrap_or(true),
    };
    if was_right == Some(true) && !is_right {
        return Err(format!("a right packet has become a wrong one: {output:02x?}"));
    }
    Ok(())
}

/// An answer has no options, and may quote what the parser does not read.
fn is_answer_right(frame: &[u8]) -> bool {
    let (at, proto) = transport(frame);
    transport_sum(frame, proto, &frame[at..]) == 0
        && (!is_v4(frame) || sum(&frame[ETH_LEN..at]) == 0)
}

fn outer_header_is_right(frame: &[u8]) -> bool {
    !is_v4(frame) || sum(&frame[ETH_LEN..ETH_LEN + 20]) == 0
}

fn inner_frame(frame: &[u8]) -> Vec<u8> {
    let len = if is_v4(frame) { TUNNEL_LEN } else { TUNNEL_LEN_V6 };
    let inner = &frame[ETH_LEN + len..];
    let ethertype =
        if inner.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
    [&frame[..12], &u16::to_be_bytes(ethertype), inner].concat()
}

/// Of a whole packet: whether a receiver takes it. `None` for what cannot be summed.
fn sums_are_right(frame: &[u8]) -> Option<bool> {
    let parsed = parse(frame, ETH_LEN, is_v4(frame)).ok()?;
    let end = ETH_LEN + parsed.len as usize;
    let header_end = ETH_LEN + parsed.header_len as usize;
    if is_v4(frame) && sum(&frame[ETH_LEN..header_end]) != 0 {
        return Some(false);
    }
    if parsed.fragment != 0 {
        return Some(true);
    }
    // Of an error it is the protocol that is quoted.
    let proto = match (parsed.is_error(), is_v4(frame)) {
        (true, true) => 1,
        (true, false) => 58,
        _ => parsed.proto as u8,
    };
    let payload = &frame[header_end..end];
    if proto == 17 && payload[6..8] == [0, 0] {
        return Some(true);
    }
    Some(transport_sum(frame, proto, payload) == 0)
}

/// The sum over a transport with its pseudo-header: 0 if it is right.
fn transport_sum(frame: &[u8], proto: u8, payload: &[u8]) -> u16 {
    let mut bytes = Vec::with_capacity(payload.len() + 40);
    if proto != 1 {
        let addresses = if is_v4(frame) { ETH_LEN + 12..ETH_LEN + 20 } else { 22..54 };
        bytes.extend_from_slice(&frame[addresses]);
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, proto]);
    }
    bytes.extend_from_slice(payload);
    sum(&bytes)
}

/// One change: of a bit, of a byte or a word to what is at some border, of the length, of a part to
/// that of another packet, and of checksums to right ones.
fn change(random: &mut StdRng, packet: &mut Vec<u8>, seeds: &[(&'static str, Vec<u8>)]) {
    const BORDERS: [u16; 12] =
        [0, 1, 7, 8, 0x00ff, 0x0100, 0x1fff, 0x2000, 0x4500, 0x7fff, 0x8000, 0xffff];
    // Most of what decides is in the headers.
    let at = ETH_LEN + random.random_range(0..packet.len().min(110) - ETH_LEN);
    match random.random_range(0..10) {
        0 | 1 => packet[at] ^= 1 << random.random_range(0..8),
        2 => packet[at] = random.random(),
        3 => {
            let border = BORDERS.choose(random).expect("some").to_be_bytes();
            packet[at] = border[0];
            if let Some(next) = packet.get_mut(at + 1) {
                *next = border[1];
            }
        }
        4 => packet.truncate(at + 1),
        5 => {
            let more = random.random_range(0..64);
            packet.extend((0..more).map(|_| random.random::<u8>()));
        }
        6 => {
            let (_, other) = seeds.choose(random).expect("some");
            let len = random.random_range(1..24);
            for (to, from) in packet.iter_mut().zip(other).skip(at).take(len) {
                *to = *from;
            }
        }
        7 => {
            // The length that the header says becomes that of the frame.
            let len = packet.len() - ETH_LEN;
            let (offset, len) = if is_v4(packet) { (2, len) } else { (4, len.saturating_sub(40)) };
            if let Some(field) = packet.get_mut(ETH_LEN + offset..ETH_LEN + offset + 2) {
                field.copy_from_slice(&(len as u16).to_be_bytes());
            }
        }
        _ => {
            let is_long = packet.len() >= ETH_LEN + 40;
            if is_long && (ETH_LEN + 20..packet.len()).contains(&transport(packet).0) {
                *packet = summed(std::mem::take(packet));
            }
        }
    }
    packet.resize(packet.len().max(ETH_LEN + 1), 0);
}

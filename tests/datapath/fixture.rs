//! One row of the table: packets in a scene, what becomes of each, and what is counted and told.

use std::fmt::Write;

use net_common::{
    Addr, DropReason, Event, EventKind, Explanation, ProgramCounter, Step as Explained, StepKind,
    explain::DRY_RUN_MARK, packet::ETH_LEN,
};

use crate::{
    counts::{Count, Direction},
    frame::{encapsulated, is_v4},
    harness::{
        Context, DROP, Datapath, PASS, PEER_IP, REDIRECT, UPLINK, XDP_DROP, XDP_PASS, XDP_TX,
    },
    opinion::{self, Opinion},
    packets::tunnelled,
    world,
};

type Change = Box<dyn Fn(&mut Datapath)>;

/// What happens one after the other in [`world::town`].
pub struct Fixture {
    pub about: String,
    pub steps: Vec<Step>,
}

pub enum Step {
    /// User space changes or checks the maps.
    Change(Change),
    Packet(Box<Sent>),
}

/// A packet and what is to become of it.
#[derive(Clone)]
pub struct Sent {
    pub program: &'static str,
    pub packet: Vec<u8>,
    context: Context,
    verdict: i32,
    /// The packet as it leaves; none where nobody sees it.
    output: Option<Vec<u8>>,
    pub counts: Vec<Count>,
    pub events: Vec<Event>,
    pub observations: Vec<Event>,
    pub steps: Vec<(StepKind, u32, Addr)>,
    has_backlog: bool,
}

/// A fixture that begins with nothing done.
pub fn case(about: impl Into<String>) -> Fixture {
    Fixture { about: about.into(), steps: Vec::new() }
}

impl Fixture {
    /// User space does something. A failed assertion fails the fixture.
    pub fn then(mut self, change: impl Fn(&mut Datapath) + 'static) -> Self {
        self.steps.push(Step::Change(Box::new(change)));
        self
    }

    pub fn send(mut self, sent: Sent) -> Self {
        self.steps.push(Step::Packet(Box::new(sent)));
        self
    }

    pub fn packets(&self) -> impl Iterator<Item = &Sent> {
        self.steps.iter().filter_map(|step| match step {
            Step::Packet(sent) => Some(&**sent),
            Step::Change(_) => None,
        })
    }
}

fn sent(program: &'static str, packet: Vec<u8>) -> Sent {
    Sent {
        program,
        packet,
        context: Context::default(),
        verdict: DROP,
        output: None,
        counts: Vec::new(),
        events: Vec::new(),
        observations: Vec::new(),
        steps: Vec::new(),
        has_backlog: false,
    }
}

/// By the veth of an instance, which is that of its source address unless [`Sent::on`] says.
pub fn from_instance(packet: Vec<u8>) -> Sent {
    sent("from_instance", packet)
}

/// By user space, which parked it before.
pub fn from_parked(packet: Vec<u8>) -> Sent {
    sent("from_parked", packet)
}

/// By the uplink as it is.
pub fn from_uplink(packet: Vec<u8>) -> Sent {
    sent("from_uplink", packet)
}

/// By the tunnel of [`PEER_IP`].
pub fn from_peer(inner: &[u8]) -> Sent {
    sent("from_uplink", tunnelled(inner))
}

impl Sent {
    fn out(mut self, verdict: i32, counts: &[ProgramCounter], output: Option<Vec<u8>>) -> Self {
        self.verdict = verdict;
        self.counts = counts.iter().copied().map(Count::Did).collect();
        self.output = output;
        self
    }

    /// To an instance of this node, as this frame.
    pub fn delivered(self, frame: Vec<u8>) -> Self {
        let decapsulated = [ProgramCounter::Decapsulated, ProgramCounter::Delivered];
        let counts = if self.program == "from_uplink" { &decapsulated } else { &decapsulated[1..] };
        self.out(REDIRECT, counts, Some(frame))
    }

    /// Through the tunnel to [`PEER_IP`], with this inside.
    pub fn tunnelled(self, inner: &[u8]) -> Self {
        let outer = encapsulated(PEER_IP, inner);
        self.out(REDIRECT, &[ProgramCounter::Encapsulated], Some(outer))
    }

    /// Through the tunnel as this frame, with the outer header and all.
    pub fn encapsulated(self, frame: Vec<u8>) -> Self {
        self.out(REDIRECT, &[ProgramCounter::Encapsulated], Some(frame))
    }

    /// From outside of the overlay to an instance of this node.
    pub fn entered(self, frame: Vec<u8>) -> Self {
        let counts = [ProgramCounter::Delivered, ProgramCounter::EnteredOverlay];
        self.out(REDIRECT, &counts, Some(frame))
    }

    /// To a host outside of the overlay.
    pub fn left(self, frame: Vec<u8>) -> Self {
        self.out(REDIRECT, &[ProgramCounter::LeftOverlay], Some(frame))
    }

    /// Silently.
    pub fn dropped(self, reason: DropReason) -> Self {
        let mut sent = self.out(DROP, &[], None);
        sent.counts.push(Count::Drop(reason));
        sent
    }

    /// Its sender gets this frame.
    pub fn refused(self, reason: DropReason, answer: Vec<u8>) -> Self {
        let mut sent = self.out(REDIRECT, &[ProgramCounter::Refused], Some(answer));
        sent.counts.push(Count::Drop(reason));
        sent
    }

    /// To the kernel's own stack, as it is.
    pub fn passed(self) -> Self {
        let unchanged = self.packet.clone();
        self.out(PASS, &[ProgramCounter::Passed], Some(unchanged))
    }

    /// To user space, whole.
    pub fn parked(self, kind: EventKind, event: Event) -> Self {
        let len = self.packet.len() as u32;
        let mut sent = self.out(DROP, &[ProgramCounter::Parked], None);
        sent.events.push(Event { kind: kind as u32, packet_len: len, ..event });
        sent
    }

    /// Back to where it came from, by the uplink.
    pub fn reflected(self, frame: Vec<u8>) -> Self {
        self.out(REDIRECT, &[ProgramCounter::ProbeReflected], Some(frame))
    }

    /// Read to its end.
    pub fn consumed(self) -> Self {
        self.out(DROP, &[ProgramCounter::ProbeAnswered], None)
    }

    /// Looked at only, in these steps.
    pub fn explained(self, steps: &[(StepKind, u32, Addr)]) -> Self {
        let mut sent = self.out(DROP, &[], None);
        sent.context.mark = DRY_RUN_MARK;
        sent.steps = steps.to_vec();
        sent
    }

    /// As [`Self::explained`], of what is not dropped at the end but left alone.
    pub fn explained_as_passed(self) -> Self {
        self.explained(&[(StepKind::Passed, 0, Addr::UNSPECIFIED)])
    }

    /// On an interface that is not its source's.
    pub fn on(mut self, ifindex: u32) -> Self {
        self.context.ifindex = ifindex;
        self
    }

    /// To be cut into segments of this many bytes of payload.
    pub fn gso(mut self, size: u32) -> Self {
        self.context.gso_size = size;
        self
    }

    /// Counted besides.
    pub fn and(mut self, counts: &[Count]) -> Self {
        self.counts.extend_from_slice(counts);
        self
    }

    /// What user space was told before, and has not read yet, is nobody's concern.
    pub fn with_backlog(mut self) -> Self {
        self.has_backlog = true;
        self
    }

    /// User space is told.
    pub fn telling(mut self, kind: EventKind, event: Event) -> Self {
        self.events.push(Event { kind: kind as u32, ..event });
        self
    }

    /// People who watch are told.
    pub fn observed(mut self, kind: EventKind, event: Event) -> Self {
        self.observations.push(Event { kind: kind as u32, ..event });
        self
    }
}

/// A flow of the service IP in a slot is placed on an instance by this packet.
pub fn opens(slot: u32, id: u32) -> [Count; 4] {
    let [service, instance] = asks(slot, id);
    [service, instance, Count::Service(slot, Direction::New), Count::Instance(id, Direction::New)]
}

/// A packet of such a flow.
pub fn asks(slot: u32, id: u32) -> [Count; 2] {
    [Count::Service(slot, Direction::Egress), Count::Instance(id, Direction::Egress)]
}

/// The answer to one.
pub fn answers(slot: u32, id: u32) -> [Count; 2] {
    [Count::Service(slot, Direction::Ingress), Count::Instance(id, Direction::Ingress)]
}

/// A local instance is dialled from elsewhere.
pub fn serves_first(id: u32) -> [Count; 2] {
    [Count::Instance(id, Direction::Ingress), Count::Instance(id, Direction::New)]
}

pub fn serves(id: u32) -> [Count; 1] {
    [Count::Instance(id, Direction::Ingress)]
}

/// And answers.
pub fn replies(id: u32) -> [Count; 1] {
    [Count::Instance(id, Direction::Egress)]
}

/// A local instance dials a host outside of the overlay.
pub fn dials_out(id: u32) -> [Count; 2] {
    [Count::Instance(id, Direction::Egress), Count::Instance(id, Direction::New)]
}

pub const CONFIRMED: Count = Count::Did(ProgramCounter::FlowConfirmed);
pub const CLAMPED: Count = Count::Did(ProgramCounter::MssClamped);
pub const TRANSLATED: Count = Count::Did(ProgramCounter::ErrorTranslated);

/// Runs rows of the table, each in a town of its own, and tells of all that are not as they say.
#[track_caller]
pub fn check(fixtures: Vec<Fixture>) {
    run(&fixtures, |sent, datapath| sent.failure(datapath));
}

/// The same where the uplink has the XDP program in front: it does nothing that `from_uplink` would
/// not, and leaves the rest to it.
#[track_caller]
pub fn check_early(fixtures: Vec<Fixture>) {
    run(&fixtures, |sent, datapath| match sent.program {
        "from_uplink" => match sent.early_failure(datapath) {
            Early::Left => sent.failure(datapath),
            Early::Done => None,
            Early::Wrong(failure) => Some(failure),
        },
        _ => sent.failure(datapath),
    });
}

/// What the XDP program has made of a packet.
enum Early {
    Left,
    Done,
    Wrong(String),
}

#[track_caller]
fn run(fixtures: &[Fixture], failure: impl Fn(&Sent, &mut Datapath) -> Option<String>) {
    let mut failures = String::new();
    let mut datapath = Datapath::load();
    for fixture in fixtures {
        datapath.renew();
        world::town(&mut datapath);
        for (index, step) in fixture.steps.iter().enumerate() {
            let failed = match step {
                Step::Change(change) => {
                    change(&mut datapath);
                    continue;
                }
                Step::Packet(sent) => failure(sent, &mut datapath),
            };
            if let Some(failure) = failed {
                let _ = writeln!(failures, "\n{}, step {}:\n{failure}", fixture.about, index + 1);
                break;
            }
        }
    }
    assert!(failures.is_empty(), "of {} fixtures some fail:{failures}", fixtures.len());
}

impl Sent {
    /// Runs the packet; what is not as it should be.
    fn failure(&self, datapath: &mut Datapath) -> Option<String> {
        let mut context = self.context;
        if context.ifindex == 0 {
            context.ifindex = match self.program {
                "from_instance" => datapath.veth_of(&self.packet),
                _ => UPLINK,
            };
        }
        let (verdict, output) = datapath.run_as(self.program, &self.packet, context);
        let mut failure = String::new();
        let changes = datapath.changes();
        if verdict != self.verdict {
            let _ = writeln!(failure, "  verdict {verdict}, not {}", self.verdict);
        }
        if let Some(expected) = &self.output
            && *expected != output
        {
            let _ = writeln!(
                failure,
                "  output   {}\n  expected {}",
                hex(&output, expected),
                hex(expected, &output)
            );
        }
        self.check_counts(&changes, &output, &mut failure);
        self.check_told(datapath, &mut failure);
        if self.context.mark == DRY_RUN_MARK {
            self.check_explained(&datapath.explanation(), &mut failure);
            datapath.forget_explanation();
        } else {
            let opinion = Opinion::of(self.program, &self.packet);
            let dropped = changes.iter().find_map(|(count, _)| match count {
                Count::Drop(reason) => Some(*reason),
                _ => None,
            });
            if let Err(difference) = opinion.agrees(dropped) {
                let _ = writeln!(failure, "  {difference}");
            }
        }
        if verdict == REDIRECT
            && let Err(misled) = opinion::check_destination(datapath, &changes, &output)
        {
            let _ = writeln!(failure, "  {misled}");
        }
        (!failure.is_empty()).then_some(failure)
    }

    /// Runs the packet through the XDP program first.
    fn early_failure(&self, datapath: &mut Datapath) -> Early {
        let (verdict, mut output) = datapath.run_xdp(&self.packet);
        // In front of what is translated is a note for `from_uplink`.
        if output.len() > self.packet.len() {
            output.drain(..output.len() - self.packet.len());
        }
        let changes = datapath.changes();
        let is_left = output == self.packet && changes.is_empty();
        let mut failure = String::new();
        match verdict {
            XDP_PASS if is_left => return Early::Left,
            // Translated: `from_uplink` delivers it as it is.
            XDP_PASS => {
                let delivered = Count::Did(ProgramCounter::Delivered);
                let mut by_from_uplink = self.counts.clone();
                by_from_uplink.retain(|count| *count != delivered);
                let early = Self { counts: by_from_uplink, ..self.clone() };
                early.check_counts(&changes, &output, &mut failure);
            }
            _ => self.check_counts(&changes, &output, &mut failure),
        }
        let expected = match (verdict, self.verdict) {
            (XDP_DROP, DROP) => &self.packet,
            (XDP_TX | XDP_PASS, REDIRECT) => self.output.as_ref().unwrap_or(&self.packet),
            _ => return Early::Wrong(format!("  XDP verdict {verdict}")),
        };
        if output != *expected {
            let (is, wanted) = (hex(&output, expected), hex(expected, &output));
            let _ = writeln!(failure, "  XDP output {is}\n  expected   {wanted}");
        }
        self.check_told(datapath, &mut failure);
        if failure.is_empty() { Early::Done } else { Early::Wrong(failure) }
    }

    fn check_counts(
        &self,
        changes: &[(Count, net_common::Counter)],
        output: &[u8],
        failure: &mut String,
    ) {
        let mut expected: Vec<_> = self.counts.iter().map(|count| format!("{count:?}")).collect();
        let mut counted = Vec::new();
        for (count, change) in changes {
            counted.extend((0..change.packets).map(|_| format!("{count:?}")));
            let bytes = match count {
                Count::Did(ProgramCounter::Refused) => output.len(),
                // The outer header of one over IPv6 is shortened once its sender is known.
                Count::Drop(reason)
                    if !matches!(reason, DropReason::UnknownPeer | DropReason::TunnelMalformed)
                        && !is_v4(&self.packet)
                        && self.program == "from_uplink"
                        && opinion::inner(&self.packet).is_some() =>
                {
                    self.packet.len() - 20
                }
                Count::Did(
                    ProgramCounter::Passed
                    | ProgramCounter::ProbeReflected
                    | ProgramCounter::ProbeAnswered,
                )
                | Count::Drop(_) => self.packet.len(),
                Count::Service(_, Direction::New) | Count::Instance(_, Direction::New) => 0,
                _ => inner_len(&self.packet, self.program, changes),
            };
            if change.bytes != bytes as u64 * change.packets {
                let _ = writeln!(failure, "  {count:?}: {} bytes, not {bytes}", change.bytes);
            }
        }
        expected.sort();
        counted.sort();
        if counted != expected {
            let _ = writeln!(failure, "  counted  {counted:?}\n  expected {expected:?}");
        }
    }

    fn check_told(&self, datapath: &mut Datapath, failure: &mut String) {
        let mut told = Vec::new();
        for (mut event, packet) in datapath.events() {
            match EventKind::from_raw(event.kind) {
                Some(EventKind::Miss | EventKind::UnnamedSender)
                    if packet != self.packet && !self.has_backlog =>
                {
                    let _ = writeln!(failure, "  the parked packet is another");
                }
                Some(EventKind::ProbeReply) if event.time_ns == 0 => {
                    let _ = writeln!(failure, "  a probe's answer without its time");
                }
                _ => {}
            }
            event.time_ns = 0;
            told.push(event);
        }
        if told != self.events && !self.has_backlog {
            let _ = writeln!(failure, "  told     {told:?}\n  expected {:?}", self.events);
        }
        let mut observed = datapath.observations();
        for event in &mut observed {
            event.time_ns = 0;
        }
        if observed != self.observations {
            let expected = &self.observations;
            let _ = writeln!(failure, "  observed {observed:?}\n  expected {expected:?}");
        }
    }

    fn check_explained(&self, explanation: &Explanation, failure: &mut String) {
        let noted: Vec<_> = explanation.steps[..explanation.len as usize]
            .iter()
            .map(|Explained { kind, value, addr }| (StepKind::from_raw(*kind), *value, *addr))
            .collect();
        let expected: Vec<_> =
            self.steps.iter().map(|(kind, value, addr)| (Some(*kind), *value, *addr)).collect();
        if noted != expected {
            let _ = writeln!(failure, "  noted    {noted:?}\n  expected {expected:?}");
        }
    }
}

/// Length of the IP packet that counters of traffic go by.
fn inner_len(packet: &[u8], program: &str, changes: &[(Count, net_common::Counter)]) -> usize {
    let is_tunnelled = program == "from_uplink"
        && changes.iter().any(|(count, _)| *count == Count::Did(ProgramCounter::Decapsulated));
    let (at, is_inner_v4) = match opinion::inner(packet) {
        Some(inner) if is_tunnelled => inner,
        _ => (ETH_LEN, is_v4(packet)),
    };
    let word = |offset: usize| {
        usize::from(u16::from_be_bytes([packet[at + offset], packet[at + offset + 1]]))
    };
    if is_inner_v4 { word(2) } else { 40 + word(4) }
}

/// The bytes, with a mark before each that differs from the other's.
fn hex(bytes: &[u8], other: &[u8]) -> String {
    let mut text = format!("{} bytes:", bytes.len());
    for (index, byte) in bytes.iter().enumerate().take(160) {
        let mark = if other.get(index) == Some(byte) { ' ' } else { '*' };
        let _ = write!(text, "{mark}{byte:02x}");
    }
    text
}

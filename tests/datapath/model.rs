//! The flow table against a model of it in plain Rust: random histories of connections, datagrams,
//! scale-ups, drains, deaths and moves of instances and of nodes. After every packet program and
//! model must say the same of where it went, why it was dropped, and what was counted.
//!
//! What is promised, and checked of the model itself at every step: a placed flow stays until its
//! instance is gone; new flows go to eligible instances only; round robin takes every place in its
//! turn; nothing is delivered to another instance than the flow's.

use std::collections::BTreeMap;

use net_common::{DropReason, Instance, InstanceState, Node, NodeState, ProgramCounter, limits};
use proptest::{
    collection::vec,
    prelude::{
        Just, ProptestConfig, Strategy, TestCaseError, prop_assert_eq, prop_oneof, proptest,
    },
    sample::select,
    test_runner::FileFailurePersistence,
};

use crate::{
    counts::{Count, Direction},
    frame::{End, datagram, is_v4, segment},
    fuzz::setting,
    harness::{Context, Datapath, UPLINK, instance, veth},
    opinion::parse,
    packets::{TUNNEL_LEN, tunnelled},
    world::{
        CLIENT, FAMILIES, FAR, FAR_SLOT, FAR2, Family, Host, NEAR, NEAR_SLOT, SLOT, service, town,
    },
};

/// Instances that serve, and the nodes where they may be.
const SERVERS: [Host; 3] = [NEAR, FAR, FAR2];
/// Node 0 is this one, whose interface only [`NEAR`] has; an instance elsewhere may move.
const ELSEWHERE: [u32; 2] = [1, 2];

const FIN: u8 = 0x11;
const SYN: u8 = 0x02;
const RST: u8 = 0x14;
const ACK: u8 = 0x10;

/// Every segment is of one byte and begins here …
const SEQUENCE: u32 = 1;
/// … so every FIN ends here.
const FIN_END: u32 = SEQUENCE + 2;

/// What a client dials.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Dialled {
    Service,
    /// The instance IP of one of [`SERVERS`].
    Instance(usize),
}

/// A client's port, its protocol and what it dials: one flow at a time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Line {
    port: u16,
    is_tcp: bool,
    dialled: Dialled,
}

#[derive(Clone, Debug)]
enum Action {
    /// The client sends, of TCP with these flags and this acknowledgement.
    Ask(Line, u8, u32),
    /// The flow's server sends.
    Answer(Line, u8, u32),
    Table(Vec<usize>),
    State(usize, InstanceState),
    /// It goes and comes as the next generation, on this node of [`ELSEWHERE`] if it can.
    Move(usize, u32),
    Node(u32, NodeState),
}

fn line() -> impl Strategy<Value = Line> {
    let dialled = prop_oneof![
        4 => Just(Dialled::Service),
        1 => Just(Dialled::Instance(0)),
        1 => Just(Dialled::Instance(1)),
    ];
    (40_000..40_004_u16, proptest::bool::weighted(0.7), dialled)
        .prop_map(|(port, is_tcp, dialled)| Line { port, is_tcp, dialled })
}

/// Of nothing, or of all that the other side sends.
fn acked() -> impl Strategy<Value = u32> {
    select(vec![SEQUENCE, FIN_END])
}

fn action() -> impl Strategy<Value = Action> {
    let server = 0..SERVERS.len();
    let state = select(vec![InstanceState::Up, InstanceState::Draining, InstanceState::Absent]);
    let node_state = select(vec![NodeState::Up, NodeState::Up, NodeState::Down]);
    prop_oneof![
        8 => (line(), select(vec![SYN, SYN, ACK, ACK, ACK, FIN, FIN, RST]), acked())
            .prop_map(|(line, flags, acked)| Action::Ask(line, flags, acked)),
        6 => (line(), select(vec![ACK, ACK, ACK, FIN, FIN, RST]), acked())
            .prop_map(|(line, flags, acked)| Action::Answer(line, flags, acked)),
        1 => vec(server.clone(), 0..5).prop_map(Action::Table),
        1 => (server.clone(), state).prop_map(|(server, state)| Action::State(server, state)),
        1 => (server, select(&ELSEWHERE[..])).prop_map(|(server, node)| Action::Move(server, node)),
        1 => (select(&ELSEWHERE[..]), node_state).prop_map(|(id, state)| Action::Node(id, state)),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Server {
    generation: u32,
    state: InstanceState,
    node: u32,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    server: usize,
    generation: u32,
    node: u32,
    packets: u64,
    is_closing: bool,
    is_reset: bool,
    is_confirmed: bool,
    has_fin: bool,
    /// What it acknowledged since it is closing.
    acked: u32,
}

impl Entry {
    fn pass(&mut self, is_tcp: bool, flags: u8, acked: u32) {
        self.packets += 1;
        self.has_fin |= is_tcp && flags & 0x01 != 0;
        if is_tcp && (flags & 0x05 != 0 || self.is_closing) && flags & ACK != 0 {
            self.acked = acked;
        }
        if is_tcp && flags & 0x05 != 0 {
            self.is_closing = true;
            self.is_reset |= flags & 0x04 != 0;
        } else if self.is_reset {
            (self.is_closing, self.is_reset) = (false, false);
        }
    }
}

/// Whether a connection is over with a segment that `own` has followed.
fn is_over(own: &Entry, other: &Entry, flags: u8, is_delivered_here: bool) -> bool {
    let both_in_table = own.is_confirmed && other.is_confirmed;
    let is_end = if flags & 0x04 != 0 {
        other.is_closing && other.acked == SEQUENCE
    } else {
        let have_closed = own.is_closing && other.is_closing;
        let have_closed = have_closed && own.has_fin && other.has_fin;
        is_delivered_here && have_closed && own.acked == FIN_END && other.acked == FIN_END
    };
    both_in_table && is_end
}

/// The answers of a server at a place to a client's port, and to whom they seem to come from.
type Answers = (usize, u32, u16, bool);

struct Model {
    table: Vec<usize>,
    turn: u64,
    servers: Vec<Server>,
    nodes: BTreeMap<u32, bool>,
    asking: BTreeMap<Line, Entry>,
    answering: BTreeMap<Answers, (Dialled, Entry)>,
}

/// Where a packet goes, or why it does not.
type Outcome = Result<(usize, u32), DropReason>;

impl Model {
    fn new() -> Self {
        let server = |node| Server { generation: 1, state: InstanceState::Up, node };
        Self {
            table: vec![0],
            turn: 0,
            servers: [0, 1, 1].map(server).to_vec(),
            nodes: BTreeMap::from([(0, true), (1, true), (2, true)]),
            asking: BTreeMap::new(),
            answering: BTreeMap::new(),
        }
    }

    fn is_current(&self, entry: &Entry) -> bool {
        self.servers[entry.server].generation == entry.generation
    }

    /// Whether a packet goes on with no flow that is there: that has ended, or nobody answers.
    fn opens_anew(&self, line: Line, entry: &Entry, is_opening: bool) -> bool {
        (is_opening && entry.is_closing)
            || ((is_opening || !line.is_tcp) && !entry.is_confirmed && !self.nodes[&entry.node])
    }

    /// A packet of the client, and what is counted besides.
    fn ask(&mut self, line: Line, flags: u8, acked: u32) -> (Outcome, Vec<Count>) {
        let is_opening = line.is_tcp && flags == SYN;
        let mut counts = Vec::new();
        let slot = slot(line.dialled);
        match self.asking.get(&line).copied() {
            Some(entry) if !self.is_current(&entry) => {
                self.asking.remove(&line);
                if line.is_tcp && !is_opening {
                    return (Err(DropReason::InstanceGone), counts);
                }
            }
            Some(entry) if self.opens_anew(line, &entry, is_opening) => {
                self.asking.remove(&line);
            }
            _ => {}
        }
        if !self.asking.contains_key(&line) {
            let server = match self.place(line) {
                Ok(server) => server,
                Err(reason) => return (Err(reason), counts),
            };
            let Server { generation, node, .. } = self.servers[server];
            let entry = Entry { server, generation, node, ..Entry::default() };
            self.answering.insert((server, node, line.port, line.is_tcp), (line.dialled, entry));
            self.asking.insert(line, entry);
            counts.push(Count::Service(slot, Direction::New));
            counts.push(Count::Instance(SERVERS[server].id, Direction::New));
        }
        let entry = self.asking.get_mut(&line).expect("placed");
        let confirms = !line.is_tcp || flags & 0x16 == ACK;
        let is_looked_at = entry.packets < 8 || entry.packets.is_multiple_of(32);
        let answers = (entry.server, entry.node, line.port, line.is_tcp);
        let was_confirmed = entry.is_confirmed;
        if confirms
            && is_looked_at
            && !entry.is_confirmed
            && let Some((_, answers)) = self.answering.get_mut(&answers)
            && !answers.is_confirmed
            && (answers.packets > 0 || (!line.is_tcp && entry.packets >= 32))
        {
            (entry.is_confirmed, answers.is_confirmed) = (true, true);
            counts.push(Count::Did(ProgramCounter::FlowConfirmed));
        }
        let was_closing = entry.is_closing;
        entry.pass(line.is_tcp, flags, acked);
        let entry = *entry;
        counts.push(Count::Service(slot, Direction::Egress));
        counts.push(Count::Instance(SERVERS[entry.server].id, Direction::Egress));
        if line.is_tcp
            && was_confirmed
            && (was_closing || flags & 0x05 != 0)
            && let Some((dialled, other)) = self.answering.get(&answers)
            && *dialled == line.dialled
            && other.generation == entry.generation
            && is_over(&entry, other, flags, entry.node == 0)
        {
            self.asking.remove(&line);
            self.answering.remove(&answers);
            counts.push(Count::Did(ProgramCounter::FlowClosed));
        }
        (Ok((entry.server, entry.node)), counts)
    }

    /// A packet of the server at `answers` to `line`, and what is counted besides.
    fn answer(&mut self, line: Line, answers: Answers, flags: u8, acked: u32) -> Vec<Count> {
        let (_, entry) = self.answering.get_mut(&answers).expect("whoever calls has found it");
        let was_closing = entry.is_closing;
        entry.pass(line.is_tcp, flags, acked);
        let entry = *entry;
        if line.is_tcp
            && (was_closing || flags & 0x05 != 0)
            && let Some(other) = self.asking.get(&line)
            && other.generation == entry.generation
            && is_over(&entry, other, flags, true)
        {
            self.asking.remove(&line);
            self.answering.remove(&answers);
            return vec![Count::Did(ProgramCounter::FlowClosed)];
        }
        Vec::new()
    }

    /// The server of a new flow.
    fn place(&mut self, line: Line) -> Result<usize, DropReason> {
        if let Dialled::Instance(server) = line.dialled {
            return self.is_free(server, line).map(|()| server);
        }
        let first = self.turn;
        self.turn += 1;
        let mut outcome = DropReason::NoInstance;
        for attempt in 0..u64::from(limits::PLACEMENT_TRIES) {
            if self.table.is_empty() {
                break;
            }
            let server = self.table[((first + attempt) % self.table.len() as u64) as usize];
            match self.is_free(server, line) {
                Ok(()) => {
                    self.turn += attempt;
                    return Ok(server);
                }
                Err(reason) => outcome = reason,
            }
        }
        Err(outcome)
    }

    /// Whether an instance takes new flows, and its answers' ports are not another's.
    fn is_free(&self, server: usize, line: Line) -> Result<(), DropReason> {
        let Server { state, node, .. } = self.servers[server];
        if state != InstanceState::Up {
            return Err(DropReason::NoInstance);
        }
        if !self.nodes[&node] {
            return Err(DropReason::NodeDown);
        }
        match self.answering.get(&(server, node, line.port, line.is_tcp)) {
            Some((dialled, entry))
                if *dialled != line.dialled && !entry.is_closing && self.is_current(entry) =>
            {
                Err(DropReason::PortConflict)
            }
            _ => Ok(()),
        }
    }

    /// Who answers on this line, if somebody can.
    fn answerer(&self, line: Line) -> Option<Answers> {
        let entry = self.asking.get(&line)?;
        let answers = (entry.server, entry.node, line.port, line.is_tcp);
        let (dialled, entry) = self.answering.get(&answers)?;
        (*dialled == line.dialled && self.is_current(entry)).then_some(answers)
    }
}

fn slot(dialled: Dialled) -> u32 {
    match dialled {
        Dialled::Service => SLOT,
        Dialled::Instance(0) => NEAR_SLOT,
        Dialled::Instance(_) => FAR_SLOT,
    }
}

fn packet(is_tcp: bool, src: End, dst: End, flags: u8, acked: u32) -> Vec<u8> {
    if is_tcp {
        segment(src, dst, (SEQUENCE, acked), flags, b"x")
    } else {
        datagram(src, dst, b"x")
    }
}

/// Program and model side by side.
struct Both<'a> {
    model: Model,
    datapath: &'a mut Datapath,
    family: Family,
}

impl Both<'_> {
    fn act(&mut self, action: &Action) -> Result<(), TestCaseError> {
        match action {
            Action::Ask(line, flags, acked) => self.ask(*line, *flags, *acked),
            Action::Answer(line, flags, acked) => self.answer(*line, *flags, *acked),
            Action::Table(servers) => {
                self.model.table.clone_from(servers);
                let ids: Vec<u32> = servers.iter().map(|server| SERVERS[*server].id).collect();
                crate::world::serve(self.datapath, &ids);
                Ok(())
            }
            Action::State(server, state) => {
                self.model.servers[*server].state = *state;
                self.publish(*server);
                Ok(())
            }
            Action::Move(server, node) => {
                let moved = &mut self.model.servers[*server];
                moved.generation += 1;
                if *server != 0 {
                    moved.node = *node;
                }
                self.publish(*server);
                Ok(())
            }
            Action::Node(id, state) => {
                self.model.nodes.insert(*id, *state == NodeState::Up);
                let node = self.datapath.get_node(*id);
                self.datapath.set_node(*id, Node { state: *state as u32, ..node });
                Ok(())
            }
        }
    }

    /// Writes an instance as the model has it.
    fn publish(&mut self, server: usize) {
        let Server { generation, state, node } = self.model.servers[server];
        let host = SERVERS[server];
        let entry = Instance { generation, state: state as u32, ..instance(host, node) };
        self.datapath.set_instance(host.id, entry);
    }

    fn dialled(&self, dialled: Dialled) -> End {
        match dialled {
            Dialled::Service => (service(self.family), 80),
            Dialled::Instance(server) => (SERVERS[server].instance(self.family), 80),
        }
    }

    fn ask(&mut self, line: Line, flags: u8, acked: u32) -> Result<(), TestCaseError> {
        let client = (CLIENT.namespace(self.family), line.port);
        let sent = packet(line.is_tcp, client, self.dialled(line.dialled), flags, acked);
        let context = Context { ifindex: veth(CLIENT.id), ..Context::default() };
        let placed_before = self.model.asking.get(&line).copied();
        let (outcome, mut expected) = self.model.ask(line, flags, acked);
        if let (Some(before), Ok((server, _))) = (placed_before, outcome)
            && self.model.is_current(&before)
            && !before.is_closing
            && (before.is_confirmed || self.model.nodes[&before.node])
        {
            prop_assert_eq!(server, before.server, "a flow stays with its instance");
        }
        let (_, out) = self.datapath.run_as("from_instance", &sent, context);
        match outcome {
            Ok((server, node)) => {
                expected.push(Count::Did(if node == 0 {
                    ProgramCounter::Delivered
                } else {
                    ProgramCounter::Encapsulated
                }));
                let at = if node == 0 { 14 } else { 14 + TUNNEL_LEN };
                let parsed = parse(&out, at, self.family == Family::V4).expect("as it came");
                prop_assert_eq!(parsed.dst.to_ip(), SERVERS[server].namespace(self.family));
                prop_assert_eq!(parsed.src.to_ip(), CLIENT.instance(self.family));
                if node != 0 {
                    let to = self.datapath.get_node(node).addr;
                    prop_assert_eq!(parse(&out, 14, true).expect("a tunnel packet").dst, to);
                }
            }
            Err(reason) => {
                expected.push(Count::Drop(reason));
                let is_told = matches!(reason, DropReason::NoInstance | DropReason::InstanceGone);
                // A reset is not answered by one.
                if is_told && !(line.is_tcp && flags & 0x04 != 0) {
                    expected.push(Count::Did(ProgramCounter::Refused));
                }
            }
        }
        self.check(expected)
    }

    fn answer(&mut self, line: Line, flags: u8, acked: u32) -> Result<(), TestCaseError> {
        let Some(answers) = self.model.answerer(line) else { return Ok(()) };
        let (server, node, ..) = answers;
        let ended = self.model.answer(line, answers, flags, acked);
        let client = (CLIENT.instance(self.family), line.port);
        let out = if node == 0 {
            let from = (SERVERS[server].namespace(self.family), 80);
            let sent = packet(line.is_tcp, from, client, flags, acked);
            let context = Context { ifindex: veth(SERVERS[server].id), ..Context::default() };
            self.datapath.run_as("from_instance", &sent, context).1
        } else {
            let from = (SERVERS[server].instance(self.family), 80);
            let inner = packet(line.is_tcp, from, client, flags, acked);
            let sender = self.datapath.get_node(node).addr;
            let std::net::IpAddr::V4(sender) = sender.to_ip() else { unreachable!("IPv4") };
            let sent = match sender {
                crate::harness::PEER_IP => tunnelled(&inner),
                other => {
                    crate::packets::tunnelled_from((other, crate::harness::TUNNEL_PORT), &inner)
                }
            };
            let context = Context { ifindex: UPLINK, ..Context::default() };
            self.datapath.run_as("from_uplink", &sent, context).1
        };
        let (dialled, _) = self.dialled(line.dialled);
        let parsed = parse(&out, 14, is_v4(&out)).expect("as it came");
        prop_assert_eq!(parsed.src.to_ip(), dialled, "it seems to come from what was dialled");
        prop_assert_eq!(parsed.dst.to_ip(), CLIENT.namespace(self.family));
        let mut expected = vec![
            Count::Did(ProgramCounter::Delivered),
            Count::Service(slot(line.dialled), Direction::Ingress),
            Count::Instance(SERVERS[server].id, Direction::Ingress),
        ];
        if node != 0 {
            expected.push(Count::Did(ProgramCounter::Decapsulated));
        }
        expected.extend(ended);
        self.check(expected)
    }

    fn check(&mut self, expected: Vec<Count>) -> Result<(), TestCaseError> {
        let mut expected: Vec<_> = expected.iter().map(|count| (format!("{count:?}"), 1)).collect();
        expected.sort();
        prop_assert_eq!(self.datapath.changed(), expected);
        prop_assert_eq!(self.datapath.cursor(SLOT), self.model.turn, "turns taken");
        Ok(())
    }

    /// Every flow of the model is in the table as the model has it.
    fn check_table(&mut self) -> Result<(), TestCaseError> {
        let (established, opening) = self.datapath.flow_entries();
        let confirmed = self.model.asking.values().filter(|entry| entry.is_confirmed).count()
            + self.model.answering.values().filter(|(_, entry)| entry.is_confirmed).count();
        prop_assert_eq!(established.len(), confirmed, "established entries");
        let all = self.model.asking.len() + self.model.answering.len();
        prop_assert_eq!(established.len() + opening.len(), all, "entries");
        for (line, entry) in self.model.asking.clone() {
            let key = net_common::FlowKey {
                local: CLIENT.namespace(self.family).into(),
                remote: self.dialled(line.dialled).0.into(),
                local_port: line.port.to_be(),
                remote_port: 80_u16.to_be(),
                origin: veth(CLIENT.id),
                proto: if line.is_tcp { 6 } else { 17 },
            };
            let flow = self.datapath.flow(&key).expect("in the table");
            let is = (flow.instance, flow.generation, flow.node, flow.packets);
            let id = SERVERS[entry.server].id;
            prop_assert_eq!(is, (id, entry.generation, entry.node, entry.packets));
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: setting("XYLEM_MODEL_CASES", 128),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(
            "datapath/model.proptest-regressions",
        ))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_flow_table_does_as_its_model(actions in vec(action(), 1..80), is_v6 in proptest::bool::ANY) {
        let mut datapath = Datapath::load();
        town(&mut datapath);
        let family = FAMILIES[usize::from(is_v6)];
        let mut both = Both { model: Model::new(), datapath: &mut datapath, family };
        for action in &actions {
            both.act(action)?;
        }
        both.check_table()?;
    }
}

/// The longest stories that matter are not found by chance: many datagrams that nobody answers.
#[test]
fn a_long_monologue_is_as_its_model() {
    let mut datapath = Datapath::load();
    town(&mut datapath);
    let model = Model::new();
    let mut both = Both { model, datapath: &mut datapath, family: Family::V4 };
    let line = Line { port: 40_000, is_tcp: false, dialled: Dialled::Service };
    for _ in 0..100 {
        both.act(&Action::Ask(line, 0, 0)).expect("as the model says");
    }
    both.check_table().expect("as the model says");
    assert!(both.model.asking[&line].is_confirmed);
}

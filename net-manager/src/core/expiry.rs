//! Which flows have ended.
//!
//! A flow has two entries, one a direction, and ends as a whole: a stream that runs one way only
//! keeps the entry of its answers, for they may still come.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use net_common::{
    Addr, Flow, FlowKey,
    flow::flags::{CLOSING, REMOTE_CLIENT, REPLY},
};

use super::tables::Slot;

const ICMP: u32 = 1;
const ICMPV6: u32 = 58;
const TCP: u32 = 6;
/// [`FlowKey::origin`] of packets from the tunnel has this bit.
const FROM_NODE: u32 = 0x8000_0000;

/// After how long without a packet a flow has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// An open TCP connection.
    pub tcp: Duration,
    /// A TCP connection after a FIN or RST.
    pub closed: Duration,
    /// Anything else: datagrams, pings.
    pub other: Duration,
}

/// Both entries of one flow have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FlowId {
    is_remote: bool,
    /// Namespace IP of the local instance that opened the flow or, for a flow of a remote client,
    /// that answers it.
    local: Addr,
    /// The address that it dialled, or the remote client.
    remote: Addr,
    local_port: u16,
    remote_port: u16,
    proto: u32,
}

impl FlowId {
    fn of(key: &FlowKey, flow: &Flow) -> Self {
        let is_remote = flow.flags & REMOTE_CLIENT != 0;
        let is_reply = flow.flags & REPLY != 0;
        let (local, remote) = match (is_remote, is_reply) {
            // As the instance sends it.
            (false, false) | (true, true) => (key.local, key.remote),
            // Translated back to what the client dialled.
            (false, true) => (flow.dst, flow.src),
            (true, false) => (flow.dst, key.remote),
        };
        // Answers that a server of this node sends to a client of this node are keyed from the
        // server's side.
        let swapped = !is_remote && is_reply && key.origin & FROM_NODE == 0;
        let (local_port, remote_port) = match key.proto {
            // The identifier; type and code differ between question and answer.
            ICMP | ICMPV6 => (key.local_port, 0),
            _ if swapped => (key.remote_port, key.local_port),
            _ => (key.local_port, key.remote_port),
        };
        Self { is_remote, local, remote, local_port, remote_port, proto: key.proto }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Life {
    last_seen: Duration,
    closing: bool,
}

/// A look at the flow table: entries go in one by one, the judgement comes out.
#[derive(Debug, Default)]
pub struct Census {
    lives: HashMap<FlowId, Life>,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    key: FlowKey,
    id: FlowId,
    service: Slot,
    last_seen_ns: u64,
    /// Its instance or node is gone: no packet follows it any more.
    orphaned: bool,
}

/// An entry that can go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub key: FlowKey,
    /// It is to stay if it was used since.
    pub last_seen_ns: u64,
}

/// What a [`Census`] found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub ended: Vec<Ended>,
    /// Slots of the service IPs to which flows are alive.
    pub in_use: BTreeSet<Slot>,
}

impl Census {
    pub fn add(&mut self, key: FlowKey, flow: &Flow, orphaned: bool) {
        let id = FlowId::of(&key, flow);
        let life = self.lives.entry(id).or_default();
        life.last_seen = life.last_seen.max(Duration::from_nanos(flow.last_seen_ns));
        life.closing |= flow.flags & CLOSING != 0;
        let Flow { service, last_seen_ns, .. } = *flow;
        self.entries.push(Entry { key, id, service, last_seen_ns, orphaned });
    }

    pub fn judge(self, timeouts: &Timeouts, now: Duration) -> Verdict {
        let mut verdict = Verdict::default();
        for entry in self.entries {
            let life = self.lives[&entry.id];
            let timeout = match (entry.id.proto, life.closing) {
                (TCP, false) => timeouts.tcp,
                (TCP, true) => timeouts.closed,
                _ => timeouts.other,
            };
            if entry.orphaned || now.saturating_sub(life.last_seen) >= timeout {
                verdict.ended.push(Ended { key: entry.key, last_seen_ns: entry.last_seen_ns });
            } else if entry.service != 0 {
                verdict.in_use.insert(entry.service);
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use net_common::flow::from_node;

    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        tcp: Duration::from_secs(3600),
        closed: Duration::from_secs(10),
        other: Duration::from_secs(60),
    };
    const UDP: u32 = 17;

    fn addr(a: u8, d: u8) -> Addr {
        Ipv4Addr::new(10, a, 0, d).into()
    }

    /// A flow of the local client 10.18.0.2 (10.30.0.2) to the service 10.30.0.9, on slot 5,
    /// answered by 10.18.0.3 here or 10.30.0.7 on node 4; both entries, last seen then.
    fn client_flow(proto: u32, here: bool, seen: (u64, u64)) -> [(FlowKey, Flow); 2] {
        let is_ping = proto == ICMP || proto == ICMPV6;
        let ports = |local, remote| if is_ping { (7, remote) } else { (local, remote) };
        let question_ports = ports(1000, 80);
        let question = FlowKey {
            local: addr(18, 2),
            remote: addr(30, 9),
            local_port: question_ports.0,
            remote_port: question_ports.1,
            origin: 11,
            proto,
        };
        let (local, remote, answer_ports, origin) = if here {
            (addr(18, 3), addr(30, 2), ports(80, 1000), 12)
        } else {
            (addr(30, 2), addr(30, 7), ports(1000, 80), from_node(4))
        };
        let answer = FlowKey {
            local,
            remote,
            local_port: answer_ports.0,
            remote_port: answer_ports.1,
            origin,
            proto,
        };
        let there = Flow {
            src: addr(30, 2),
            dst: addr(18, 3),
            service: 5,
            last_seen_ns: seen.0 * 1_000_000_000,
            ..Flow::default()
        };
        let back = Flow {
            src: addr(30, 9),
            dst: addr(18, 2),
            service: 5,
            flags: REPLY,
            last_seen_ns: seen.1 * 1_000_000_000,
            ..Flow::default()
        };
        [(question, there), (answer, back)]
    }

    /// A flow of the remote client 10.30.0.7 on node 4 to the local 10.18.0.3 (10.30.0.3).
    fn server_flow(seen: (u64, u64)) -> [(FlowKey, Flow); 2] {
        let key = |local, origin| FlowKey {
            local,
            remote: addr(30, 7),
            local_port: 80,
            remote_port: 1000,
            origin,
            proto: UDP,
        };
        let there = Flow {
            src: addr(30, 7),
            dst: addr(18, 3),
            flags: REMOTE_CLIENT,
            last_seen_ns: seen.0 * 1_000_000_000,
            ..Flow::default()
        };
        let back = Flow {
            src: addr(30, 3),
            dst: addr(30, 7),
            flags: REMOTE_CLIENT | REPLY,
            last_seen_ns: seen.1 * 1_000_000_000,
            ..Flow::default()
        };
        [(key(addr(18, 3), from_node(4)), there), (key(addr(18, 3), 12), back)]
    }

    fn judge(flows: &[(FlowKey, Flow)], now: u64) -> Verdict {
        let mut census = Census::default();
        for (key, flow) in flows {
            census.add(*key, flow, false);
        }
        census.judge(&TIMEOUTS, Duration::from_secs(now))
    }

    #[test]
    fn a_flow_lives_as_long_as_one_of_its_directions_does() {
        for flows in [
            client_flow(UDP, true, (1000, 100)),
            client_flow(UDP, false, (100, 1000)),
            client_flow(ICMP, true, (1000, 100)),
            client_flow(ICMP, false, (1000, 100)),
            client_flow(ICMPV6, true, (100, 1000)),
            server_flow((100, 1000)),
            server_flow((1000, 100)),
        ] {
            assert_eq!(judge(&flows, 1059).ended, [], "{flows:?}");
            assert_eq!(judge(&flows, 1060).ended.len(), 2, "{flows:?}");
        }
    }

    #[test]
    fn an_open_connection_outlives_a_closed_one() {
        let open = client_flow(TCP, false, (1000, 1000));
        assert_eq!(judge(&open, 1000 + 3599).in_use, [5].into());
        assert_eq!(judge(&open, 1000 + 3600).ended.len(), 2);
        let mut closed = open;
        closed[1].1.flags |= CLOSING;
        assert_eq!(judge(&closed, 1009).ended, []);
        assert_eq!(judge(&closed, 1010).ended.len(), 2);
        assert!(judge(&closed, 1010).in_use.is_empty());
    }

    #[test]
    fn an_orphan_goes_at_once_and_others_stay() {
        let flows = client_flow(UDP, false, (1000, 1000));
        let mut census = Census::default();
        census.add(flows[0].0, &flows[0].1, true);
        census.add(flows[1].0, &flows[1].1, false);
        let verdict = census.judge(&TIMEOUTS, Duration::from_secs(1001));
        let gone = Ended { key: flows[0].0, last_seen_ns: flows[0].1.last_seen_ns };
        assert_eq!(verdict.ended, [gone]);
        assert_eq!(verdict.in_use, [5].into());
    }
}

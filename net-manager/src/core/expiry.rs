//! Which flows have ended.
//!
//! A flow has two entries, one a direction, and ends as a whole: a stream that runs one way only
//! keeps the entry of its answers, for they may still come. An entry that was used a moment ago is
//! judged alone; only for one that seems to have ended is its other half looked at. So a look at a
//! million flows needs no memory of them.

pub mod pace;

use std::time::Duration;

use net_common::{
    Flow, FlowKey, Instance,
    flow::{
        OUTSIDE,
        flags::{CLOSING, CONFIRMED, REPLY, RESET},
    },
};

const ICMP: u32 = 1;
const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMPV6: u32 = 58;

/// Above this part of the flow table, what has nearly ended goes at once.
const CROWDED: f64 = 0.75;

/// After how long without a packet, in either direction, a flow has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// A TCP connection that both sides have confirmed.
    pub tcp: Duration,
    /// One that they have not.
    pub tcp_opening: Duration,
    /// One that one side has ended.
    pub tcp_half_closed: Duration,
    /// One that both sides have ended: long enough for what the network has still under way.
    pub tcp_closing: Duration,
    /// One that was reset.
    pub tcp_reset: Duration,
    /// Datagrams that both sides have exchanged.
    pub udp: Duration,
    /// Datagrams of one side only, or one of each.
    pub udp_opening: Duration,
    /// Pings.
    pub icmp: Duration,
}

impl Timeouts {
    /// What counts while so much of the flow table is full, from 0 to 1: room for connections that
    /// live is worth more than an answer to the last segment of those that do not.
    pub fn under_pressure(self, fill: f64) -> Self {
        if fill < CROWDED {
            return self;
        }
        Self {
            tcp_closing: self.tcp_closing.min(self.tcp_reset),
            udp_opening: self.udp_opening.min(self.tcp_opening),
            ..self
        }
    }
}

/// What is known of a flow from one of its entries or from both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Life {
    last_seen: Duration,
    is_confirmed: bool,
    is_reset: bool,
    /// How many of the entries that are known have seen an end, and how many are known.
    closing: u32,
    known: u32,
}

impl Life {
    fn of(flow: &Flow) -> Self {
        Self {
            last_seen: Duration::from_nanos(flow.last_seen_ns),
            is_confirmed: flow.flags & CONFIRMED != 0,
            is_reset: flow.flags & RESET != 0,
            closing: u32::from(flow.flags & CLOSING != 0),
            known: 1,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            last_seen: self.last_seen.max(other.last_seen),
            is_confirmed: self.is_confirmed || other.is_confirmed,
            is_reset: self.is_reset || other.is_reset,
            closing: self.closing + other.closing,
            known: self.known + other.known,
        }
    }

    fn has_ended(&self, proto: u32, timeouts: &Timeouts, now: Duration) -> bool {
        let timeout = match proto {
            TCP if self.is_reset => timeouts.tcp_reset,
            TCP if self.closing == self.known => timeouts.tcp_closing,
            TCP if self.closing != 0 => timeouts.tcp_half_closed,
            TCP if self.is_confirmed => timeouts.tcp,
            TCP => timeouts.tcp_opening,
            UDP if self.is_confirmed => timeouts.udp,
            ICMP | ICMPV6 => timeouts.icmp,
            _ => timeouts.udp_opening,
        };
        now.saturating_sub(self.last_seen) >= timeout
    }
}

/// What is to become of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Lives,
    /// It goes, and so does its other half, if that is there.
    Ended {
        partner: Option<(FlowKey, Flow)>,
    },
}

/// Whether an entry by itself is old enough for its flow to have ended: [`judge`] asks its other
/// half.
pub fn may_have_ended(key: &FlowKey, flow: &Flow, timeouts: &Timeouts, now: Duration) -> bool {
    Life::of(flow).has_ended(key.proto, timeouts, now)
}

/// Judges one entry. `instance` is what the map `instances` has under the flow's instance, and
/// `look_up` reads the flow table.
///
/// # Errors
/// That of `look_up`.
pub fn judge<E>(
    (key, flow): (&FlowKey, &Flow),
    instance: Option<&Instance>,
    timeouts: &Timeouts,
    now: Duration,
    mut look_up: impl FnMut(&FlowKey) -> Result<Option<Flow>, E>,
) -> Result<Verdict, E> {
    let own = Life::of(flow);
    if !own.has_ended(key.proto, timeouts, now) {
        return Ok(Verdict::Lives);
    }
    for partner in partners(key, flow, instance).into_iter().flatten() {
        if let Some(other) = look_up(&partner)? {
            let both = own.and(Life::of(&other));
            return Ok(if both.has_ended(key.proto, timeouts, now) {
                Verdict::Ended { partner: Some((partner, other)) }
            } else {
                Verdict::Lives
            });
        }
    }
    Ok(Verdict::Ended { partner: None })
}

/// Where the other half of an entry can be; at most one of the keys is in the table.
pub fn partners(key: &FlowKey, flow: &Flow, instance: Option<&Instance>) -> [Option<FlowKey>; 2] {
    if flow.flags & REPLY == 0 {
        // What a peer answers with is its instance IP, whatever was asked.
        let answering = match instance {
            Some(instance) if !matches!(flow.node, 0 | OUTSIDE) => instance.instance_ip(&flow.dst),
            _ => flow.dst,
        };
        return [Some(flow.answers_key(key, answering)), None];
    }
    let asked = flow.questions_key(key);
    let as_answered = FlowKey { local: key.local, ..asked };
    [Some(asked), (flow.node != 0).then_some(as_answered)]
}

/// Whether this entry stands for its flow where flows are counted: each has one such entry.
pub fn counts(flow: &Flow) -> bool {
    flow.flags & REPLY == 0
}

/// Whether the flow is still in progress: nobody has said that it ends.
pub fn is_in_progress(flow: &Flow) -> bool {
    flow.flags & (CLOSING | RESET) == 0
}

#[cfg(test)]
mod tests;

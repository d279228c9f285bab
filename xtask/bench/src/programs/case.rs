//! What is measured of a program, how, and what it may cost.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

use crate::metric::write_name;

/// How it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum How {
    /// Many runs on one packet
    Repeated,
    /// One run on a fresh packet, many times
    Single,
    /// Attached programs in a flood
    Live,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(self, f)
    }
}

/// What a packet needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Work {
    /// Nothing: it is left to the kernel.
    Pass,
    /// No work: what the kernel's account of a program adds to each run.
    Clock,
    /// UDP in a known flow, to an instance of the same node.
    TranslateUdp,
    /// TCP likewise.
    TranslateTcp,
    /// UDP that opens a flow to an instance of the same node.
    Place,
    /// UDP in a known flow, to another node.
    Encapsulate,
    /// The same at the node that it arrives at.
    DecapsulateAndDeliver,
    /// UDP of a known flow from outside, to a published port.
    PublishedUdp,
    /// TCP likewise.
    PublishedTcp,
    /// A tunnel packet of nobody known.
    DropUnknownPeer,
}

impl Work {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Clock => "clock",
            Self::TranslateUdp => "translate_udp",
            Self::TranslateTcp => "translate_tcp",
            Self::Place => "place",
            Self::Encapsulate => "encapsulate",
            Self::DecapsulateAndDeliver => "decapsulate_and_deliver",
            Self::PublishedUdp => "published_udp",
            Self::PublishedTcp => "published_tcp",
            Self::DropUnknownPeer => "drop_unknown_peer",
        }
    }

    /// Whether it is work that more services might make longer.
    pub(super) fn may_grow(self) -> bool {
        !matches!(self, Self::Pass | Self::Clock)
    }
}

/// Of the packet that is translated: of one in the tunnel, the inner one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub(super) const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) how: How,
    pub(super) work: Work,
    pub(super) family: Family,
    pub(super) program: &'static str,
    /// Known to the node.
    pub(super) services: u32,
}

impl Case {
    /// Nanoseconds that it may take. The marks are for IPv4; IPv6 is shown beside it.
    pub(super) fn mark(self) -> Option<f64> {
        if self.family == Family::Ipv6 {
            return None;
        }
        match (self.how, self.work, self.program) {
            (How::Repeated, Work::TranslateUdp | Work::TranslateTcp, _) => Some(170.0),
            (
                How::Repeated,
                Work::DropUnknownPeer | Work::PublishedUdp | Work::PublishedTcp,
                "uplink_xdp",
            ) => Some(100.0),
            (How::Live, Work::TranslateUdp, _) => Some(300.0),
            (How::Live, Work::Encapsulate, _) => Some(400.0),
            (How::Live, Work::DecapsulateAndDeliver, _) => Some(270.0),
            _ => None,
        }
    }
}

/// Of one round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) case: Case,
    pub(super) round: u32,
    pub(super) nanos: f64,
}

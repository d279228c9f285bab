//! What is measured, where, and of whom.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// Where client and server are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lowercase")]
pub(crate) enum Place {
    /// On one node
    Same,
    /// Each on its own
    Cross,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(self, f)
    }
}

impl Place {
    pub(crate) const ALL: [Self; 2] = [Self::Same, Self::Cross];
}

/// Which way the packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Side {
    /// Routed by the kernel, not translated: the limit
    Plain,
    /// Translated as kube-proxy does with iptables
    Iptables,
    /// Translated as kube-proxy does with nftables
    Nftables,
    /// The same, in an overlay of VXLAN
    Vxlan,
    /// HAProxy in TCP mode
    Haproxy,
    /// Dialled by service IP
    Xylem,
    /// The same, on nodes that join sockets of one node
    XylemSocket,
}

impl Side {
    /// Whether it takes the packets of this load.
    pub(crate) fn carries(self, load: Load) -> bool {
        self != Self::Haproxy || !matches!(load, Load::SmallDatagrams | Load::LargeDatagrams)
    }

    /// Whether more services may cost it what is not known from another side.
    pub(crate) fn grows_in_its_own_way(self) -> bool {
        // The overlay knows of no services; of a proxy, connections find their listener by hash.
        !matches!(self, Self::Vxlan | Self::Haproxy | Self::XylemSocket)
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(self, f)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_name(self, f)
    }
}

/// As in the JSON and on the command line.
pub(crate) fn write_name(value: &impl ValueEnum, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let name = value.to_possible_value().expect("no variant is skipped");
    f.pad(name.get_name())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// One TCP stream
    Tcp1,
    /// Four TCP streams
    Tcp4,
    /// Datagrams with 64 bytes that arrive
    Udp64,
    /// Datagrams with 1400 bytes that arrive
    Udp1400,
    /// Request and response of one byte over one TCP connection, median
    RrP50,
    /// The same, 99th percentile
    RrP99,
    /// New TCP connections of one client
    Conn1,
    /// New TCP connections of 16 clients
    Conn16,
    /// CPU time of the whole machine for 1,000 bytes of one TCP stream
    CpuKb,
    /// CPU time of the whole machine for a datagram with 64 bytes that arrives
    CpuPkt64,
}

impl Metric {
    /// Whether it may depend on how many services there are: who sends in an established flow has
    /// chosen already.
    pub(crate) fn may_grow(self) -> bool {
        matches!(self, Self::RrP50 | Self::RrP99 | Self::Conn1)
    }

    pub(crate) fn is_better_lower(self) -> bool {
        matches!(self, Self::RrP50 | Self::RrP99 | Self::CpuKb | Self::CpuPkt64)
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Tcp1 | Self::Tcp4 => "Gb/s",
            Self::Udp64 | Self::Udp1400 => "packets/s",
            Self::RrP50 | Self::RrP99 => "us",
            Self::Conn1 | Self::Conn16 => "1/s",
            Self::CpuKb => "ns/KB",
            Self::CpuPkt64 => "ns/packet",
        }
    }
}

/// What is done to measure: some loads tell more than one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    Stream,
    FourStreams,
    SmallDatagrams,
    LargeDatagrams,
    Requests,
    Connections,
    ConnectionsOfMany,
}

impl Load {
    const ALL: [Self; 7] = [
        Self::Stream,
        Self::FourStreams,
        Self::SmallDatagrams,
        Self::LargeDatagrams,
        Self::Requests,
        Self::Connections,
        Self::ConnectionsOfMany,
    ];

    pub(crate) fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Stream => &[Metric::Tcp1, Metric::CpuKb],
            Self::FourStreams => &[Metric::Tcp4],
            Self::SmallDatagrams => &[Metric::Udp64, Metric::CpuPkt64],
            Self::LargeDatagrams => &[Metric::Udp1400],
            Self::Requests => &[Metric::RrP50, Metric::RrP99],
            Self::Connections => &[Metric::Conn1],
            Self::ConnectionsOfMany => &[Metric::Conn16],
        }
    }

    /// The one that tells `metric`.
    pub(crate) fn of_metric(metric: Metric) -> Self {
        let tells = |load: &Self| load.metrics().contains(&metric);
        Self::ALL.into_iter().find(tells).expect("every metric is told by one load")
    }

    /// One of what it does, in words.
    pub(crate) fn done(self) -> &'static str {
        match self {
            Self::Stream | Self::FourStreams => "KB",
            Self::SmallDatagrams | Self::LargeDatagrams => "packet that arrives",
            Self::Requests => "request",
            Self::Connections | Self::ConnectionsOfMany => "connection",
        }
    }

    /// So many of them a second, by what was measured; of requests, about as many.
    pub(crate) fn done_per_second(self, values: &[(Metric, f64)]) -> f64 {
        let (metric, factor): (_, fn(f64) -> f64) = match self {
            Self::Stream => (Metric::Tcp1, |gigabits| gigabits * 1e9 / 8.0 / 1e3),
            Self::FourStreams => (Metric::Tcp4, |gigabits| gigabits * 1e9 / 8.0 / 1e3),
            Self::SmallDatagrams => (Metric::Udp64, |packets| packets),
            Self::LargeDatagrams => (Metric::Udp1400, |packets| packets),
            Self::Requests => (Metric::RrP50, |micros| 1e6 / micros),
            Self::Connections => (Metric::Conn1, |connections| connections),
            Self::ConnectionsOfMany => (Metric::Conn16, |connections| connections),
        };
        let found = values.iter().find(|(known, _)| *known == metric);
        found.map(|(_, value)| factor(*value)).expect("the load tells it")
    }

    /// The loads that tell `metrics`.
    pub(crate) fn for_metrics(metrics: &[Metric]) -> Vec<Self> {
        let tells = |load: &Self| load.metrics().iter().any(|metric| metrics.contains(metric));
        Self::ALL.into_iter().filter(tells).collect()
    }
}

/// One value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Beside the measured ones.
    pub(crate) services: u32,
    pub(crate) round: u32,
    pub(crate) place: Place,
    pub(crate) side: Side,
    pub(crate) metric: Metric,
    pub(crate) value: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_told_by_one_load_and_has_one_name() {
        for metric in Metric::value_variants() {
            assert_eq!(Load::for_metrics(&[*metric]).len(), 1, "{metric:?}");
            let json = serde_json::to_string(metric).unwrap();
            let flag = metric.to_possible_value().unwrap();
            assert_eq!(json, format!("\"{}\"", flag.get_name()));
        }
        let names = serde_json::to_string(Metric::value_variants()).unwrap();
        assert_eq!(
            names,
            r#"["tcp1","tcp4","udp64","udp1400","rr_p50","rr_p99","conn1","conn16","cpu_kb","cpu_pkt64"]"#
        );
        assert_eq!(Load::for_metrics(Metric::value_variants()), Load::ALL);
    }

    #[test]
    fn every_load_tells_how_much_it_got_done() {
        for load in Load::ALL {
            let values: Vec<_> = load.metrics().iter().map(|metric| (*metric, 20.0)).collect();
            let done = load.done_per_second(&values);
            let wanted = match load {
                Load::Stream | Load::FourStreams => 2.5e6,
                Load::Requests => 5e4,
                _ => 20.0,
            };
            assert_eq!(done, wanted, "{load:?}");
        }
    }

    #[test]
    fn sides_have_the_names_that_readers_know() {
        let names = serde_json::to_string(Side::value_variants()).unwrap();
        assert_eq!(
            names,
            r#"["plain","iptables","nftables","vxlan","haproxy","xylem","xylem_socket"]"#
        );
    }
}

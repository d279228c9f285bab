//! What is measured, and between whom.

use std::{io, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;
use xylem_tests::{
    inside::Inside,
    load::{bytes_per_second, connections_per_second, pin_to_cpu, tcp_latency},
    netns::Netns,
};

/// Where client and server are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    Same,
    Cross,
}

impl Place {
    pub(crate) const ALL: [Self; 2] = [Self::Same, Self::Cross];
}

/// Which way the packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Side {
    /// Routed by the kernel, not translated: the limit.
    Plain,
    /// Dialled by service IP.
    Xylem,
}

impl Side {
    pub(crate) const ALL: [Self; 2] = [Self::Plain, Self::Xylem];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    Tcp1,
    Tcp4,
    RrP50,
    RrP99,
    Conn1,
    Conn16,
}

impl Metric {
    /// Loads that [`run`] knows, by number.
    pub(crate) const LOADS: usize = 5;

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Tcp1 | Self::Tcp4 => "Gb/s",
            Self::RrP50 | Self::RrP99 => "us",
            Self::Conn1 | Self::Conn16 => "1/s",
        }
    }
}

/// One value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) round: u32,
    pub(crate) place: Place,
    pub(crate) side: Side,
    pub(crate) metric: Metric,
    pub(crate) value: f64,
}

/// A client, and the address that it dials.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    pub(crate) client: Client<'a>,
    pub(crate) server: Ipv4Addr,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Client<'a> {
    Plain(&'a Netns),
    Instance(&'a Inside),
}

impl Client<'_> {
    fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Plain(netns) => netns.run(work),
            Self::Instance(inside) => inside.run(work),
        }
    }
}

/// Runs one load, by number.
///
/// # Errors
/// If a connection fails: nothing that is measured may.
pub(crate) fn run(load: usize, path: &Path<'_>, duration: Duration) -> Result<Vec<(Metric, f64)>> {
    let server = path.server;
    let values = path.client.run(|| -> io::Result<_> {
        Ok(match load {
            0 => vec![(Metric::Tcp1, gigabits(bytes_per_second(server, 1, duration)?))],
            1 => vec![(Metric::Tcp4, gigabits(bytes_per_second(server, 4, duration)?))],
            2 => {
                // The echo server is on this CPU too: else it is wake-ups that are measured.
                pin_to_cpu(0)?;
                let latency = tcp_latency(server, duration)?;
                let micros = |time: Duration| time.as_secs_f64() * 1e6;
                vec![(Metric::RrP50, micros(latency.p50)), (Metric::RrP99, micros(latency.p99))]
            }
            3 => vec![(Metric::Conn1, connections_per_second(server, 1, duration)?)],
            _ => vec![(Metric::Conn16, connections_per_second(server, 16, duration)?)],
        })
    });
    values.with_context(|| format!("load {load} from {:?} to {server}", path.client))
}

fn gigabits(bytes_per_second: f64) -> f64 {
    bytes_per_second * 8e-9
}

//! Running a load from a client to what it dials.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result};
use xylem_tests::{
    inside::Inside,
    load::{
        SERVER_CPU, connect_once, connections_per_second, datagrams_per_second, pin_to_cpu,
        send_for, tcp_latency,
    },
    netns::Netns,
};

use crate::{
    cpu::Meter,
    metric::{Load, Metric},
};

/// A client, and the address that it dials.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a> {
    pub(crate) client: Client<'a>,
    pub(crate) server: Ipv4Addr,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Client<'a> {
    Host(&'a Netns),
    Instance(&'a Inside),
}

impl Client<'_> {
    /// Runs `work` in the client's network namespace.
    pub(crate) fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Host(netns) => netns.run(work),
            Self::Instance(inside) => inside.run(work),
        }
    }
}

/// Runs one load for `duration`. `idle_load` CPUs are busy without it, on average.
///
/// # Errors
/// If a connection fails: nothing that is measured may.
pub(crate) fn run(
    load: Load,
    path: &Path<'_>,
    duration: Duration,
    idle_load: f64,
) -> Result<Vec<(Metric, f64)>> {
    let server = path.server;
    let values = path.client.run(|| -> Result<_> {
        // Who forgets what is not in use learns it anew here, and not in what is measured.
        connect_once(server)?;
        let meter = Charge::start(idle_load)?;
        Ok(match load {
            Load::Stream => {
                let sent = send_for(server, 1, duration)?;
                let cpu_kb = meter.nanos_for(sent.bytes / 1e3)?;
                let mut values = vec![(Metric::Tcp1, gigabits(sent.per_second))];
                values.extend(cpu_kb.map(|nanos| (Metric::CpuKb, nanos)));
                values
            }
            Load::FourStreams => {
                vec![(Metric::Tcp4, gigabits(send_for(server, 4, duration)?.per_second))]
            }
            Load::SmallDatagrams => {
                let flood = datagrams_per_second(server, 64, duration)?;
                let cpu_packet = meter.nanos_for(flood.arrived as f64)?;
                let mut values = vec![(Metric::Udp64, flood.per_second)];
                values.extend(cpu_packet.map(|nanos| (Metric::CpuPkt64, nanos)));
                values
            }
            Load::LargeDatagrams => {
                let flood = datagrams_per_second(server, 1400, duration)?;
                vec![(Metric::Udp1400, flood.per_second)]
            }
            Load::Requests => {
                // The echo server is on this CPU too: else it is wake-ups that are measured.
                pin_to_cpu(SERVER_CPU)?;
                let latency = tcp_latency(server, duration)?;
                let micros = |time: Duration| time.as_secs_f64() * 1e6;
                vec![(Metric::RrP50, micros(latency.p50)), (Metric::RrP99, micros(latency.p99))]
            }
            Load::Connections => {
                vec![(Metric::Conn1, connections_per_second(server, 1, duration)?)]
            }
            Load::ConnectionsOfMany => {
                vec![(Metric::Conn16, connections_per_second(server, 16, duration)?)]
            }
        })
    });
    values.with_context(|| format!("{load:?} to {server}"))
}

fn gigabits(bytes_per_second: f64) -> f64 {
    bytes_per_second * 8e-9
}

/// CPU time that is put down to what is measured.
struct Charge {
    meter: Meter,
    idle_load: f64,
}

impl Charge {
    fn start(idle_load: f64) -> Result<Self> {
        Ok(Self { meter: Meter::start()?, idle_load })
    }

    /// Nanoseconds for each of `count`; nothing where the machine had less to do than without it,
    /// because others have become idle meanwhile.
    fn nanos_for(&self, count: f64) -> Result<Option<f64>> {
        let (busy, elapsed) = self.meter.busy()?;
        let charged = busy.as_secs_f64() - self.idle_load * elapsed.as_secs_f64();
        Ok((charged > 0.0).then(|| charged * 1e9 / count))
    }
}

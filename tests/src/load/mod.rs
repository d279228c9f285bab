//! Loads for suites and benchmarks, over ordinary sockets: each function runs in the network
//! namespace of the thread that calls it.
//!
//! A [`Server`] answers three ports; the clients measure against any address that leads to it.

mod connections;
mod requests;
mod server;
mod stream;

pub use connections::connections_per_second;
pub use requests::{Latency, tcp_latency};
pub use server::{CONNECT_PORT, ECHO_PORT, SINK_PORT, Server};
pub use stream::{Received, bytes_per_second, transfer};

use std::{io, net::TcpStream};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{setsockopt, sockopt::TcpCongestion},
    unistd::Pid,
};

/// The same congestion control everywhere: a namespace's own default may be another.
const CONGESTION_CONTROL: &str = "cubic";

/// Binds the calling thread to one CPU.
///
/// # Errors
/// If there is no such CPU.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, TcpCongestion, &CONGESTION_CONTROL.into())?;
    Ok(())
}

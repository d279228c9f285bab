//! Loads for suites and benchmarks, over ordinary sockets: each function runs in the network
//! namespace of the thread that calls it.
//!
//! A [`Server`] answers four ports; the clients measure against any address that leads to it.

mod connections;
mod datagrams;
mod requests;
mod server;
mod stream;
mod tally;

pub use connections::{connect_once, connections_per_second};
pub use datagrams::{Flood, datagrams_per_second};
pub use requests::{Latency, tcp_latency};
pub use server::{CONNECT_PORT, COUNT_PORT, ECHO_PORT, SINK_PORT, Server};
pub use stream::{Received, Sent, bytes_per_second, send_for, transfer, transfer_over};

use std::{io, net::TcpStream};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::socket::{setsockopt, sockopt::TcpCongestion},
    unistd::{Pid, SysconfVar, sysconf},
};

/// The same congestion control everywhere: a namespace's own default may be another.
const CONGESTION_CONTROL: &str = "cubic";

/// Where servers run whose client's place is known too.
pub const SERVER_CPU: usize = 0;

/// Binds the calling thread to one CPU.
///
/// # Errors
/// If there is no such CPU.
pub fn pin_to_cpu(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// The CPU farthest from that of the servers, [`SERVER_CPU`]; the same if there is only one.
fn client_cpu() -> nix::Result<usize> {
    let online = sysconf(SysconfVar::_NPROCESSORS_ONLN)?;
    Ok(online.and_then(|count| usize::try_from(count - 1).ok()).unwrap_or(SERVER_CPU))
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, TcpCongestion, &CONGESTION_CONTROL.into())?;
    Ok(())
}

//! `xylem net events`: flows as they open and close, and drops, while somebody looks.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use ipnet::IpNet;
use net_common::{DropReason, Event, EventKind};
use net_maps::{Observer, PinnedMaps};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::SignalFd,
    },
};
use serde::Serialize;

use super::{
    flow_ends::is_echo,
    flow_filter::{is_name_of, network},
    read::monotonic_ns,
    snapshot::{Snapshot, proto_name},
};
use crate::{
    output::{self, Format},
    paint::{Colour, Paint},
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem net events --follow
  xylem net events --follow --kind dropped --reason unknown-peer
  xylem net events --for 10 --service web --output json

The programs tell what they do only while this runs; one at a time can watch a data path. Without
--follow it ends after a second. More events than are read in time are lost: a line of the kind
`lost` says so, whatever the filter.")]
pub(super) struct EventsArgs {
    /// Go on until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Go on for so many seconds
    #[arg(long = "for", value_name = "SECS", conflicts_with = "follow")]
    seconds: Option<u64>,
    /// Only events of this kind
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// Only drops for this reason, as `xylem net drops --all` names them
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Option<DropReason>,
    /// Only flows to instances of this service: its full name or its service name
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only packets from or to this address or network
    #[arg(long, value_name = "IP[/PREFIX]", value_parser = network)]
    addr: Option<IpNet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Opened,
    Closed,
    Dropped,
}

/// What is told to who watches.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told<'a> {
    Event(&'a Event),
    /// So many times the ring buffer was full, and what happened meanwhile is not told.
    Overruns(u64),
}

/// Events were lost.
#[derive(Debug, Serialize)]
pub(super) struct LostView {
    /// When that was noticed; it was before, and after the event that was told before it.
    pub(super) time_ns: u64,
    /// `lost`
    pub(super) kind: &'static str,
    /// How often the ring buffer was full since the last such line.
    pub(super) overruns: u64,
    pub(super) explanation: &'static str,
}

impl LostView {
    pub(super) fn new(time_ns: u64, overruns: u64) -> Self {
        Self {
            time_ns,
            kind: "lost",
            overruns,
            explanation: "the ring buffer was full; what happened meanwhile is counted, but not \
                          told",
        }
    }
}

/// One event, in words.
#[derive(Debug, Serialize)]
pub(super) struct EventView {
    /// Since the machine has started, nanoseconds: the clock of the programs.
    time_ns: u64,
    kind: Kind,
    proto: String,
    /// As the packet had them when it came.
    src: SocketAddr,
    dst: SocketAddr,
    bytes: u32,
    /// The instance that the flow leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    explanation: Option<&'static str>,
}

/// # Errors
/// Somebody else watches, the maps cannot be used, or the writer fails.
pub(super) fn run(
    args: &EventsArgs,
    bpffs: &Path,
    format: Format,
    paint: Paint,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let maps = PinnedMaps::open(bpffs)?;
    let mut snapshot = Snapshot::read(&maps)?;
    let mut read_at = Instant::now();
    let time =
        if args.follow { None } else { Some(Duration::from_secs(args.seconds.unwrap_or(1))) };
    watch(bpffs, time, out, |told, out| {
        let event = match told {
            Told::Event(event) => event,
            Told::Overruns(overruns) => {
                let view = LostView::new(monotonic_ns()?, overruns);
                return Ok(write_lost(out, format, paint, &view)?);
            }
        };
        let is_new = instance(event).is_some_and(|id| !snapshot.instances.contains_key(&id));
        if is_new && read_at.elapsed() >= READ_NAMES_EVERY {
            // Known since a moment ago, perhaps.
            snapshot = Snapshot::read(&maps)?;
            read_at = Instant::now();
        }
        let Some(view) = view(&snapshot, event) else { return Ok(()) };
        if !passes(args, &snapshot, event, &view) {
            return Ok(());
        }
        Ok(write_line(out, format, paint, &view)?)
    })
}

/// How often the names of instances are read again, at most: that takes longer than what most
/// events leave.
const READ_NAMES_EVERY: Duration = Duration::from_millis(100);

/// How often it is said that events were lost, at most.
const SAY_LOST_EVERY: Duration = Duration::from_secs(1);

/// Gives each event to `each`, for some time or until interrupted.
///
/// # Errors
/// Those of `each` and of the maps, and somebody else watches.
pub(super) fn watch<W: Write>(
    bpffs: &Path,
    time: Option<Duration>,
    out: &mut W,
    mut each: impl FnMut(Told<'_>, &mut W) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    // Taken before the programs are told to speak, so that they are told to stop whatever ends
    // this.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().context("cannot block signals")?;
    let signals = SignalFd::new(&signals).context("cannot wait for signals")?;
    let mut observer = Observer::start(bpffs)?;
    let until = time.map(|time| Instant::now() + time);
    let (mut overruns, mut said) = (0, None::<Instant>);
    loop {
        while let Some(event) = observer.next_event() {
            each(Told::Event(&event), out)?;
            let now = Instant::now();
            overruns += observer.take_overruns();
            if overruns > 0 && said.is_none_or(|said| now - said >= SAY_LOST_EVERY) {
                each(Told::Overruns(std::mem::take(&mut overruns)), out)?;
                said = Some(now);
            }
            if until.is_some_and(|until| now >= until) {
                break;
            }
        }
        if overruns > 0 {
            each(Told::Overruns(std::mem::take(&mut overruns)), out)?;
            said = Some(Instant::now());
        }
        out.flush()?;
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(());
        }
        let timeout = match left {
            // Rounded up, so that it is over at last.
            Some(left) => PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        let mut ready = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(observer.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for events"),
        }
        if ready[0].any().unwrap_or(true) {
            return Ok(());
        }
    }
}

/// The event in words; `None` for a kind of a newer layout.
pub(super) fn view(snapshot: &Snapshot, event: &Event) -> Option<EventView> {
    let kind = match EventKind::from_raw(event.kind)? {
        EventKind::FlowOpened => Kind::Opened,
        EventKind::FlowClosed => Kind::Closed,
        EventKind::Dropped => Kind::Dropped,
        _ => return None,
    };
    let reason = (kind == Kind::Dropped).then(|| DropReason::from_raw(event.value)).flatten();
    let (src, dst) = sockets(event);
    Some(EventView {
        time_ns: event.time_ns,
        kind,
        proto: proto_name(event.proto),
        src,
        dst,
        bytes: event.packet_len,
        instance: instance(event).map(|id| snapshot.instance_name(id)),
        reason: reason.map(DropReason::name),
        explanation: reason.map(DropReason::explanation),
    })
}

fn passes(args: &EventsArgs, snapshot: &Snapshot, event: &Event, view: &EventView) -> bool {
    let is_of_service = |service: &str| {
        instance(event)
            .and_then(|id| snapshot.instances.get(&id))
            .is_some_and(|known| is_name_of(snapshot.name(known.entry.service), service))
    };
    args.kind.is_none_or(|kind| view.kind == kind)
        && args.reason.is_none_or(|reason| view.reason == Some(reason.name()))
        && args.service.as_deref().is_none_or(is_of_service)
        && args.addr.is_none_or(|net| net.contains(&view.src.ip()) || net.contains(&view.dst.ip()))
}

/// JSON is one line an event.
pub(super) fn write_line(
    out: &mut impl Write,
    format: Format,
    paint: Paint,
    view: &EventView,
) -> io::Result<()> {
    if format == Format::Json {
        return output::json_line(out, view);
    }
    let (word, colour) = match view.kind {
        Kind::Opened => ("opened ", Colour::Green),
        Kind::Closed => ("closed ", Colour::Plain),
        Kind::Dropped => ("dropped", Colour::Red),
    };
    let what = match (&view.instance, view.reason) {
        (Some(instance), _) => format!(" to {instance}"),
        (None, Some(reason)) => format!(" {reason}: {}", view.explanation.unwrap_or_default()),
        (None, None) => String::new(),
    };
    let word = paint.on(colour, word);
    let ends = shown_ends(&view.proto, view.src, view.dst);
    writeln!(out, "{} {word} {ends}{what}", shown_time(view.time_ns))
}

/// The line in which events were lost.
pub(super) fn write_lost(
    out: &mut impl Write,
    format: Format,
    paint: Paint,
    view: &LostView,
) -> io::Result<()> {
    if format == Format::Json {
        return output::json_line(out, view);
    }
    let times = if view.overruns == 1 { "once" } else { "several times" };
    let word = paint.on(Colour::Yellow, "lost   ");
    writeln!(out, "{} {word} events, {times}: {}", shown_time(view.time_ns), view.explanation)
}

fn shown_time(time_ns: u64) -> String {
    format!("{}.{:06}", time_ns / 1_000_000_000, time_ns % 1_000_000_000 / 1_000)
}

/// Who sent the packet to whom.
pub(super) fn ends(event: &Event) -> String {
    let (src, dst) = sockets(event);
    shown_ends(&proto_name(event.proto), src, dst)
}

fn shown_ends(proto: &str, src: SocketAddr, dst: SocketAddr) -> String {
    let end = |end: SocketAddr| if end.port() == 0 { bare(end.ip()) } else { end.to_string() };
    format!("{proto} {} -> {}", end(src), end(dst))
}

fn bare(ip: IpAddr) -> String {
    // A packet that could not be read has no addresses.
    if ip.is_unspecified() { "?".to_owned() } else { ip.to_string() }
}

/// Id of the instance that the flow of an event leads to.
fn instance(event: &Event) -> Option<u32> {
    let is_flow = event.kind != EventKind::Dropped as u32;
    (is_flow && event.value != 0).then_some(event.value)
}

/// Echo has an identifier and a type for ports, which say nothing to people.
fn sockets(event: &Event) -> (SocketAddr, SocketAddr) {
    let port = |port| if is_echo(event.proto) { 0 } else { u16::from_be(port) };
    (
        SocketAddr::new(event.src.to_ip(), port(event.sport)),
        SocketAddr::new(event.dst.to_ip(), port(event.dport)),
    )
}

fn reason(text: &str) -> Result<DropReason, String> {
    let found = DropReason::ALL.iter().find(|reason| reason.name() == text);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        format!("no such reason; there are {}", names.join(", "))
    })
}

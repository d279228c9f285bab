//! `xylem net explain`: what the data path would do with a packet, step by step.
//!
//! A packet is put together as the instance would send it and given to the very program that is
//! attached to the instance's interface, over the live maps. It is marked, so that the program
//! changes nothing, counts nothing and sends nothing, and notes its decisions instead.

mod ends;
mod frame;
mod words;

use std::io::Write;

use clap::{Args, ValueEnum};
use net_common::StepKind;
use net_maps::PinnedMaps;
use serde::Serialize;

use self::ends::Destination;
use super::snapshot::Snapshot;
use crate::{
    output::{self, Format},
    paint::{Colour, Paint},
};

#[derive(Args, Debug)]
#[command(after_help = "Examples:
  xylem net explain web.0 10.30.0.7:80
  xylem net explain shop.prod.web.front.0 db:5432
  xylem net explain 10.18.0.66 10.30.0.7:53 --proto udp
  xylem net explain 10.18.0.66 fdff:2000::7 --proto icmp --output json

Nothing is sent, counted or changed. By default the packet is the first of a new flow; with
--source-port it is one of the flow that has this port.")]
pub(super) struct ExplainArgs {
    /// Who sends: an instance of this node by name and number (web.0, or web if there is one), or
    /// its namespace IP
    #[arg(value_name = "SRC")]
    src: String,
    /// What it dials: IP:PORT or SERVICE:PORT; without a port for icmp
    #[arg(value_name = "DST[:PORT]")]
    dst: String,
    #[arg(long, value_enum, default_value_t)]
    proto: Proto,
    /// The client's port, or identifier for icmp [default: one that no client uses]
    #[arg(long, value_name = "PORT")]
    source_port: Option<u16>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Proto {
    /// A SYN
    #[default]
    Tcp,
    Udp,
    /// An echo request, of the family of the address
    Icmp,
}

/// A port that no program is given by itself (RFC 6335, 6), so that no live flow has it.
const UNUSED_PORT: u16 = 1;

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ExplainView {
    proto: Proto,
    src: String,
    dst: String,
    /// The sender, if it is a named instance.
    sender: Option<String>,
    steps: Vec<words::StepView>,
    verdict: words::Verdict,
    /// The verdict in words.
    summary: String,
}

/// # Errors
/// There is no such sender or destination, or the program cannot be asked.
pub(super) fn run(
    args: &ExplainArgs,
    mut maps: PinnedMaps,
    format: Format,
    paint: Paint,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut snapshot = Snapshot { endpoints: maps.endpoints()?, ..Snapshot::read(&maps)? };
    let destination = Destination::parse(&snapshot, &args.dst, args.proto)?;
    let sender = ends::sender(&snapshot, &args.src, destination.ip)?;
    let source_port = args.source_port.unwrap_or(UNUSED_PORT);
    let src = sender.namespace_ip.to_ip();
    let frame = frame::build(args.proto, (src, source_port), (destination.ip, destination.port))?;
    let explanation = maps.dry_run(sender.ifindex, &frame)?;
    let slots = explanation.steps.iter().filter(|step| step.kind == StepKind::Service as u32);
    for slot in slots.map(|step| step.value) {
        snapshot.tables.insert(slot, maps.table(slot)?);
    }

    let (steps, verdict, summary) = words::of(&snapshot, &explanation);
    let end = |ip: std::net::IpAddr, port| match args.proto {
        Proto::Icmp => ip.to_string(),
        Proto::Tcp | Proto::Udp => std::net::SocketAddr::new(ip, port).to_string(),
    };
    let view = ExplainView {
        proto: args.proto,
        src: end(src, source_port),
        dst: end(destination.ip, destination.port),
        sender: (sender.instance != 0).then(|| snapshot.instance_name(sender.instance)),
        steps,
        verdict,
        summary,
    };
    render(out, format, paint, &view)
}

pub(super) fn render(
    out: &mut impl Write,
    format: Format,
    paint: Paint,
    view: &ExplainView,
) -> anyhow::Result<()> {
    if format == Format::Json {
        return Ok(output::json(out, view)?);
    }
    let proto = match view.proto {
        Proto::Tcp => "tcp",
        Proto::Udp => "udp",
        Proto::Icmp => "icmp",
    };
    let sender = view.sender.as_deref().map_or(String::new(), |name| format!(" ({name})"));
    writeln!(out, "{proto} {}{sender} -> {}", view.src, view.dst)?;
    for (number, step) in (1..).zip(&view.steps) {
        writeln!(out, "{number:3}. {}", step.text)?;
    }
    let colour = match view.verdict {
        words::Verdict::Delivered | words::Verdict::Tunnelled | words::Verdict::LeavesOverlay => {
            Colour::Green
        }
        words::Verdict::Parked | words::Verdict::Passed => Colour::Yellow,
        words::Verdict::Dropped | words::Verdict::Unknown => Colour::Red,
    };
    writeln!(out, "=> {}", paint.on(colour, &view.summary))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use net_common::{Addr, DropReason, Explanation, Policy, Step};

    use super::{
        super::tests::{CLIENT_IP, WEB_0_NS, WEB_0_VETH, WEB_IP, ip, snapshot},
        *,
    };

    fn explained(steps: &[(StepKind, u32, Addr)]) -> String {
        let mut explanation = Explanation { len: steps.len() as u32, ..Explanation::default() };
        for (place, (kind, value, addr)) in explanation.steps.iter_mut().zip(steps) {
            *place = Step { kind: *kind as u32, value: *value, addr: *addr };
        }
        let (steps, verdict, summary) = words::of(&snapshot(), &explanation);
        let view = ExplainView {
            proto: Proto::Tcp,
            src: "10.18.0.2:1".into(),
            dst: "10.30.0.1:80".into(),
            sender: None,
            steps,
            verdict,
            summary,
        };
        let mut out = Vec::new();
        render(&mut out, Format::Table, Paint::default(), &view).unwrap();
        String::from_utf8(out).unwrap()
    }

    const NOBODY: Addr = Addr::UNSPECIFIED;

    #[test]
    fn a_new_flow_to_an_instance_of_this_node() {
        let text = explained(&[
            (StepKind::NoFlow, 0, NOBODY),
            (StepKind::Sender, 0, ip(CLIENT_IP)),
            (StepKind::Service, 1, ip(WEB_IP)),
            (StepKind::Policy, Policy::RoundRobin as u32, NOBODY),
            (StepKind::Table, 3, NOBODY),
            (StepKind::PassedOver, 2, NOBODY),
            (StepKind::Chosen, 1, ip(WEB_0_NS)),
            (StepKind::Deliver, WEB_0_VETH, NOBODY),
        ]);
        assert_eq!(
            text,
            "\
tcp 10.18.0.2:1 -> 10.30.0.1:80
  1. no flow: the packet opens one
  2. the sender has the instance IP 10.30.2.0
  3. 10.30.0.1 is an address of the service shop.prod.web.front
  4. its policy is round-robin
  5. its lookup table has 3 places: instance 0 33%, instance 1 67%
  6. shop.prod.web.front.1 is passed over: it is up, but its answers would meet another flow's
  7. shop.prod.web.front.0 is chosen, at 10.18.0.3
  8. it goes to the interface 12 of this node
=> delivered on this node to shop.prod.web.front.0
"
        );
    }

    #[test]
    fn a_drop_says_why() {
        let reason = DropReason::OutsideOverlay;
        let text =
            explained(&[(StepKind::NoFlow, 0, NOBODY), (StepKind::Dropped, reason as u32, NOBODY)]);
        let wanted = format!("=> dropped, outside-overlay: {}\n", reason.explanation());
        assert!(text.ends_with(&wanted), "{text}");
    }

    #[test]
    fn nothing_noted_is_told_as_such() {
        let text = explained(&[]);
        assert!(text.contains("=> unknown: the program noted nothing"), "{text}");
    }
}

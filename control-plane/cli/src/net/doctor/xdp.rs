//! What was found of XDP on the uplink, what was chosen and why. Pure.

use net_probe::{Link, XdpMode};

use super::{
    checks::{Check, Status, check},
    data_path::described,
    facts::{Facts, Pinned},
};

pub(super) fn all(facts: &Facts, pinned: &Pinned) -> Vec<Check> {
    let Ok(link) = &pinned.uplink else {
        return vec![check("XDP on the uplink", Status::Off, "", "off", "the uplink is not there")];
    };
    vec![driver(link), attached(facts, link)]
}

/// What the driver says that it can do, and whether that is used.
fn driver(link: &Link) -> Check {
    const FEATURE: &str = "XDP in the driver";
    let of = link.driver.as_deref().unwrap_or("no driver");
    let features = match &link.xdp_features {
        Ok(features) => features,
        Err(why) => {
            let found = format!("{of}: {why}");
            let why = "whether the driver takes a program is found by giving it one";
            return check(FEATURE, Status::Off, found, "tried at start", why);
        }
    };
    let names = features.names();
    let found = if names.is_empty() {
        format!("{of}: none")
    } else {
        format!("{of}: {}", names.join(", "))
    };
    let (status, chosen, why) = match (features.is_native(), link.xdp, &link.kind) {
        (true, Some(XdpMode::Native), _) => {
            (Status::Ok, "used", "programs run before a buffer is made of a packet")
        }
        (true, _, Some(_)) => {
            (Status::Off, "not used", "on a virtual interface it would cost more than it gives")
        }
        (true, _, None) => (
            Status::Off,
            "not used",
            "see `XDP on the uplink`, and --uplink-xdp of xylem-net-manager",
        ),
        (false, _, _) => (Status::Off, "not used", "the driver has no XDP; TCX does the work"),
    };
    check(FEATURE, status, found, chosen, why)
}

/// The program that is there.
fn attached(facts: &Facts, link: &Link) -> Check {
    const FEATURE: &str = "XDP on the uplink";
    let ours = facts.programs.iter().any(|program| program.is_xdp);
    let found = described(link);
    let mode = link.xdp.map(|mode| match mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    });
    let off = |why: &str| check(FEATURE, Status::Off, found.clone(), "off", why);
    match (mode, ours, &link.kind) {
        (Some(mode), true, _) => {
            let why = match link.xdp {
                Some(XdpMode::Generic) => {
                    "as configured; it costs more than it gives, and is for tests"
                }
                _ => "the driver takes it: early drops, probes, published ports",
            };
            check(FEATURE, Status::Ok, found, mode, why)
        }
        (Some(mode), false, _) => check(
            FEATURE,
            Status::Warning,
            found,
            format!("another's program, {mode}"),
            "it sees packets before the data path does",
        )
        .todo(format!("see whose it is: `ip -d link show {}`", link.name)),
        (None, _, Some(kind)) => off(&format!(
            "native XDP on a {kind} would cost large packets (GSO) and finished checksums, generic \
             XDP more than it gives"
        )),
        (None, _, None) if !facts.kernel.xdp.is_there() => {
            off("this kernel has no XDP; TCX does the work")
        }
        (None, _, None) => match &link.xdp_features {
            Ok(features) if features.is_native() => off(
                "it is configured off, or the driver refused the program (the net manager's log \
                 says so); TCX does the same work, later",
            ),
            Ok(_) => off("the driver has no XDP; TCX does the same work, later"),
            Err(_) => {
                off("the driver refused it or it is configured off; TCX does the same work, later")
            }
        },
    }
}

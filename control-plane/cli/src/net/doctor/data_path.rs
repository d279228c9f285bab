//! What the facts of the pinned data path mean. Pure.

use net_common::config::features;
use net_probe::Link;

use super::{
    checks::{Check, Status, check},
    facts::{DataPath, Facts, LAYOUT, Pinned},
};
use crate::net::{nodes::own_address, snapshot::endpoint};

/// The checks of what is pinned.
pub(super) fn all(facts: &Facts) -> Vec<Check> {
    const FEATURE: &str = "layout";
    let layout = match &facts.data_path {
        DataPath::Here(pinned) if pinned.others.is_empty() => {
            check(FEATURE, Status::Ok, LAYOUT.to_string(), "used", "maps and command agree")
        }
        DataPath::Here(pinned) => check(
            FEATURE,
            Status::Warning,
            format!("{LAYOUT}, and also {:?}", pinned.others),
            format!("{LAYOUT} is used"),
            "an older data path may still carry flows",
        )
        .todo("once its flows have ended, `xylem-net-manager purge` or a restart removes it"),
        DataPath::Absent => {
            check(FEATURE, Status::Warning, "none", "", "no data path is pinned here")
                .todo("start the net manager, or name its folder with --bpffs")
        }
        DataPath::OtherLayout(found) => check(
            FEATURE,
            Status::Missing,
            found.to_string(),
            "",
            format!("this command reads layout {LAYOUT}"),
        )
        .todo("use the version of xylem that belongs to the net manager, or upgrade that"),
        DataPath::Unreadable(why) => {
            check(FEATURE, Status::Missing, "unreadable", "", why).todo("run as root")
        }
    };
    let mut checks = vec![layout, net_manager(facts)];
    if let DataPath::Here(pinned) = &facts.data_path {
        checks.push(config(pinned));
        checks.extend(uplink(facts, pinned));
        checks.extend(super::xdp::all(facts, pinned));
        checks.push(instances(facts, pinned));
        checks.push(headroom(facts, pinned));
        checks.push(one_build(facts));
        checks.push(pressure(pinned));
    }
    checks
}

fn net_manager(facts: &Facts) -> Check {
    const FEATURE: &str = "net manager";
    match facts.is_managed {
        Some(true) => check(FEATURE, Status::Ok, "runs", "", "it holds the lock of the pins"),
        Some(false) => check(
            FEATURE,
            Status::Warning,
            "does not run",
            "",
            "known flows and services go on; what is dialled for the first time is not answered",
        )
        .todo("start xylem-net-manager (`systemctl start xylem-net-manager`)"),
        None => {
            let why = "there is no folder of pins yet, or it may not be opened";
            check(FEATURE, Status::Warning, "unknown", "", why)
                .todo("start xylem-net-manager (`systemctl start xylem-net-manager`)")
        }
    }
}

fn config(pinned: &Pinned) -> Check {
    const FEATURE: &str = "configuration";
    let config = &pinned.config;
    let own = own_address(config).filter(|_| config.uplink_ifindex != 0);
    let Some(own) = own else {
        return check(
            FEATURE,
            Status::Missing,
            "empty",
            "nothing is sent",
            "the programs do not know their node",
        )
        .todo("start the net manager, which writes it");
    };
    let own = endpoint(own, config.tunnel_port);
    let masquerade = if config.masquerades() { "instances may talk outside" } else { "" };
    let watched = if config.features & features::OBSERVE != 0 { "events are told" } else { "" };
    let notes: Vec<_> = [masquerade, watched].into_iter().filter(|note| !note.is_empty()).collect();
    check(FEATURE, Status::Ok, own, notes.join(", "), "")
}

fn uplink(facts: &Facts, pinned: &Pinned) -> Vec<Check> {
    let link = match &pinned.uplink {
        Ok(link) => link,
        Err(error) if pinned.config.uplink_ifindex == 0 => {
            return vec![check("uplink", Status::Missing, "not configured", "", error)];
        }
        Err(error) => {
            return vec![
                check("uplink", Status::Missing, "not found", "", error)
                    .todo("run this in the net manager's network namespace, or name its --uplink"),
            ];
        }
    };
    let is_attached = facts.programs.iter().any(|program| program.name == "from_uplink");
    let what = format!("{}, {}", link.name, described(link));
    let program = if !is_attached {
        check("uplink", Status::Missing, what, "no program", "no link with from_uplink is pinned")
            .todo("restart the net manager, which attaches what is missing")
    } else if !link.is_up {
        check("uplink", Status::Missing, what, "down", "nothing goes through it")
            .todo(format!("`ip link set {} up`", link.name))
    } else {
        check("uplink", Status::Ok, what, "from_uplink", "TCX ingress")
    };
    vec![program, mtu(link, pinned)]
}

pub(super) fn described(link: &Link) -> String {
    match (&link.kind, &link.driver) {
        (Some(kind), _) => format!("a virtual interface ({kind})"),
        (None, Some(driver)) => format!("a network card ({driver})"),
        (None, None) => "a network card".to_owned(),
    }
}

fn mtu(link: &Link, pinned: &Pinned) -> Check {
    const OVERHEAD: u32 = net_common::limits::TUNNEL_OVERHEAD_V4;
    let instances = pinned.config.instance_mtu;
    let found = format!("uplink {}, instances {instances}", link.mtu);
    if instances + OVERHEAD <= link.mtu {
        let why = format!("the tunnel adds {OVERHEAD} bytes");
        return check("MTU", Status::Ok, found, "", why);
    }
    check(
        "MTU",
        Status::Warning,
        found,
        "larger packets are refused",
        format!("instances may send packets that do not fit with the tunnel's {OVERHEAD} bytes"),
    )
    .todo("restart the net manager and the instances after the uplink's MTU was lowered")
}

fn instances(facts: &Facts, pinned: &Pinned) -> Check {
    const FEATURE: &str = "instances";
    let has_program = |name: &String| {
        let of_instance = |program: &&net_maps::PinnedProgram| program.name == "from_instance";
        facts.programs.iter().filter(of_instance).any(|program| program.link == *name)
    };
    let gone = pinned.instances.iter().filter(|instance| instance.is_err()).count();
    let names = pinned.instances.iter().flatten().map(|port| &port.name);
    let bare: Vec<_> = names.filter(|name| !has_program(name)).cloned().collect();
    let found = format!("{} attached", pinned.instances.len());
    if !bare.is_empty() {
        let list = bare.join(", ");
        return check(FEATURE, Status::Missing, found, "", format!("no program is on {list}"))
            .todo("restart the net manager, which attaches what is missing");
    }
    if gone > 0 {
        let why = format!("{gone} interfaces are not in this network namespace");
        return check(FEATURE, Status::Warning, found, "", why)
            .todo("run this where the net manager runs; else restart it, which collects them");
    }
    check(FEATURE, Status::Ok, found, "from_instance", "TCX ingress of each one's interface")
}

/// Whether the interfaces have what the kernel can give them.
fn headroom(facts: &Facts, pinned: &Pinned) -> Check {
    const FEATURE: &str = "instances' headroom";
    let ports = || pinned.instances.iter().flatten();
    let without: Vec<_> = ports().filter(|p| !p.has_room).map(|p| p.name.as_str()).collect();
    let kernel = &facts.kernel;
    let can_be = kernel.bridge.is_there() && kernel.vxlan.is_there();
    let found = format!("{} of {}", ports().count() - without.len(), ports().count());
    if without.is_empty() {
        let why = "room for the tunnel's headers in front of packets";
        return check(FEATURE, Status::Ok, found, "used", why);
    }
    let why = format!("packets of {} to other nodes are copied", without.join(", "));
    if can_be {
        check(FEATURE, Status::Warning, found, "packets are copied", why)
            .todo("restart the net manager; a bridge has 1,023 ports at most")
    } else {
        check(FEATURE, Status::Off, found, "packets are copied", why)
    }
}

/// All programs of one name must be of one build; links are updated one by one.
fn one_build(facts: &Facts) -> Check {
    const FEATURE: &str = "programs";
    let of_instances: std::collections::BTreeSet<u64> = facts
        .programs
        .iter()
        .filter(|program| program.name == "from_instance")
        .map(|program| program.tag)
        .collect();
    let found = format!("{} pinned links", facts.programs.len());
    if of_instances.len() > 1 {
        return check(FEATURE, Status::Warning, found, "", "instances run programs of two builds")
            .todo("restart the net manager, which replaces them without a gap");
    }
    let tag = of_instances.first().map_or(String::new(), |tag| format!("build {tag:016x}"));
    check(FEATURE, Status::Ok, found, tag, "they go on while the net manager does not run")
}

/// Percent of a map from which it is spoken of.
const PRESSING: u64 = 80;

fn pressure(pinned: &Pinned) -> Check {
    const FEATURE: &str = "map pressure";
    let percent = |usage: &net_maps::MapUsage| {
        u64::from(usage.entries) * 100 / u64::from(usage.capacity.max(1))
    };
    // The oldest entry of this one makes room for the newest: full is usual.
    let counted = || pinned.usage.iter().filter(|usage| usage.name != "opening");
    let Some(fullest) = counted().max_by_key(|usage| percent(usage)) else {
        return check(FEATURE, Status::Off, "", "", "no map is counted");
    };
    let shown = |usage: &net_maps::MapUsage| {
        format!("{} {} of {}", usage.name, usage.entries, usage.capacity)
    };
    let pressing: Vec<_> =
        counted().filter(|usage| percent(usage) >= PRESSING).map(shown).collect();
    if pressing.is_empty() {
        return check(FEATURE, Status::Ok, shown(fullest), "", "the fullest map has room");
    }
    check(FEATURE, Status::Warning, pressing.join(", "), "", "new entries will be refused").todo(
        "give the net manager larger maps (--max-flows, --max-services, …) and purge, or \
               spread instances over more nodes",
    )
}

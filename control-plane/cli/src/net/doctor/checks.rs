//! What the facts mean: for every feature what was found, what was chosen, and why. Pure.

use net_common::config::features;
use net_probe::{Link, Support, XdpMode};
use serde::Serialize;

use super::facts::{DataPath, Facts, LAYOUT, Pinned};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Ok,
    /// Not there or not used, and that is well.
    Off,
    /// Something works worse than it could.
    Warning,
    /// The data path cannot work without.
    Missing,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Off => "off",
            Self::Warning => "warning",
            Self::Missing => "missing",
        }
    }
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) feature: &'static str,
    pub(super) status: Status,
    pub(super) found: String,
    /// What the data path does with it.
    pub(super) chosen: String,
    pub(super) why: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) todo: Option<String>,
}

fn check(
    feature: &'static str,
    status: Status,
    found: impl Into<String>,
    chosen: impl Into<String>,
    why: impl Into<String>,
) -> Check {
    let (found, chosen, why) = (found.into(), chosen.into(), why.into());
    Check { feature, status, found, chosen, why, todo: None }
}

impl Check {
    fn todo(self, todo: impl Into<String>) -> Self {
        Self { todo: Some(todo.into()), ..self }
    }

    /// With what to do unless all is well.
    fn todo_if_bad(self, todo: &str) -> Self {
        match self.status {
            Status::Ok | Status::Off => self,
            Status::Warning | Status::Missing => self.todo(todo),
        }
    }
}

/// Every check, those of the machine first.
pub(super) fn all(facts: &Facts) -> Vec<Check> {
    let mut checks = privileges(facts);
    checks.extend(kernel(facts));
    checks.extend(socket_path(facts));
    checks.extend(data_path(facts));
    checks
}

fn yes(support: &Support) -> String {
    match support {
        Support::Yes => "yes".to_owned(),
        Support::No => "no".to_owned(),
        Support::Unknown(why) => format!("cannot be tried: {why}"),
    }
}

fn privileges(facts: &Facts) -> Vec<Check> {
    let capability = |feature, has, why| {
        let status = if has { Status::Ok } else { Status::Missing };
        let (found, chosen) = if has { ("yes", "used") } else { ("no", "nothing works") };
        check(feature, status, found, chosen, why)
            .todo_if_bad("run as root, or give the service this capability (AmbientCapabilities)")
    };
    let bpffs = if facts.is_bpffs {
        check(
            "bpffs",
            Status::Ok,
            "mounted",
            "used",
            format!("pins are at {}", facts.root.display()),
        )
    } else {
        check("bpffs", Status::Warning, "not mounted", "mounted at start", "nothing is pinned yet")
            .todo("start the net manager, which mounts it, or `mount -t bpf bpf /sys/fs/bpf`")
    };
    let memlock = match facts.memlock {
        None => check("memlock limit", Status::Ok, "unlimited", "not needed", ""),
        Some(bytes) => {
            check("memlock limit", Status::Ok, format!("{bytes} bytes"), "not needed", "")
        }
    };
    vec![
        capability("CAP_BPF", facts.may_bpf, "programs and maps"),
        capability("CAP_NET_ADMIN", facts.may_net_admin, "interfaces, and programs on them"),
        bpffs,
        Check { why: "BPF memory is counted by control groups since 5.11".to_owned(), ..memlock },
    ]
}

fn kernel(facts: &Facts) -> Vec<Check> {
    let kernel = &facts.kernel;
    let required = |feature, support: &Support, why, release| {
        let status = if support.is_there() { Status::Ok } else { Status::Missing };
        let chosen = if support.is_there() { "used" } else { "nothing works" };
        check(feature, status, yes(support), chosen, why)
            .todo_if_bad(&format!("run a kernel of {release} or later with BPF configured"))
    };
    let wanted = |feature, support: &Support, without: &str, why, todo: &str| {
        let status = if support.is_there() { Status::Ok } else { Status::Warning };
        let chosen = if support.is_there() { "used" } else { without };
        check(feature, status, yes(support), chosen, why).todo_if_bad(todo)
    };
    let newer = "run a later kernel";
    let load =
        "load the kernel modules bridge and vxlan (`modprobe bridge vxlan`), or build them in";
    let room = match (&kernel.bridge, &kernel.vxlan) {
        (Support::Yes, other) | (other, Support::Yes) => other.clone(),
        (bridge, _) => bridge.clone(),
    };
    vec![
        check("kernel", Status::Ok, &kernel.release, "", "6.6 or later is needed, for TCX"),
        required("BTF", &kernel.btf, "layouts of maps are checked by their types", "5.10"),
        required("TCX links", &kernel.tcx, "programs are replaced without a gap", "6.6"),
        required(
            "bpf_redirect_peer",
            &kernel.redirect_peer,
            "into an instance's namespace without a queue between",
            "5.10",
        ),
        required("bpf_redirect_neigh", &kernel.redirect_neigh, "out of the uplink", "5.10"),
        required("ring buffer", &kernel.ring_buffer, "parked packets, events", "5.8"),
        wanted(
            "L4 checksum of IPv6",
            &kernel.l4_checksum_ipv6,
            "checksums finished in software",
            "checksums left to the network card stay right when IPv6 addresses change (BPF_F_IPV6)",
            newer,
        ),
        wanted(
            "batched map reads",
            &kernel.batch_lookup,
            "one entry a call",
            "full flow tables are swept and shown quickly",
            newer,
        ),
        wanted(
            "veth headroom",
            &room,
            "packets to other nodes are copied",
            "room in front of packets for the tunnel's headers, by a bridge with a VXLAN port",
            load,
        ),
        check(
            "rp_filter",
            Status::Off,
            "",
            "irrelevant",
            "packets do not pass the kernel's routing",
        ),
        check(
            "ip_forward",
            Status::Off,
            "",
            "irrelevant",
            "packets do not pass the kernel's routing",
        ),
    ]
}

/// The socket path between instances of one node is an option: nothing of it is required.
fn socket_path(facts: &Facts) -> Vec<Check> {
    let kernel = &facts.kernel;
    let there = if facts.is_socket_path_on { "used" } else { "not used" };
    let option = |feature, support: &Support, why| {
        let chosen = if support.is_there() { there } else { "not offered" };
        let status = if support.is_there() { Status::Ok } else { Status::Off };
        check(feature, status, yes(support), chosen, why)
    };
    let cgroup2 = match &facts.cgroup2 {
        Some(path) => check(
            "cgroup v2",
            Status::Ok,
            path.display().to_string(),
            there,
            "socket programs see the sockets of its groups",
        ),
        None => check(
            "cgroup v2",
            Status::Off,
            "not mounted",
            "not offered",
            "without it sockets of one node are not joined; packets take the usual way",
        ),
    };
    let socket_path = if facts.is_socket_path_on {
        check(
            "socket path",
            Status::Ok,
            "on",
            "used",
            "bytes between instances here skip the stack",
        )
    } else {
        let why = "an option: bytes between instances of one node go as packets; see --socket-path of \
                   xylem-net-manager";
        check("socket path", Status::Off, "off", "not used", why)
    };
    vec![
        socket_path,
        option("sock_ops programs", &kernel.sock_ops, "they see connections begin"),
        option("sk_msg programs", &kernel.sk_msg, "they see what is sent"),
        option("sockhash", &kernel.sock_hash, "sockets of one node that may be joined"),
        option(
            "bpf_get_netns_cookie",
            &kernel.netns_cookie,
            "a socket is an instance's only in the instance's own namespace",
        ),
        cgroup2,
    ]
}

fn data_path(facts: &Facts) -> Vec<Check> {
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
        checks.push(xdp(facts, pinned));
        checks.push(instances(facts, pinned));
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
    if config.uplink_ifindex == 0 || config.node_addr.is_unspecified() {
        return check(
            FEATURE,
            Status::Missing,
            "empty",
            "nothing is sent",
            "the programs do not know their node",
        )
        .todo("start the net manager, which writes it");
    }
    let port = u16::from_be(config.tunnel_port);
    let masquerade = if config.masquerades() { "instances may talk outside" } else { "" };
    let watched = if config.features & features::OBSERVE != 0 { "events are told" } else { "" };
    let notes: Vec<_> = [masquerade, watched].into_iter().filter(|note| !note.is_empty()).collect();
    check(FEATURE, Status::Ok, format!("{}:{port}", config.node_addr), notes.join(", "), "")
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

fn described(link: &Link) -> String {
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

fn xdp(facts: &Facts, pinned: &Pinned) -> Check {
    const FEATURE: &str = "XDP on the uplink";
    let ours = facts.programs.iter().any(|program| program.is_xdp);
    let Ok(link) = &pinned.uplink else {
        return check(FEATURE, Status::Off, "", "off", "the uplink is not there");
    };
    let found = described(link);
    let mode = link.xdp.map(|mode| match mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    });
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
        (None, _, Some(kind)) => check(
            FEATURE,
            Status::Off,
            found,
            "off",
            format!(
                "native XDP on a {kind} would cost large packets (GSO) and finished checksums, \
                 generic XDP more than it gives"
            ),
        ),
        (None, _, None) if facts.kernel.xdp.is_there() => check(
            FEATURE,
            Status::Off,
            found,
            "off",
            "the driver refused it or it is configured off; TCX does the same work, later",
        ),
        (None, _, None) => {
            check(FEATURE, Status::Off, found, "off", "this kernel has no XDP; TCX does the work")
        }
    }
}

fn instances(facts: &Facts, pinned: &Pinned) -> Check {
    const FEATURE: &str = "instances";
    let has_program = |name: &String| {
        let of_instance = |program: &&net_maps::PinnedProgram| program.name == "from_instance";
        facts.programs.iter().filter(of_instance).any(|program| program.link == *name)
    };
    let gone = pinned.instances.iter().filter(|instance| instance.is_err()).count();
    let names = || pinned.instances.iter().flatten();
    let bare: Vec<_> = names().filter(|name| !has_program(name)).cloned().collect();
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

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;

//! What the facts mean: for every feature what was found, what was chosen, and why. Pure.

use net_probe::Support;
use serde::Serialize;

use super::{data_path, facts::Facts};

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

pub(super) fn check(
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
    pub(super) fn todo(self, todo: impl Into<String>) -> Self {
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
    checks.extend(data_path::all(facts));
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
        let found = yes(support);
        match support {
            Support::Yes => check(feature, Status::Ok, found, "used", why),
            Support::No => check(feature, Status::Missing, found, "nothing works", why)
                .todo(format!("run a kernel of {release} or later with BPF configured")),
            Support::Unknown(_) => not_tried(feature, found, why),
        }
    };
    let wanted = |feature, support: &Support, without: &str, why, todo: &str| {
        let found = yes(support);
        match support {
            Support::Yes => check(feature, Status::Ok, found, "used", why),
            Support::No => check(feature, Status::Warning, found, without, why).todo(todo),
            Support::Unknown(_) => not_tried(feature, found, why),
        }
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
        required(
            "LRU hash maps",
            &kernel.lru_hash,
            "flows that are not established forget the oldest of them, so that no flood fills them",
            "4.10",
        ),
        wanted(
            "program test run",
            &kernel.test_run,
            "xylem net explain does not work",
            "the live program decides of a packet that is made up, and nothing is sent",
            newer,
        ),
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
        compiled(facts),
        run_time(facts),
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

/// It may well be there.
fn not_tried(feature: &'static str, found: String, why: &str) -> Check {
    check(feature, Status::Warning, found, "unknown", why).todo("run this as root")
}

/// Shown in the first network namespace only.
fn compiled(facts: &Facts) -> Check {
    const FEATURE: &str = "BPF JIT";
    let why = "programs are compiled to machine code (net.core.bpf_jit_enable)";
    match facts.compiles {
        Some(true) => check(FEATURE, Status::Ok, "on", "used", why),
        Some(false) => check(FEATURE, Status::Warning, "off", "programs are interpreted", why)
            .todo("`sysctl net.core.bpf_jit_enable=1`, and restart the net manager"),
        None => check(FEATURE, Status::Off, "cannot be read here", "unknown", why),
    }
}

/// An option: it costs some nanoseconds a run.
fn run_time(facts: &Facts) -> Check {
    const FEATURE: &str = "run time of programs";
    let why = "an option (`sysctl kernel.bpf_stats_enabled=1`) that costs some time a packet";
    match facts.counts_run_time {
        Some(true) => check(FEATURE, Status::Ok, "counted", "exported as a metric", why),
        Some(false) => check(FEATURE, Status::Off, "not counted", "not exported", why),
        None => check(FEATURE, Status::Off, "cannot be read", "not exported", why),
    }
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

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;

//! What the doctor says of some machines.

use std::net::{Ipv4Addr, Ipv6Addr};

use net_common::{Addr, Config};
use net_maps::{MapUsage, PinnedProgram};
use net_probe::{Kernel, Link, XdpFeatures, XdpMode};

use super::{
    super::facts::{DataPath, Pinned, Port},
    *,
};

fn kernel() -> Kernel {
    Kernel {
        release: "6.18.0".into(),
        btf: Support::Yes,
        tcx: Support::Yes,
        redirect_peer: Support::Yes,
        redirect_neigh: Support::Yes,
        ring_buffer: Support::Yes,
        lru_hash: Support::Yes,
        test_run: Support::Yes,
        l4_checksum_ipv6: Support::Yes,
        batch_lookup: Support::Yes,
        netns_cookie: Support::Yes,
        sock_hash: Support::Yes,
        sock_ops: Support::Yes,
        sk_msg: Support::Yes,
        xdp: Support::Yes,
        bridge: Support::Yes,
        vxlan: Support::Yes,
    }
}

fn program(link: &str, name: &str) -> PinnedProgram {
    PinnedProgram { link: link.into(), is_xdp: false, name: name.into(), tag: 7 }
}

fn port(name: &str) -> Port {
    Port { name: name.into(), has_room: true }
}

/// A machine on which all is well.
fn healthy() -> Facts {
    let uplink = Link {
        index: 3,
        name: "eth0".into(),
        mtu: 1_500,
        is_up: true,
        controller: None,
        kind: None,
        driver: Some("ice".into()),
        xdp: Some(XdpMode::Native),
        xdp_features: Ok(XdpFeatures::from_bits(0b111)),
    };
    let pinned = Pinned {
        config: Config {
            node_addr: Ipv4Addr::new(192, 0, 2, 1).into(),
            uplink_ifindex: 3,
            tunnel_port: 50_103_u16.to_be(),
            instance_mtu: 1_472,
            ..Config::default()
        },
        uplink: Ok(uplink),
        usage: vec![MapUsage { name: "flows", entries: 10, capacity: 100 }],
        instances: vec![Ok(port("xy1"))],
        others: Vec::new(),
    };
    let xdp = PinnedProgram { is_xdp: true, ..program("xdp3", "uplink_xdp") };
    Facts {
        kernel: kernel(),
        may_bpf: true,
        may_net_admin: true,
        is_bpffs: true,
        root: "/sys/fs/bpf/xylem".into(),
        cgroup2: Some("/sys/fs/cgroup".into()),
        memlock: None,
        data_path: DataPath::Here(Box::new(pinned)),
        is_managed: Some(true),
        compiles: Some(true),
        counts_run_time: Some(false),
        is_socket_path_on: false,
        programs: vec![program("uplink3", "from_uplink"), program("xy1", "from_instance"), xdp],
    }
}

fn pinned(facts: &mut Facts) -> &mut Pinned {
    match &mut facts.data_path {
        DataPath::Here(pinned) => pinned,
        other => panic!("{other:?}"),
    }
}

/// Those that are not well, with the status; each says what to do.
fn bad(facts: &Facts) -> Vec<(&'static str, Status)> {
    all(facts)
        .into_iter()
        .filter(|check| matches!(check.status, Status::Warning | Status::Missing))
        .map(|check| {
            assert!(check.todo.is_some(), "{check:?} does not say what to do");
            (check.feature, check.status)
        })
        .collect()
}

fn found(facts: &Facts, feature: &str) -> Check {
    all(facts).into_iter().find(|check| check.feature == feature).unwrap()
}

#[test]
fn nothing_is_to_be_done_about_a_healthy_machine() {
    assert_eq!(bad(&healthy()), []);
}

#[test]
fn what_the_kernel_lacks_is_missing_or_only_slower() {
    let lacking = |change: fn(&mut Kernel)| {
        let mut facts = healthy();
        change(&mut facts.kernel);
        bad(&facts)
    };
    assert_eq!(lacking(|k| k.tcx = Support::No), [("TCX links", Status::Missing)]);
    assert_eq!(
        lacking(|k| k.redirect_peer = Support::No),
        [("bpf_redirect_peer", Status::Missing)]
    );
    assert_eq!(
        lacking(|k| k.l4_checksum_ipv6 = Support::No),
        [("L4 checksum of IPv6", Status::Warning)]
    );
    assert_eq!(lacking(|k| k.vxlan = Support::No), [("veth headroom", Status::Warning)]);
    assert_eq!(lacking(|k| k.bridge = Support::No), [("veth headroom", Status::Warning)]);
    assert_eq!(lacking(|k| k.lru_hash = Support::No), [("LRU hash maps", Status::Missing)]);
    assert_eq!(lacking(|k| k.test_run = Support::No), [("program test run", Status::Warning)]);
    // An option that is not there is nothing to worry about.
    assert_eq!(lacking(|k| k.sk_msg = Support::No), []);
}

#[test]
fn without_privileges_that_is_what_is_said() {
    let mut facts = Facts { may_bpf: false, ..healthy() };
    assert_eq!(bad(&facts), [("CAP_BPF", Status::Missing)]);
    // What cannot be tried without them is not said to be missing.
    facts.kernel.tcx = Support::Unknown("not permitted".into());
    assert_eq!(bad(&facts)[1..], [("TCX links", Status::Warning)]);
    assert_eq!(found(&facts, "TCX links").chosen, "unknown");
}

#[test]
fn a_machine_before_its_first_start_has_warnings_only() {
    let facts = Facts {
        is_bpffs: false,
        data_path: DataPath::Absent,
        is_managed: None,
        programs: Vec::new(),
        ..healthy()
    };
    let warned = ["bpffs", "layout", "net manager"].map(|feature| (feature, Status::Warning));
    assert_eq!(bad(&facts), warned);
}

#[test]
fn another_layout_cannot_be_read() {
    let facts = Facts { data_path: DataPath::OtherLayout(1), ..healthy() };
    assert_eq!(bad(&facts), [("layout", Status::Missing)]);
}

#[test]
fn a_dead_net_manager_is_no_reason_to_fail() {
    let facts = Facts { is_managed: Some(false), ..healthy() };
    assert_eq!(bad(&facts), [("net manager", Status::Warning)]);
}

#[test]
fn an_interface_without_its_program_is_missing_one() {
    let mut facts = healthy();
    facts.programs.retain(|program| program.name != "from_uplink");
    assert_eq!(bad(&facts), [("uplink", Status::Missing)]);

    let mut facts = healthy();
    pinned(&mut facts).instances.push(Ok(port("xy2")));
    assert_eq!(bad(&facts), [("instances", Status::Missing)]);
    assert!(found(&facts, "instances").why.contains("xy2"));

    pinned(&mut facts).instances[1] = Err(99);
    assert_eq!(bad(&facts), [("instances", Status::Warning)]);
}

#[test]
fn xdp_is_off_on_a_veth_and_says_why() {
    let mut facts = healthy();
    facts.programs.retain(|program| !program.is_xdp);
    let Ok(uplink) = &mut pinned(&mut facts).uplink else { panic!("it is there") };
    (uplink.kind, uplink.driver, uplink.xdp) = (Some("veth".into()), Some("veth".into()), None);
    let xdp = found(&facts, "XDP on the uplink");
    assert_eq!((xdp.status, xdp.chosen.as_str()), (Status::Off, "off"));
    assert!(xdp.why.contains("veth") && xdp.why.contains("GSO"), "{xdp:?}");
    assert_eq!(bad(&facts), []);

    let healthy = healthy();
    assert_eq!(found(&healthy, "XDP on the uplink").chosen, "native");
}

#[test]
fn what_the_driver_says_of_xdp_is_found_and_weighed() {
    let mut facts = healthy();
    let of = |facts: &Facts| found(facts, "XDP in the driver");
    let driver = of(&facts);
    assert_eq!(driver.found, "ice: basic, redirect, ndo-xmit");
    assert_eq!((driver.status, driver.chosen.as_str()), (Status::Ok, "used"));

    // A card that could, on which the net manager was told not to.
    facts.programs.retain(|program| !program.is_xdp);
    pinned(&mut facts).uplink.as_mut().unwrap().xdp = None;
    assert_eq!((of(&facts).status, of(&facts).chosen.as_str()), (Status::Off, "not used"));
    assert!(of(&facts).why.contains("--uplink-xdp"), "{:?}", of(&facts));
    let xdp = found(&facts, "XDP on the uplink");
    assert!(xdp.why.contains("configured off"), "{xdp:?}");

    let uplink = pinned(&mut facts).uplink.as_mut().unwrap();
    uplink.xdp_features = Ok(XdpFeatures::default());
    assert_eq!(of(&facts).found, "ice: none");
    assert!(of(&facts).why.contains("the driver has no XDP"), "{:?}", of(&facts));
    assert!(found(&facts, "XDP on the uplink").why.contains("the driver has no XDP"));

    pinned(&mut facts).uplink.as_mut().unwrap().xdp_features = Err("before 6.3".into());
    assert_eq!((of(&facts).status, of(&facts).found.as_str()), (Status::Off, "ice: before 6.3"));
    assert_eq!(bad(&facts), []);
}

#[test]
fn an_interface_without_headroom_is_warned_of_where_it_could_have_it() {
    let mut facts = healthy();
    pinned(&mut facts).instances[0] = Ok(Port { has_room: false, ..port("xy1") });
    assert_eq!(bad(&facts), [("instances' headroom", Status::Warning)]);
    assert!(found(&facts, "instances' headroom").why.contains("xy1"));
    // That the kernel cannot is said once.
    facts.kernel.vxlan = Support::No;
    assert_eq!(bad(&facts), [("veth headroom", Status::Warning)]);
}

#[test]
fn interpreted_programs_are_warned_of() {
    let facts = Facts { compiles: Some(false), ..healthy() };
    assert_eq!(bad(&facts), [("BPF JIT", Status::Warning)]);
    // In another network namespace than the first it cannot be seen.
    assert_eq!(bad(&Facts { compiles: None, ..healthy() }), []);
}

#[test]
fn counted_run_time_is_an_option() {
    let mut facts = healthy();
    assert_eq!(found(&facts, "run time of programs").status, Status::Off);
    facts.counts_run_time = Some(true);
    assert_eq!(found(&facts, "run time of programs").status, Status::Ok);
}

#[test]
fn the_socket_path_is_an_option() {
    let mut facts = healthy();
    assert_eq!(found(&facts, "socket path").status, Status::Off);
    assert_eq!(found(&facts, "sockhash").chosen, "not used");
    facts.is_socket_path_on = true;
    assert_eq!(found(&facts, "socket path").status, Status::Ok);
    assert_eq!(found(&facts, "sockhash").chosen, "used");
    facts.kernel.sock_hash = Support::No;
    assert_eq!(found(&facts, "sockhash").chosen, "not offered");
}

#[test]
fn a_smaller_uplink_and_full_maps_are_warned_of() {
    let mut facts = healthy();
    let here = pinned(&mut facts);
    here.usage[0].entries = 80;
    here.usage.push(MapUsage { name: "opening", entries: 100, capacity: 100 });
    here.uplink.as_mut().unwrap().mtu = 1_499;
    let warned = ["MTU", "map pressure"].map(|feature| (feature, Status::Warning));
    assert_eq!(bad(&facts), warned);
    assert_eq!(found(&facts, "map pressure").found, "flows 80 of 100");
}

#[test]
fn an_unconfigured_data_path_sends_nothing() {
    let mut facts = healthy();
    let here = pinned(&mut facts);
    here.config = Config::default();
    here.uplink = Err("no interface with the index 0".into());
    let bad: Vec<_> = all(&facts)
        .into_iter()
        .filter(|check| check.status == Status::Missing)
        .map(|check| check.feature)
        .collect();
    assert_eq!(bad, ["configuration", "uplink"]);
}

#[test]
fn a_node_without_ipv4_is_configured_as_well() {
    let mut facts = healthy();
    let config = &mut pinned(&mut facts).config;
    config.node_addr = Addr::UNSPECIFIED;
    config.node_addr_v6 = Addr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    assert_eq!(bad(&facts), []);
    assert_eq!(found(&facts, "configuration").found, "[2001:db8::1]:50103");
}

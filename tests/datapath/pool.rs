//! Loaded programs, used by one test after the other: the verifier takes most of a second for them,
//! clearing their maps a thousandth.

use std::{
    fs::File,
    ops::{Deref, DerefMut},
    process::Command,
    sync::{Mutex, PoisonError},
};

use net_common::{
    Addr, Endpoint, Flow, FlowKey, FragmentKey, FragmentPorts, MissBudget, PeerKey, Published,
    PublishedKey, Service, Table,
};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{
    batch, counts,
    harness::{Datapath, VETHS, veth},
};

/// Entries of the maps of pooled programs: less than in production, so that all can be cleared.
/// The net manager sets the sizes as well.
pub const SIZES: [(&str, u32); 11] = [
    ("services", 512),
    ("tables", 512),
    ("chunks", 2_048),
    ("cursors", 64),
    ("instances", 64),
    ("nodes", 64),
    ("flows", 16_384),
    ("opening", 16_384),
    ("service_traffic", counts::MOST),
    ("instance_traffic", counts::MOST),
    ("names", 64),
];

static IDLE: Mutex<Vec<Datapath>> = Mutex::new(Vec::new());

/// Loaded programs whose maps are as when they were loaded; given back when dropped.
pub struct Leased(Option<Datapath>);

impl Leased {
    pub fn take() -> Self {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let datapath = match idle {
            Some(mut idle) => {
                setns(&idle.netns, CloneFlags::CLONE_NEWNET).expect("we made the namespace");
                clear(&mut idle);
                idle
            }
            None => Datapath::loaded(|loader| {
                SIZES.iter().fold(loader, |loader, (map, size)| loader.map_max_entries(map, *size))
            }),
        };
        let mut leased = Self(Some(datapath));
        leased.set_up();
        leased
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if let Some(datapath) = self.0.take() {
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(datapath);
        }
    }
}

impl Deref for Leased {
    type Target = Datapath;

    fn deref(&self) -> &Datapath {
        self.0.as_ref().expect("taken only when dropped")
    }
}

impl DerefMut for Leased {
    fn deref_mut(&mut self) -> &mut Datapath {
        self.0.as_mut().expect("taken only when dropped")
    }
}

/// Puts the calling thread into a namespace of its own with the interfaces of [`VETHS`] instances:
/// `BPF_PROG_TEST_RUN` looks for interfaces in the namespace of who calls it.
pub fn own_namespace() -> File {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (the suite needs root)");
    for id in (1..=VETHS).step_by(2) {
        let (left, right) = (veth(id).to_string(), veth(id + 1).to_string());
        let status = Command::new("ip")
            .args(["link", "add", &format!("veth{left}"), "index", &left, "type", "veth"])
            .args(["peer", "name", &format!("veth{right}"), "index", &right])
            .status()
            .expect("`ip` is installed by `cargo xtask setup`");
        assert!(status.success(), "no veth pair to be had");
    }
    File::open("/proc/thread-self/ns/net").expect("every thread has one")
}

/// Empties every map. What the programs keep for one packet only is filled with rubbish instead:
/// nothing may depend on what a packet before has left there.
pub fn clear(datapath: &mut Datapath) {
    for map in ["config", "explain", "drops", "program_counters"] {
        batch::fill(datapath.map(map), u32::MAX, 0);
    }
    for map in ["chunks", "cursors", "instances", "nodes", "service_traffic", "instance_traffic"] {
        batch::fill(datapath.map(map), u32::MAX, 0);
    }
    batch::fill(datapath.map("asked"), 1, 0);
    for map in ["scratch", "keys", "answer", "packet"] {
        batch::fill(datapath.map(map), 1, 0xa5);
    }
    batch::drain::<Addr, Service>(datapath.map("services"));
    batch::drain::<u32, Table>(datapath.map("tables"));
    batch::drain::<PeerKey, u32>(datapath.map("peers"));
    batch::drain::<Addr, Endpoint>(datapath.map("endpoints"));
    batch::drain::<PublishedKey, Published>(datapath.map("published"));
    batch::drain::<FlowKey, Flow>(datapath.map("flows"));
    batch::drain::<FlowKey, Flow>(datapath.map("opening"));
    batch::drain::<FragmentKey, FragmentPorts>(datapath.map("fragments"));
    batch::drain::<u32, MissBudget>(datapath.map("miss_budgets"));
    datapath.events();
    datapath.observations();
}

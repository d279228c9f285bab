//! What the maps mean, whatever ids, slots, chunks and namespace IPs it is written with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, Map, MapData};
use net_common::{Addr, Node, NodeState, Policy, Table, limits};
use net_manager::core::tables::is_present;
use net_maps::PinnedMaps;

use crate::{
    churn::{Churn, dial},
    scene::Scene,
    support::{Host, wait_for},
};

/// Without a change for so long, nothing is under way any more.
const REST: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(20);

/// One line for each entry of each map.
pub type Contents = Vec<String>;

/// Dials all that there is and waits until everything is known and nothing changes any more.
pub async fn at_rest(host: &Host, scene: &Scene, churn: &Churn) -> Contents {
    let manager = scene.here.net_manager();
    let all: Vec<_> = scene.addresses().into_iter().chain(churn.addresses()).collect();
    let local = churn.here() + 3;
    wait_for("everything to be known", || async {
        dial(&scene.dialler, all.clone()).await;
        let status = manager.status().await.map_err(|error| error.to_string())?;
        let maps = host.maps();
        let services = maps.services().unwrap();
        let missing = all.iter().filter(|address| {
            let listed = address.octets()[3] < 5 || is_listed(scene, address);
            listed && !services.iter().any(|(addr, _)| *addr == Addr::from(**address))
        });
        let missing: Vec<_> = missing.collect();
        let nodes = maps.nodes().unwrap();
        let down = nodes.iter().filter(|(_, node)| node.state == NodeState::Down as u32).count();
        if status.connected && status.instances == local && missing.is_empty() && down == 0 {
            Ok(())
        } else {
            Err(format!("{status:?}, {missing:?} not known, {down} nodes down"))
        }
    })
    .await;
    // The answers to questions that were asked before this.
    for name in churn.names() {
        let asked = scene.cluster.asked(&name);
        scene.cluster.announce_update(&name).await;
        wait_for("question", || async {
            if scene.cluster.asked(&name) > asked { Ok(()) } else { Err(name.clone()) }
        })
        .await;
    }
    let started = Instant::now();
    let (mut seen, mut since) = (contents(&host.maps()), Instant::now());
    while since.elapsed() < REST {
        assert!(started.elapsed() < PATIENCE, "it does not come to rest: {seen:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = contents(&host.maps());
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    seen
}

/// Whether an instance with this instance IP is somewhere.
fn is_listed(scene: &Scene, address: &std::net::Ipv4Addr) -> bool {
    let state = scene.cluster.state.lock().unwrap();
    state.services.values().any(|service| {
        let own = service.instance_ips.iter().find(|(_, ip)| *ip == address);
        own.is_some_and(|(number, _)| service.deployed.contains_key(number))
    })
}

/// # Panics
/// If two are not the same, with what only one of them has.
pub fn assert_same(left: &Contents, fresh: &Contents) {
    let only = |these: &Contents, those: &Contents| -> Contents {
        let mut those = those.clone();
        let mut only = these.clone();
        only.retain(|line| match those.iter().position(|other| other == line) {
            Some(index) => {
                those.remove(index);
                false
            }
            None => true,
        });
        only
    };
    assert!(
        left == fresh,
        "only after the kills: {:#?}\nonly from a fresh start: {:#?}",
        only(left, fresh),
        only(fresh, left)
    );
    eprintln!("{} entries are the same", fresh.len());
}

fn contents(maps: &PinnedMaps) -> Contents {
    let names: BTreeMap<u32, String> =
        maps.names().unwrap().into_iter().map(|(slot, name)| (slot, name.to_string())).collect();
    let nodes: BTreeMap<u32, Node> =
        maps.nodes().unwrap().into_iter().filter(|(_, node)| node.state != 0).collect();
    let instances: BTreeMap<u32, net_common::Instance> =
        maps.instances().unwrap().into_iter().filter(|(_, own)| is_present(own)).collect();
    let node = |id: u32| match nodes.get(&id) {
        _ if id == 0 => "this node".to_owned(),
        Some(node) => format!("{}:{}", node.addr, u16::from_be(node.port)),
        None => format!("unknown node {id}"),
    };
    let instance = |id: u32| match instances.get(&id) {
        Some(own) => format!("{} {}", name_of(&names, own.service), own.number),
        None => format!("absent instance {id}"),
    };

    let mut contents = Vec::new();
    for (addr, service) in maps.services().unwrap() {
        let policy = Policy::from_raw(service.policy).unwrap();
        let ids = maps.table(service.slot).unwrap();
        let mut counts = BTreeMap::<String, u32>::new();
        for id in ids {
            let count = counts.entry(instance(id)).or_default();
            // What the others weigh depends on what was measured.
            *count = if matches!(policy, Policy::RoundRobin | Policy::Affinity) {
                *count + 1
            } else {
                assert!(instances.contains_key(&id), "{addr} leads to an absent instance");
                1
            };
        }
        let to = match policy {
            Policy::Instance => instance(service.instance),
            Policy::Closest | Policy::Underutilized if counts.is_empty() => "nobody".into(),
            Policy::Closest | Policy::Underutilized => "somebody".into(),
            Policy::RoundRobin | Policy::Affinity => format!("{counts:?}"),
        };
        let name = name_of(&names, service.slot);
        contents.push(format!("service {addr}: {name}, {} to {to}", policy.name()));
    }
    for (id, own) in &instances {
        let at = if own.node == 0 { "an own one".into() } else { own.namespace_ip_v4.to_string() };
        contents.push(format!(
            "instance {}: {} on {}, namespace IP {at}, state {}",
            instance(*id),
            own.instance_ip_v4,
            node(own.node),
            own.state
        ));
    }
    for (id, own) in &nodes {
        let Node { state, kind, subnet_net_v4, subnet_mask_v4, .. } = own;
        let subnet = (subnet_net_v4, subnet_mask_v4);
        contents.push(format!("node {}: state {state}, kind {kind}, {subnet:?}", node(*id)));
    }
    for (peer, id) in maps.peers().unwrap() {
        contents.push(format!("peer {}:{}: {}", peer.addr, u16::from_be(peer.port), node(id)));
    }
    for (addr, endpoint) in maps.endpoints().unwrap() {
        let which = match addr {
            addr if addr != endpoint.namespace_ip => addr.to_string(),
            addr if addr.is_v4() => "its IPv4 namespace IP".into(),
            _ => "its IPv6 namespace IP".into(),
        };
        contents.push(format!("endpoint of {}: {which}", instance(endpoint.instance)));
    }
    for (key, to) in maps.published().unwrap() {
        let (port, at) = (u16::from_be(key.port), u16::from_be(to.port));
        contents.push(format!(
            "published {port}, protocol {}: {} port {at}",
            key.proto,
            instance(to.instance)
        ));
    }
    for name in names.values() {
        contents.push(format!("slot of {name}"));
    }
    contents.sort();
    contents
}

fn name_of(names: &BTreeMap<u32, String>, slot: u32) -> String {
    names.get(&slot).cloned().unwrap_or_else(|| format!("nobody's slot {slot}"))
}

/// Whatever an entry refers to is there, and nothing is there to which none refers.
pub async fn assert_nothing_leaked(host: &Host) {
    let maps = host.maps();
    let instances: BTreeMap<_, _> = maps.instances().unwrap().into_iter().collect();
    let own = |id: u32, generation: u32| {
        let instance = instances.get(&id);
        instance.is_some_and(|i| is_present(i) && i.node == 0 && i.generation == generation)
    };
    let endpoints = maps.endpoints().unwrap();
    for (addr, endpoint) in &endpoints {
        assert!(own(endpoint.instance, endpoint.generation), "{addr}: {endpoint:?}");
    }
    for (port, to) in maps.published().unwrap() {
        assert!(own(to.instance, to.generation), "{port:?}: {to:?}");
        assert!(endpoints.iter().any(|(addr, _)| *addr == to.namespace_ip_v4), "{to:?}");
    }

    // Interfaces and links are those of the instances.
    let links = host.netlink.links().await.unwrap();
    let of_instances: BTreeSet<String> = endpoints
        .iter()
        .map(|(_, endpoint)| {
            let link = links.iter().find(|link| link.index == endpoint.ifindex);
            link.unwrap_or_else(|| panic!("no interface of {endpoint:?}")).name.clone()
        })
        .collect();
    let is_ours = |name: &&String| {
        name.starts_with("xy") && !["xyp", "xyh"].iter().any(|own| name.starts_with(own))
    };
    let names: BTreeSet<String> = links.iter().map(|link| link.name.clone()).collect();
    assert_eq!(names.iter().filter(is_ours).cloned().collect::<BTreeSet<_>>(), of_instances);
    let pins: BTreeSet<String> = host.links().into_iter().collect();
    assert_eq!(pins.iter().filter(is_ours).cloned().collect::<BTreeSet<_>>(), of_instances);
    let others: Vec<_> = pins.difference(&of_instances).collect();
    assert_eq!(others.len(), 2, "of the uplink and of what was parked: {others:?}");

    assert_tables_are_apart(host, &maps);
}

/// Each lookup table is of a slot that is somebody's, and no two have a chunk in common.
fn assert_tables_are_apart(host: &Host, maps: &PinnedMaps) {
    let path = net_maps::layout_dir(&host.bpffs()).join("tables");
    let map = Map::from_map_data(MapData::from_pin(&path).unwrap()).unwrap();
    let tables: HashMap<MapData, u32, Table> = map.try_into().unwrap();
    let named: BTreeSet<u32> = maps.names().unwrap().into_iter().map(|(slot, _)| slot).collect();
    let mut chunks = BTreeSet::new();
    let mut count = 0;
    for entry in tables.iter() {
        let (slot, table) = entry.unwrap();
        assert!(named.contains(&slot), "{table:?} of slot {slot}, which is nobody's");
        for chunk in table.first..table.first + table.len.div_ceil(limits::CHUNK_IDS) {
            assert!(chunks.insert(chunk), "chunk {chunk} of slot {slot} is another's as well");
        }
        count += 1;
    }
    let usage = maps.usage().unwrap();
    let used = usage.iter().find(|usage| usage.name == "chunks").unwrap().entries;
    assert_eq!(used as usize, chunks.len());
    assert!(count > 0 && fs::exists(&path).unwrap());
}

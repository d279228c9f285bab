//! kube-proxy's way with nftables: one verdict map from service IP, protocol and port to the
//! chain of the service, which chooses an endpoint by chance.
//!
//! The table is the one that kube-proxy writes, less what is empty here (node ports, firewalls).

use std::{fmt::Write, time::Duration};

use anyhow::Result;

use crate::{
    contender::Contender,
    hosts::{CLIENTS_AND_SERVERS, Hosts},
    kube::{self, ENDPOINTS, ServicePort},
    measure::Path,
    metric::Place,
    tool::{LEAVE_OUT, Tool},
};

const NFT: Tool = Tool { program: "nft", package: "nftables", otherwise: LEAVE_OUT };

/// Services written by one transaction, whose time rises with their square: 10,000 in one take a
/// minute.
const BATCH: u32 = 1000;

#[derive(Debug)]
pub(crate) struct Nftables {
    hosts: Hosts,
    fillers: u32,
}

impl Nftables {
    /// On hosts, however they reach each other.
    pub(crate) fn start(hosts: impl FnOnce() -> Result<Hosts>) -> Result<Self> {
        NFT.find()?;
        let this = Self { hosts: hosts()?, fillers: 0 };
        this.apply(&ruleset(&kube::measured()))?;
        Ok(this)
    }

    fn apply(&self, text: &str) -> Result<()> {
        NFT.run(self.hosts.first(), &["-f", "-"], text)
    }
}

impl Contender for Nftables {
    fn path(&self, place: Place) -> Path<'_> {
        self.hosts.path_to(kube::service_ip(place))
    }

    fn fill(&mut self, count: u32) -> Result<()> {
        if count < self.fillers {
            self.apply(&ruleset(&kube::measured()))?;
            self.fillers = 0;
        }
        // Of a map, it does not matter in which order things are in it.
        for first in (self.fillers..count).step_by(BATCH as usize) {
            let batch = first..count.min(first + BATCH);
            self.apply(&batch.map(|index| addition(&kube::filler(index))).collect::<String>())?;
        }
        self.fillers = count;
        Ok(())
    }

    fn time_adding(&mut self) -> Result<Option<Duration>> {
        kube::time_adding(self.fillers, (addition, removal), |text| self.apply(text))
    }
}

/// Everything, in place of what was there.
fn ruleset(services: &[ServicePort]) -> String {
    let mut text = String::from(
        "flush ruleset
table ip kube-proxy {
  map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
  set cluster-ips { type ipv4_addr; }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain masquerading {
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
  chain cluster-ips-check { ip daddr @cluster-ips reject; }
  chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerading; }
  chain filter-forward {
    type filter hook forward priority -110
    ct state new jump cluster-ips-check
  }
  chain filter-output {
    type filter hook output priority -110
    ct state new jump cluster-ips-check
  }
}
",
    );
    for service in services {
        text += &addition(service);
    }
    text
}

/// One service to what is there.
fn addition(service: &ServicePort) -> String {
    let ServicePort { id, service_ip, protocol, port, endpoint } = service;
    let mut text = String::new();
    for chain in endpoints(service) {
        let _ = writeln!(
            text,
            "add chain ip kube-proxy {chain}\n\
             add rule ip kube-proxy {chain} ip saddr {endpoint} jump mark-for-masquerade\n\
             add rule ip kube-proxy {chain} meta l4proto {protocol} dnat to {endpoint}:{port}"
        );
    }
    let choice: Vec<_> = endpoints(service)
        .enumerate()
        .map(|(number, chain)| format!("{number} : goto {chain}"))
        .collect();
    let _ = writeln!(
        text,
        "add chain ip kube-proxy service-{id}\n\
         add rule ip kube-proxy service-{id} ip daddr {service_ip} {protocol} dport {port} \
         ip saddr != {CLIENTS_AND_SERVERS} jump mark-for-masquerade\n\
         add rule ip kube-proxy service-{id} numgen random mod {ENDPOINTS} vmap {{ {} }}\n\
         add element ip kube-proxy cluster-ips {{ {service_ip} }}\n\
         add element ip kube-proxy service-ips {{ {} : goto service-{id} }}",
        choice.join(", "),
        key(service),
    );
    text
}

fn removal(service: &ServicePort) -> String {
    let ServicePort { id, service_ip, .. } = service;
    let mut text = format!(
        "delete element ip kube-proxy service-ips {{ {} }}\n\
         delete element ip kube-proxy cluster-ips {{ {service_ip} }}\n\
         flush chain ip kube-proxy service-{id}\n\
         delete chain ip kube-proxy service-{id}\n",
        key(service)
    );
    for chain in endpoints(service) {
        let _ =
            writeln!(text, "flush chain ip kube-proxy {chain}\ndelete chain ip kube-proxy {chain}");
    }
    text
}

fn key(service: &ServicePort) -> String {
    format!("{} . {} . {}", service.service_ip, service.protocol, service.port)
}

fn endpoints(service: &ServicePort) -> impl Iterator<Item = String> {
    (0..ENDPOINTS).map(|number| format!("endpoint-{}-{number}", service.id))
}

//! kube-proxy's way with iptables: a chain for each service that chooses an endpoint by chance,
//! a chain for each endpoint that translates to it, and one list of rules, by service IP, that
//! every new connection goes through.
//!
//! The rules are those that kube-proxy writes. `iptables-restore` is what the distribution has
//! installed under this name, on most the front end to nftables.

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

const RESTORE: Tool =
    Tool { program: "iptables-restore", package: "iptables", otherwise: LEAVE_OUT };

#[derive(Debug)]
pub(crate) struct Iptables {
    hosts: Hosts,
    fillers: u32,
}

impl Iptables {
    pub(crate) fn start(prefix: &str) -> Result<Self> {
        RESTORE.find()?;
        let mut this = Self { hosts: Hosts::routed(prefix)?, fillers: 0 };
        this.fill(0)?;
        Ok(this)
    }
}

impl Contender for Iptables {
    fn path(&self, place: Place) -> Path<'_> {
        self.hosts.path_to(kube::service_ip(place))
    }

    fn fill(&mut self, count: u32) -> Result<()> {
        RESTORE.run(self.hosts.first(), &[], &ruleset(&kube::all(count)))?;
        self.fillers = count;
        Ok(())
    }

    fn time_adding(&mut self) -> Result<Option<Duration>> {
        let host = self.hosts.first();
        kube::time_adding(self.fillers, (addition, removal), |text| {
            RESTORE.run(host, &["--noflush"], text)
        })
    }
}

/// Everything, in place of what was there.
fn ruleset(services: &[ServicePort]) -> String {
    let mut text = String::from(
        "*filter\n\
         :KUBE-FORWARD - [0:0]\n\
         -A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
         -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding rules\" \
         -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
         -A KUBE-FORWARD -m comment --comment \"kubernetes forwarding conntrack rule\" \
         -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
         COMMIT\n\
         *nat\n\
         :KUBE-SERVICES - [0:0]\n\
         :KUBE-POSTROUTING - [0:0]\n\
         :KUBE-MARK-MASQ - [0:0]\n",
    );
    for service in services {
        text += &chains(service);
    }
    text += "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" \
             -j KUBE-POSTROUTING\n\
             -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
             -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring \
             SNAT\" -j MASQUERADE --random-fully\n";
    for service in services {
        text += &rules(service);
    }
    text + "COMMIT\n"
}

/// One service to what is there. kube-proxy writes the list of all services anew; that this does
/// not is to its favour.
fn addition(service: &ServicePort) -> String {
    format!("*nat\n{}{}COMMIT\n", chains(service), rules(service))
}

fn removal(service: &ServicePort) -> String {
    let mut text = format!("*nat\n-D KUBE-SERVICES {}\n", entry(service));
    // A chain goes when nothing is in it and nothing leads to it.
    let _ = writeln!(text, "-F KUBE-SVC-{}", service.id);
    for endpoint in endpoints(service) {
        let _ = writeln!(text, "-F {endpoint}\n-X {endpoint}");
    }
    let _ = writeln!(text, "-X KUBE-SVC-{}\nCOMMIT", service.id);
    text
}

fn endpoints(service: &ServicePort) -> impl Iterator<Item = String> {
    (0..ENDPOINTS).map(|number| format!("KUBE-SEP-{}-{number}", service.id))
}

fn chains(service: &ServicePort) -> String {
    let declare = |chain: &str| format!(":{chain} - [0:0]\n");
    let mut text = declare(&format!("KUBE-SVC-{}", service.id));
    text.extend(endpoints(service).map(|chain| declare(&chain)));
    text
}

/// Its rule in the list of all services.
fn entry(service: &ServicePort) -> String {
    let ServicePort { id, service_ip, protocol, port, .. } = service;
    format!(
        "-d {service_ip}/32 -p {protocol} -m comment --comment \"bench/{id} cluster IP\" \
         -m {protocol} --dport {port} -j KUBE-SVC-{id}"
    )
}

fn rules(service: &ServicePort) -> String {
    let ServicePort { id, service_ip, protocol, port, endpoint } = service;
    let mut text = format!(
        "-A KUBE-SERVICES {}\n\
         -A KUBE-SVC-{id} ! -s {CLIENTS_AND_SERVERS} -d {service_ip}/32 -p {protocol} \
         -m comment --comment \"bench/{id} cluster IP\" -m {protocol} --dport {port} \
         -j KUBE-MARK-MASQ\n",
        entry(service)
    );
    for (number, chain) in endpoints(service).enumerate() {
        let left = ENDPOINTS - number;
        let by_chance = if left > 1 {
            format!(" -m statistic --mode random --probability {:.11}", 1.0 / left as f64)
        } else {
            String::new()
        };
        text += &format!(
            "-A KUBE-SVC-{id} -m comment --comment \"bench/{id} -> {endpoint}:{port}\"{by_chance} \
             -j {chain}\n\
             -A {chain} -s {endpoint}/32 -m comment --comment bench/{id} -j KUBE-MARK-MASQ\n\
             -A {chain} -p {protocol} -m comment --comment bench/{id} -m {protocol} \
             -j DNAT --to-destination {endpoint}:{port}\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_endpoint_is_as_likely() {
        let text = rules(&kube::filler(0));
        let chances: Vec<_> = text
            .lines()
            .filter(|line| line.contains(" -> "))
            .map(|line| line.split_once("--probability ").map(|(_, rest)| &rest[..5]))
            .collect();
        assert_eq!(chances, [Some("0.500"), None]);
    }

    #[test]
    fn a_removal_leaves_no_chain_of_the_addition() {
        let service = kube::filler(31_999);
        let added: BTreeSet<_> = chains(&service)
            .lines()
            .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
            .map(str::to_owned)
            .collect();
        let removal = removal(&service);
        let removed: BTreeSet<_> = removal
            .lines()
            .filter_map(|line| line.strip_prefix("-X "))
            .map(str::to_owned)
            .collect();
        assert_eq!(added, removed);
        // The kernel's limit.
        assert!(added.iter().all(|chain| chain.len() < 29), "{added:?}");
    }
}

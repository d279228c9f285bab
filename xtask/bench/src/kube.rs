//! The services of the sides that work as kube-proxy does: addresses, ports, and who is behind.

use std::{
    fmt,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::Result;
use xylem_tests::load::{CONNECT_PORT, COUNT_PORT, ECHO_PORT, SINK_PORT};

use crate::{
    hosts::{FAR, NEAR},
    metric::Place,
};

/// Endpoints of each service. They are all the same server: a service that has but one would be
/// spared the choice between them.
pub(crate) const ENDPOINTS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One port of a service: what kube-proxy makes a set of rules for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// Upper case letters and digits, as in kube-proxy's chains.
    pub(crate) id: String,
    pub(crate) service_ip: Ipv4Addr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) endpoint: Ipv4Addr,
}

/// What a client dials.
pub(crate) fn service_ip(place: Place) -> Ipv4Addr {
    match place {
        Place::Same => Ipv4Addr::new(10, 96, 0, 1),
        Place::Cross => Ipv4Addr::new(10, 96, 0, 2),
    }
}

/// The services that are measured.
pub(crate) fn measured() -> Vec<ServicePort> {
    const PORTS: [(Protocol, u16); 5] = [
        (Protocol::Tcp, SINK_PORT),
        (Protocol::Tcp, ECHO_PORT),
        (Protocol::Tcp, CONNECT_PORT),
        (Protocol::Tcp, COUNT_PORT),
        (Protocol::Udp, COUNT_PORT),
    ];
    let services = [("NEAR", Place::Same, NEAR), ("FAR", Place::Cross, FAR)];
    let port = |(name, place, endpoint): (&str, Place, Ipv4Addr)| {
        PORTS.map(|(protocol, port)| ServicePort {
            id: format!("{name}{}{port}", protocol.to_string().to_uppercase()),
            service_ip: service_ip(place),
            protocol,
            port,
            endpoint,
        })
    };
    services.into_iter().flat_map(port).collect()
}

/// One of the services beside those; nobody dials it, and nobody is behind it.
pub(crate) fn filler(index: u32) -> ServicePort {
    let within = |network: [u8; 4]| Ipv4Addr::from_bits(u32::from_be_bytes(network) + index);
    ServicePort {
        id: format!("FILLER{index}"),
        service_ip: within([10, 128, 0, 0]),
        protocol: Protocol::Tcp,
        port: 80,
        endpoint: within([10, 144, 0, 0]),
    }
}

/// The measured services with `fillers` others around them, since on average a service has as
/// many before it as after it.
pub(crate) fn all(fillers: u32) -> Vec<ServicePort> {
    let middle = fillers / 2;
    let before = (0..middle).map(filler);
    let after = (middle..fillers).map(filler);
    before.chain(measured()).chain(after).collect()
}

/// The rules of one service, as text for a tool.
pub(crate) type Rules = fn(&ServicePort) -> String;

/// How long it takes to `apply` the addition of one more service than so many, which is removed
/// again.
pub(crate) fn time_adding(
    fillers: u32,
    (addition, removal): (Rules, Rules),
    apply: impl Fn(&str) -> Result<()>,
) -> Result<Option<Duration>> {
    let one_more = filler(fillers);
    let added = addition(&one_more);
    let start = Instant::now();
    apply(&added)?;
    let time = start.elapsed();
    apply(&removal(&one_more))?;
    Ok(Some(time))
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeSet};

    use super::*;

    #[test]
    fn as_many_services_come_before_the_measured_as_after_them() {
        let services = all(10);
        let middle = measured().len();
        assert_eq!(services[5..5 + middle], measured());
        assert_eq!(services.len(), 10 + middle);
        let places: BTreeSet<_> =
            services.iter().map(|s| (s.service_ip, s.protocol.to_string(), s.port)).collect();
        assert_eq!(places.len(), services.len(), "each is another");
    }

    #[test]
    fn what_is_added_is_removed_again() {
        let (addition, removal): (Rules, Rules) =
            (|service| format!("add {}", service.id), |service| format!("remove {}", service.id));
        let applied = RefCell::new(Vec::new());
        let apply = |text: &str| {
            applied.borrow_mut().push(text.to_owned());
            Ok(())
        };
        assert!(time_adding(10, (addition, removal), apply).unwrap().is_some());
        assert_eq!(applied.into_inner(), ["add FILLER10", "remove FILLER10"]);
    }

    #[test]
    fn one_more_is_not_there_yet() {
        assert!(!all(10).contains(&filler(10)));
    }
}

//! Who sends and what is dialled, from how people name them.

use std::net::{IpAddr, SocketAddr};

use anyhow::bail;
use net_common::{Addr, Endpoint, InstanceState, Policy};

use super::{
    super::{
        flow_filter::is_name_of,
        snapshot::{KnownInstance, Snapshot},
    },
    Proto,
};
use crate::failure::Usage;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) ip: IpAddr,
    /// 0 for ICMP.
    pub(super) port: u16,
}

impl Destination {
    /// # Errors
    /// It is no address and no service that this node knows, or lacks its port.
    pub(super) fn parse(snapshot: &Snapshot, text: &str, proto: Proto) -> anyhow::Result<Self> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self { ip: socket.ip(), port: socket.port() });
        }
        let needs_port = proto != Proto::Icmp;
        let without_port = || Usage(format!("{text:?} has no port: name it as in {text}:80"));
        if let Ok(ip) = text.parse() {
            return if needs_port { Err(without_port().into()) } else { Ok(Self { ip, port: 0 }) };
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => match port.parse() {
                Ok(port) => (name, port),
                Err(_) => return Err(Usage(format!("{port:?} is no port")).into()),
            },
            None if needs_port => return Err(without_port().into()),
            None => (text, 0),
        };
        Ok(Self { ip: service_ip(snapshot, name)?, port })
    }
}

/// The address of a service that balances, IPv4 and round robin first.
fn service_ip(snapshot: &Snapshot, name: &str) -> anyhow::Result<IpAddr> {
    let mut addresses: Vec<_> = snapshot
        .services
        .iter()
        .filter(|(_, service)| service.policy != Policy::Instance as u32)
        .filter(|(_, service)| is_name_of(snapshot.name(service.slot), name))
        .map(|(address, service)| (!address.is_v4(), service.policy, *address))
        .collect();
    addresses.sort_unstable();
    match addresses.first() {
        Some((_, _, address)) => Ok(address.to_ip()),
        None => bail!(
            "this node knows no address of a service {name:?}: `xylem net services` shows those \
             that were dialled here; name its IP"
        ),
    }
}

/// The instance of this node that `text` means, with its namespace IP of the family of `like`.
///
/// # Errors
/// There is none, or several.
pub(super) fn sender(snapshot: &Snapshot, text: &str, like: IpAddr) -> anyhow::Result<Endpoint> {
    let local = || snapshot.endpoints.iter().map(|(_, endpoint)| endpoint);
    if let Ok(ip) = text.parse::<IpAddr>() {
        let ip = Addr::from(ip);
        if ip.is_v4() != like.is_ipv4() {
            return Err(Usage(format!("{text} and {like} are of two families")).into());
        }
        let found = local().find(|endpoint| endpoint.namespace_ip == ip);
        let Some(endpoint) = found.or(local().find(|endpoint| endpoint.instance_ip == ip)) else {
            bail!("no instance of this node has {text}: `xylem net endpoints` shows them");
        };
        return Ok(*endpoint);
    }
    let id = local_instance(snapshot, text)?;
    let of_family = |endpoint: &&Endpoint| {
        endpoint.instance == id && endpoint.namespace_ip.is_v4() == like.is_ipv4()
    };
    match local().find(of_family) {
        Some(endpoint) => Ok(*endpoint),
        None => bail!("{text} has no address of the family of {like}"),
    }
}

/// `service`, `service.3`, or either with the full name.
fn local_instance(snapshot: &Snapshot, text: &str) -> anyhow::Result<u32> {
    let numbered = text.rsplit_once('.').and_then(|(name, number)| {
        Some((name.strip_suffix(".instance").unwrap_or(name), number.parse::<u32>().ok()?))
    });
    let is_meant = |known: &KnownInstance| {
        let name = snapshot.name(known.entry.service);
        let is_numbered = numbered
            .is_some_and(|(of, number)| number == known.entry.number && is_name_of(name, of));
        is_numbered || is_name_of(name, text)
    };
    let here: Vec<_> = snapshot
        .instances
        .iter()
        .filter(|(_, known)| known.entry.node == 0)
        .filter(|(_, known)| known.entry.state != InstanceState::Absent as u32)
        .filter(|(_, known)| is_meant(known))
        .map(|(id, _)| *id)
        .collect();
    match here[..] {
        [id] => Ok(id),
        [] => bail!("no instance {text:?} on this node: `xylem net endpoints` shows those here"),
        _ => {
            let names: Vec<_> = here.iter().map(|id| snapshot.instance_name(*id)).collect();
            bail!("{text:?} means several instances: {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::tests::{WEB_0_NS, WEB_0_VETH, WEB_IP, ip, snapshot},
        *,
    };

    #[test]
    fn a_sender_is_found_by_name_number_and_address() {
        let snapshot = snapshot();
        let like = IpAddr::from(WEB_IP);
        for text in ["web", "web.0", "shop.prod.web.front", "shop.prod.web.front.0", "10.18.0.3"] {
            let sender = sender(&snapshot, text, like).unwrap();
            assert_eq!((sender.ifindex, sender.namespace_ip), (WEB_0_VETH, ip(WEB_0_NS)), "{text}");
        }
        for text in ["web.1", "db", "10.18.0.66"] {
            let error = sender(&snapshot, text, like).unwrap_err().to_string();
            assert!(error.contains("xylem net endpoints"), "{text}: {error}");
        }
        assert!(sender(&snapshot, "web", "fdff:2000::1".parse().unwrap()).is_err());
    }

    #[test]
    fn a_destination_is_an_address_or_a_service() {
        let snapshot = snapshot();
        let parse = |text, proto| Destination::parse(&snapshot, text, proto);
        let web = Destination { ip: WEB_IP.into(), port: 80 };
        assert_eq!(parse("10.30.0.1:80", Proto::Tcp).unwrap(), web);
        assert_eq!(parse("web:80", Proto::Udp).unwrap(), web);
        let ping = Destination { port: 0, ..web };
        assert_eq!(parse("web", Proto::Icmp).unwrap(), ping);
        assert_eq!(parse("10.30.0.1", Proto::Icmp).unwrap(), ping);
        assert_eq!(parse("[fdff:2000::1]:80", Proto::Tcp).unwrap().port, 80);
        assert!(parse("10.30.0.1", Proto::Tcp).unwrap_err().is::<Usage>());
        assert!(parse("web:http", Proto::Tcp).unwrap_err().is::<Usage>());
        assert!(parse("db:80", Proto::Tcp).unwrap_err().to_string().contains("xylem net services"));
    }
}

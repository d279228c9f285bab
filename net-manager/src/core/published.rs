//! Ports of the node that lead to its instances, as the map `published` holds them.

use net_common::{Instance, Published, PublishedKey};
use xylem_types::port::{InvalidPorts, NodePort, PortMapping, Protocol};

use super::tables::InstanceId;

const TCP: u16 = 6;
const UDP: u16 = 17;

/// Why an instance cannot have the ports that it wants. Each names the port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsRefused {
    #[error(transparent)]
    Invalid(#[from] InvalidPorts),
    #[error("port {port} of this node is the tunnel between nodes")]
    Tunnel { port: NodePort },
    #[error("port {port} of this node is published for instance {number} of {name}")]
    Taken { port: NodePort, name: String, number: u32 },
    #[error("port {port} of this node is used by a process of the node")]
    InUse { port: NodePort },
    #[error("port {port} of this node cannot be had: {reason}")]
    Refused { port: NodePort, reason: String },
}

/// The map key of a port.
pub fn key(port: NodePort) -> PublishedKey {
    let proto = match port.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
    };
    PublishedKey { port: port.port.to_be(), proto }
}

/// The port of a map key; none, if nobody can publish it.
pub fn node_port(key: PublishedKey) -> Option<NodePort> {
    let protocol = match key.proto {
        TCP => Protocol::Tcp,
        UDP => Protocol::Udp,
        _ => return None,
    };
    Some(NodePort { port: u16::from_be(key.port), protocol })
}

/// What the map says of a port that leads to `port` of this instance, behind this interface.
pub fn entry(id: InstanceId, instance: &Instance, ifindex: u32, port: u16) -> Published {
    Published {
        namespace_ip_v4: instance.namespace_ip_v4,
        namespace_ip_v6: instance.namespace_ip_v6,
        ifindex,
        instance: id,
        generation: instance.generation,
        port: port.to_be(),
        _pad: 0,
    }
}

/// Whether one of the ports is the node's own tunnel.
///
/// # Errors
/// It is.
pub fn check_tunnel(ports: &[PortMapping], tunnel_port: u16) -> Result<(), PortsRefused> {
    let tunnel = NodePort { port: tunnel_port, protocol: Protocol::Udp };
    if ports.iter().any(|mapping| mapping.node == tunnel) {
        return Err(PortsRefused::Tunnel { port: tunnel });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_comes_back_from_its_map_key() {
        for text in ["53/udp", "8080/tcp"] {
            let port = NodePort::try_from(text.to_owned()).unwrap();
            assert_eq!(node_port(key(port)), Some(port));
        }
        assert_eq!(node_port(PublishedKey { port: 80, proto: 132 }), None);
    }

    #[test]
    fn the_tunnel_is_not_published() {
        let ports = xylem_types::port::published("50103/tcp;50103:80/udp").unwrap();
        let refused = check_tunnel(&ports, 50103).unwrap_err().to_string();
        assert_eq!(refused, "port 50103/udp of this node is the tunnel between nodes");
        assert_eq!(check_tunnel(&ports, 50104), Ok(()));
    }
}

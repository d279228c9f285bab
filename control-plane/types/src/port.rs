//! Ports that a service publishes on the nodes where its instances run.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest list of one service.
pub const PUBLISHED_MAX: usize = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// A port of a node, that one instance at a time can have. As text `8080/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodePort {
    pub port: u16,
    pub protocol: Protocol,
}

/// One of the pairs in a descriptor's `port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    pub node: NodePort,
    /// Where the instance listens.
    pub instance_port: u16,
}

/// What is wrong with a list of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPorts {
    #[error("{mapping:?}: {text:?} is no port, which is a number from 1 to 65535")]
    Port { mapping: String, text: String },
    #[error("{mapping:?}: protocol {text:?} is unknown, it must be tcp or udp")]
    Protocol { mapping: String, text: String },
    #[error("{mapping:?}: port {node} of the node is given twice")]
    Duplicate { mapping: String, node: NodePort },
    #[error("must not be more than {PUBLISHED_MAX} ports")]
    TooMany,
}

/// Reads `NODE:INSTANCE[/tcp|/udp];…`, where a single port stands for both sides, and `tcp` is
/// understood where no protocol is given.
///
/// # Errors
/// The first mapping that cannot be, with the reason.
pub fn published(list: &str) -> Result<Vec<PortMapping>, InvalidPorts> {
    let mut mappings = Vec::new();
    let mut seen = BTreeSet::new();
    for text in list.split(';').map(str::trim).filter(|text| !text.is_empty()) {
        let mapping = one(text)?;
        if !seen.insert(mapping.node) {
            let node = mapping.node;
            return Err(InvalidPorts::Duplicate { mapping: text.to_owned(), node });
        }
        if mappings.len() == PUBLISHED_MAX {
            return Err(InvalidPorts::TooMany);
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

/// The ports of the node that the list takes. One that cannot be read takes none: nobody can
/// publish it either.
pub fn node_ports(list: &str) -> BTreeSet<NodePort> {
    published(list).unwrap_or_default().into_iter().map(|mapping| mapping.node).collect()
}

fn one(mapping: &str) -> Result<PortMapping, InvalidPorts> {
    let (pair, protocol) = mapping.split_once('/').unwrap_or((mapping, "tcp"));
    let (node, instance) = pair.split_once(':').unwrap_or((pair, pair));
    let port = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|port| *port != 0 && digits).ok_or_else(|| {
            InvalidPorts::Port { mapping: mapping.to_owned(), text: text.to_owned() }
        })
    };
    let protocol = protocol.parse().map_err(|UnknownProtocol| InvalidPorts::Protocol {
        mapping: mapping.to_owned(),
        text: protocol.to_owned(),
    })?;
    let node = NodePort { port: port(node)?, protocol };
    Ok(PortMapping { node, instance_port: port(instance)? })
}

/// Neither `tcp` nor `udp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProtocol;

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(UnknownProtocol),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for NodePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol)
    }
}

impl From<NodePort> for String {
    fn from(port: NodePort) -> Self {
        port.to_string()
    }
}

impl TryFrom<String> for NodePort {
    type Error = InvalidPorts;

    fn try_from(text: String) -> Result<Self, InvalidPorts> {
        one(&text).map(|mapping| mapping.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(port: u16) -> NodePort {
        NodePort { port, protocol: Protocol::Tcp }
    }

    #[test]
    fn a_list_is_read_with_its_short_forms() {
        let udp = NodePort { port: 53, protocol: Protocol::Udp };
        assert_eq!(
            published(" 8080:80/tcp;53:5353/udp; 9000;").unwrap(),
            [
                PortMapping { node: tcp(8080), instance_port: 80 },
                PortMapping { node: udp, instance_port: 5353 },
                PortMapping { node: tcp(9000), instance_port: 9000 },
            ]
        );
        assert_eq!(published(""), Ok(vec![]));
        assert_eq!(published("53:53/tcp;53:53/udp").unwrap().len(), 2, "two protocols");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_mapping() {
        for (list, reason) in [
            ("80:http", "\"80:http\": \"http\" is no port, which is a number from 1 to 65535"),
            ("1;0:80", "\"0:80\": \"0\" is no port, which is a number from 1 to 65535"),
            ("+1:80", "\"+1:80\": \"+1\" is no port, which is a number from 1 to 65535"),
            ("65536", "\"65536\": \"65536\" is no port, which is a number from 1 to 65535"),
            ("80:80/sctp", "\"80:80/sctp\": protocol \"sctp\" is unknown, it must be tcp or udp"),
            ("80:81;80:82", "\"80:82\": port 80/tcp of the node is given twice"),
        ] {
            assert_eq!(published(list).unwrap_err().to_string(), reason, "{list}");
        }
        let many = (1..=200).map(|port| format!("{port};")).collect::<String>();
        assert_eq!(published(&many), Err(InvalidPorts::TooMany));
    }

    #[test]
    fn a_port_of_a_node_is_text_in_json() {
        let text = serde_json::to_string(&tcp(80)).unwrap();
        assert_eq!(text, "\"80/tcp\"");
        assert_eq!(serde_json::from_str::<NodePort>(&text).unwrap(), tcp(80));
        assert!(serde_json::from_str::<NodePort>("\"80/sctp\"").is_err());
    }
}

//! Settings: flag over environment over file over default.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::Ipv4Net;
use net_common::limits;
use serde::Deserialize;

use crate::{
    core::{expiry::Timeouts, port_range::PortRange, xdp::UplinkXdp},
    kernel::bpf::MapSizes,
};

const BPFFS_ROOT: &str = "/sys/fs/bpf/xylem";
const STATE_DIR: &str = "/var/lib/xylem/net-manager";
const SOCKET: &str = "/run/xylem/net-manager.sock";
const TUNNEL_PORT: u16 = 50103;
const MQTT_PORT: u16 = 10003;
const SERVICE_NET: &str = "10.30.0.0/16";
/// Beyond what the kernel gives to the node's own connections by default, 32768 to 60999.
const MASQUERADE_PORTS: &str = "61000-65535";

/// Every setting, as flags, environment or file give it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Folder below which maps and links are pinned [default: /sys/fs/bpf/xylem]
    #[arg(long, env = "XYLEM_BPFFS_ROOT", global = true)]
    pub bpffs_root: Option<PathBuf>,
    /// Folder for what survives a restart [default: /var/lib/xylem/net-manager]
    #[arg(long, env = "XYLEM_NET_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Unix socket of the Net API [default: /run/xylem/net-manager.sock]
    #[arg(long, env = "XYLEM_NET_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Interface towards the other nodes [default: that of the default route]
    #[arg(long, env = "XYLEM_UPLINK")]
    pub uplink: Option<String>,
    /// Address at which other nodes reach this one, of either family [default: the first IPv4
    /// address of the uplink or, without any, its first global IPv6 address]
    #[arg(long, env = "XYLEM_NODE_ADDRESS")]
    pub node_address: Option<IpAddr>,
    /// IPv6 address of published ports and of what leaves the overlay [default: the first global one
    /// of the uplink, if any]
    #[arg(long, env = "XYLEM_NODE_ADDRESS_V6")]
    pub node_address_v6: Option<Ipv6Addr>,
    /// Lets instances talk to hosts outside of the overlay, with this node's address [default: false]
    #[arg(long, env = "XYLEM_MASQUERADE", num_args = 0..=1, default_missing_value = "true")]
    pub masquerade: Option<bool>,
    /// Ports of this node that stand for those of instances which do [default: 61000-65535]
    #[arg(long, env = "XYLEM_MASQUERADE_PORTS")]
    pub masquerade_ports: Option<PortRange>,
    /// Address and port at which Prometheus finds `/metrics`, as 127.0.0.1:10104 [default: none]
    #[arg(long, env = "XYLEM_NET_METRICS_LISTEN")]
    pub metrics_listen: Option<SocketAddr>,
    /// UDP port of the tunnel [default: 50103]
    #[arg(long, env = "XYLEM_TUNNEL_PORT")]
    pub tunnel_port: Option<u16>,
    /// Port of the cluster's MQTT broker, unless the registration says another [default: 10003]
    #[arg(long, env = "XYLEM_MQTT_PORT")]
    pub mqtt_port: Option<u16>,
    /// Range of the service and instance IPs [default: 10.30.0.0/16]
    #[arg(long, env = "XYLEM_SERVICE_NET")]
    pub service_net: Option<Ipv4Net>,
    /// Service IPs and instance IPs that can be known at a time [default: 65536]
    #[arg(long, env = "XYLEM_MAX_SERVICES")]
    pub max_services: Option<u32>,
    /// Instances that can be known at a time [default: 65536]
    #[arg(long, env = "XYLEM_MAX_INSTANCES")]
    pub max_instances: Option<u32>,
    /// Nodes that can be known at a time [default: 4096]
    #[arg(long, env = "XYLEM_MAX_NODES")]
    pub max_nodes: Option<u32>,
    /// Entries of the flow table, two for each established flow [default: 262144]
    #[arg(long, env = "XYLEM_MAX_FLOWS")]
    pub max_flows: Option<u32>,
    /// Seconds after which a silent TCP connection is forgotten [default: 3600]
    #[arg(long, env = "XYLEM_TCP_IDLE_SECS")]
    pub tcp_idle_secs: Option<u64>,
    /// Where the quick part of the work on packets from other nodes is done: in the driver of the
    /// uplink's network card if it can, or further up [default: auto]
    #[arg(long, env = "XYLEM_UPLINK_XDP", value_enum)]
    pub uplink_xdp: Option<UplinkXdp>,
    /// Seconds after which one that was never established is forgotten [default: 20]
    #[arg(long, env = "XYLEM_TCP_OPENING_IDLE_SECS")]
    pub tcp_opening_idle_secs: Option<u64>,
    /// Seconds after which a silent one that one side has ended is forgotten [default: 120]
    #[arg(long, env = "XYLEM_TCP_HALF_CLOSED_IDLE_SECS")]
    pub tcp_half_closed_idle_secs: Option<u64>,
    /// Seconds after which one that both sides have ended is forgotten [default: 10]
    #[arg(long, env = "XYLEM_TCP_CLOSING_IDLE_SECS")]
    pub tcp_closing_idle_secs: Option<u64>,
    /// Seconds after which one that was reset is forgotten [default: 2]
    #[arg(long, env = "XYLEM_TCP_RESET_IDLE_SECS")]
    pub tcp_reset_idle_secs: Option<u64>,
    /// Seconds after which silent datagrams of two sides are forgotten [default: 120]
    #[arg(long, env = "XYLEM_UDP_IDLE_SECS")]
    pub udp_idle_secs: Option<u64>,
    /// Seconds after which those of one side that the other never answered are forgotten [default: 30]
    #[arg(long, env = "XYLEM_UDP_OPENING_IDLE_SECS")]
    pub udp_opening_idle_secs: Option<u64>,
    /// Seconds after which silent pings are forgotten [default: 20]
    #[arg(long, env = "XYLEM_ICMP_IDLE_SECS")]
    pub icmp_idle_secs: Option<u64>,
    /// Whether the cluster is asked where an instance lives in whose name another node sends
    /// [default: true]
    #[arg(long, env = "XYLEM_CHECK_SOURCES")]
    pub check_sources: Option<bool>,
    /// Whether the programs keep the hardware addresses of the ways to other nodes; off, they ask
    /// the kernel for each packet [default: true]
    #[arg(long, env = "XYLEM_NEXT_HOP_CACHE")]
    pub next_hop_cache: Option<bool>,
    /// Whether connections between instances of this node go from socket to socket, past the
    /// network stack; see the README before you turn it on [default: off]
    #[arg(long, env = "XYLEM_SOCKET_PATH", value_enum)]
    pub socket_path: Option<SocketPath>,
}

/// How connections between instances of this node go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SocketPath {
    /// Packet by packet, as across nodes.
    #[default]
    Off,
    /// What is sent is put into the receiver's queue at once.
    On,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "masquerade_ports is {ports}, and the tunnel's port {tunnel_port} is among them: choose others"
    )]
    TunnelMasqueraded { ports: PortRange, tunnel_port: u16 },
    #[error(
        "{what} is {value}; it must be from 1 to {most}, or no flow would live, or some for ever"
    )]
    BadIdle { what: &'static str, value: u64, most: u64 },
    #[error("{what} is {value}; it must be at least {least}")]
    TooSmall { what: &'static str, value: u32, least: u32 },
}

/// The settings in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub bpffs_root: PathBuf,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub uplink: Option<String>,
    pub node_address: Option<IpAddr>,
    pub node_address_v6: Option<Ipv6Addr>,
    /// Ports for instances that talk to the outside; none may without.
    pub masquerade: Option<PortRange>,
    pub metrics_listen: Option<SocketAddr>,
    pub tunnel_port: u16,
    pub mqtt_port: u16,
    pub service_net: Ipv4Net,
    pub map_sizes: MapSizes,
    pub timeouts: Timeouts,
    pub uplink_xdp: UplinkXdp,
    pub socket_path: SocketPath,
    pub check_sources: bool,
    pub next_hop_cache: bool,
}

impl Settings {
    /// The settings in effect: what is given here, else what `file` says, else the default.
    ///
    /// # Errors
    /// A size makes no sense.
    pub fn resolve(self, file: Self) -> Result<Config, ConfigError> {
        let default_net: Ipv4Net = SERVICE_NET.parse().expect("a constant that is a network");
        let timeouts = self.timeouts(&file)?;
        let masquerades = self.masquerade.or(file.masquerade).unwrap_or(false);
        let default_ports = MASQUERADE_PORTS.parse().expect("a constant that is a range");
        let masquerade_ports =
            self.masquerade_ports.or(file.masquerade_ports).unwrap_or(default_ports);
        let config = Config {
            bpffs_root: self.bpffs_root.or(file.bpffs_root).unwrap_or_else(|| BPFFS_ROOT.into()),
            state_dir: self.state_dir.or(file.state_dir).unwrap_or_else(|| STATE_DIR.into()),
            socket: self.socket.or(file.socket).unwrap_or_else(|| SOCKET.into()),
            uplink: self.uplink.or(file.uplink),
            node_address: self.node_address.or(file.node_address),
            node_address_v6: self.node_address_v6.or(file.node_address_v6),
            masquerade: masquerades.then_some(masquerade_ports),
            metrics_listen: self.metrics_listen.or(file.metrics_listen),
            tunnel_port: self.tunnel_port.or(file.tunnel_port).unwrap_or(TUNNEL_PORT),
            mqtt_port: self.mqtt_port.or(file.mqtt_port).unwrap_or(MQTT_PORT),
            service_net: self.service_net.or(file.service_net).unwrap_or(default_net).trunc(),
            map_sizes: MapSizes {
                services: self.max_services.or(file.max_services).unwrap_or(limits::SERVICES),
                instances: self.max_instances.or(file.max_instances).unwrap_or(limits::INSTANCES),
                nodes: self.max_nodes.or(file.max_nodes).unwrap_or(limits::NODES),
                flows: self.max_flows.or(file.max_flows).unwrap_or(limits::FLOWS),
            },
            uplink_xdp: self.uplink_xdp.or(file.uplink_xdp).unwrap_or_default(),
            check_sources: self.check_sources.or(file.check_sources).unwrap_or(true),
            next_hop_cache: self.next_hop_cache.or(file.next_hop_cache).unwrap_or(true),
            socket_path: self.socket_path.or(file.socket_path).unwrap_or_default(),
            timeouts,
        };
        let sizes = &config.map_sizes;
        for (what, value) in [
            ("max_services", sizes.services),
            ("max_instances", sizes.instances),
            ("max_nodes", sizes.nodes),
            ("max_flows", sizes.flows),
        ] {
            const LEAST: u32 = 2;
            if value < LEAST {
                return Err(ConfigError::TooSmall { what, value, least: LEAST });
            }
        }
        if let Some(ports) = config.masquerade
            && ports.contains(config.tunnel_port)
        {
            let tunnel_port = config.tunnel_port;
            return Err(ConfigError::TunnelMasqueraded { ports, tunnel_port });
        }
        Ok(config)
    }
}

/// A flow of longer silence is of no use to anybody, and the numbers stay those of a clock.
const LONGEST_IDLE_SECS: u64 = 7 * 24 * 3600;

impl Settings {
    fn timeouts(&self, file: &Self) -> Result<Timeouts, ConfigError> {
        let secs = |what, flag: Option<u64>, file: Option<u64>, default| {
            let value = flag.or(file).unwrap_or(default);
            if (1..=LONGEST_IDLE_SECS).contains(&value) {
                Ok(Duration::from_secs(value))
            } else {
                Err(ConfigError::BadIdle { what, value, most: LONGEST_IDLE_SECS })
            }
        };
        macro_rules! idle {
            ($name:ident, $default:literal) => {
                secs(stringify!($name), self.$name, file.$name, $default)?
            };
        }
        Ok(Timeouts {
            tcp: idle!(tcp_idle_secs, 3600),
            tcp_opening: idle!(tcp_opening_idle_secs, 20),
            tcp_half_closed: idle!(tcp_half_closed_idle_secs, 120),
            tcp_closing: idle!(tcp_closing_idle_secs, 10),
            tcp_reset: idle!(tcp_reset_idle_secs, 2),
            udp: idle!(udp_idle_secs, 120),
            udp_opening: idle!(udp_opening_idle_secs, 30),
            icmp: idle!(icmp_idle_secs, 20),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file: Settings = toml::from_str("tunnel_port = 1\nmqtt_port = 2").unwrap();
        let flags = Settings { tunnel_port: Some(3), ..Settings::default() };
        let config = flags.resolve(file).unwrap();
        assert_eq!((config.tunnel_port, config.mqtt_port), (3, 2));
        assert_eq!(config.map_sizes.flows, limits::FLOWS);
        assert_eq!(config.service_net.to_string(), SERVICE_NET);
    }

    #[test]
    fn instances_stay_inside_unless_they_are_let_out() {
        let file = "masquerade = true\nmasquerade_ports = \"62000-62999\"";
        let file: Settings = toml::from_str(file).unwrap();
        let config = |flags: Settings| flags.resolve(file.clone()).unwrap();
        let shut = Settings { masquerade: Some(false), ..Settings::default() };
        assert_eq!(config(shut).masquerade, None);
        assert_eq!(config(Settings::default()).masquerade.unwrap().to_string(), "62000-62999");
        assert_eq!(Settings::default().resolve(Settings::default()).unwrap().masquerade, None);
        let clash = Settings { tunnel_port: Some(62_100), ..Settings::default() };
        let refused = clash.resolve(file.clone()).unwrap_err().to_string();
        assert!(refused.contains("masquerade_ports") && refused.contains("62100"), "{refused}");
        let error = toml::from_str::<Settings>("masquerade_ports = \"9\"").unwrap_err().to_string();
        assert!(error.contains("FIRST-LAST"), "{error}");
    }

    #[test]
    fn every_kind_of_flow_has_its_patience() {
        let file = toml::from_str("udp_idle_secs = 60\ntcp_idle_secs = 7200").unwrap();
        let flags = Settings { udp_idle_secs: Some(90), ..Settings::default() };
        let timeouts = flags.resolve(file).unwrap().timeouts;
        let secs = [timeouts.udp, timeouts.tcp, timeouts.tcp_closing].map(|t| t.as_secs());
        assert_eq!(secs, [90, 7200, 10]);
        let none = Settings { icmp_idle_secs: Some(0), ..Settings::default() };
        let error = none.resolve(Settings::default()).unwrap_err().to_string();
        assert!(error.contains("icmp_idle_secs is 0"), "{error}");
    }

    #[test]
    fn a_node_is_reached_over_either_family() {
        for text in ["192.0.2.1", "2001:db8::1"] {
            let file = toml::from_str(&format!("node_address = \"{text}\"")).unwrap();
            let config = Settings::default().resolve(file).unwrap();
            assert_eq!(config.node_address.unwrap().to_string(), text);
        }
        toml::from_str::<Settings>("node_address = \"eth0\"").unwrap_err();
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        toml::from_str::<Settings>("tunel_port = 1").unwrap_err();
        let none = Settings { max_flows: Some(0), ..Settings::default() };
        let error = none.resolve(Settings::default()).unwrap_err().to_string();
        assert!(error.contains("max_flows"), "{error}");
    }
}

//! Configuration: flag, else environment, else file, else default.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Deserialize;
use url::Url;

use crate::{core::instance::Timing, image::registry::RegistryOptions};

const DEFAULT_STATE_FOLDER: &str = "/var/lib/xylem/node-engine";
const DEFAULT_CLUSTER: &str = "http://127.0.0.1:10100";
const DEFAULT_TUNNEL_PORT: u16 = 50103;

/// What can be set, everywhere under the same name; nothing here has its default yet.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// HTTP address of the cluster [default: http://127.0.0.1:10100]
    #[arg(long, env = "XYLEM_CLUSTER_URL", global = true)]
    pub cluster_url: Option<Url>,
    /// Folder of this worker's identity, instances and images
    /// [default: /var/lib/xylem/node-engine]
    #[arg(long, env = "XYLEM_STATE_DIR", global = true)]
    pub state_dir: Option<PathBuf>,
    /// Unix socket of the net manager; without it or when empty, instances have loopback only
    // No `PathBuf`, which clap does not let be empty.
    #[arg(long, env = "XYLEM_NET_SOCKET", global = true)]
    pub net_socket: Option<String>,
    /// Address at which peers and users reach this worker
    /// [default: the one that the cluster is reached from]
    #[arg(long, env = "XYLEM_NODE_ADDRESS", global = true)]
    pub node_address: Option<IpAddr>,
    /// UDP port of the net manager's tunnel [default: 50103]
    #[arg(long, env = "XYLEM_TUNNEL_PORT", global = true)]
    pub tunnel_port: Option<u16>,
    /// Control group below which instances get theirs [default: /xylem-WORKER-ID]
    #[arg(long, env = "XYLEM_CGROUP_PARENT", global = true)]
    pub cgroup_parent: Option<PathBuf>,
    /// Name of this worker [default: the host name]
    #[arg(long, env = "XYLEM_NODE_NAME", global = true)]
    pub node_name: Option<String>,
    /// Registry that speaks plain HTTP, `host[:port]`; those on this machine do anyway.
    /// May be repeated
    #[arg(long, env = "XYLEM_INSECURE_REGISTRIES", value_delimiter = ',', global = true)]
    pub insecure_registry: Vec<String>,
    /// Whether a registry named with a port that does not speak TLS is asked over plain HTTP
    /// [default: true]
    #[arg(long, env = "XYLEM_REGISTRY_HTTP_FALLBACK", global = true)]
    pub registry_http_fallback: Option<bool>,
    /// Milliseconds between two reports of what is used [default: 2000]
    #[arg(long, env = "XYLEM_REPORT_INTERVAL_MS", global = true)]
    pub report_interval_ms: Option<u64>,
    /// Milliseconds that an instance has to end by itself before it is killed [default: 10000]
    #[arg(long, env = "XYLEM_STOP_GRACE_MS", global = true)]
    pub stop_grace_ms: Option<u64>,
    /// Milliseconds that a deployment waits for a net manager that is away [default: 60000]
    #[arg(long, env = "XYLEM_ATTACH_TIMEOUT_MS", global = true)]
    pub attach_timeout_ms: Option<u64>,
    /// Images fetched at a time [default: 4]
    #[arg(long, env = "XYLEM_CONCURRENT_IMAGES", global = true)]
    pub concurrent_images: Option<usize>,
    /// Hours after which an image that no instance uses is removed [default: 168]
    #[arg(long, env = "XYLEM_IMAGE_RETENTION_HOURS", global = true)]
    pub image_retention_hours: Option<u64>,
    /// Processes that an instance may have; 0 = any number [default: 4096]
    #[arg(long, env = "XYLEM_INSTANCE_PROCESSES_MAX", global = true)]
    pub instance_processes_max: Option<u64>,
    /// Bytes of output that are kept of an instance [default: 4194304]
    #[arg(long, env = "XYLEM_INSTANCE_LOG_BYTES_MAX", global = true)]
    pub instance_log_bytes_max: Option<u64>,
}

/// Every value, as it counts.
#[derive(Clone, Debug)]
pub struct Config {
    pub cluster_url: Url,
    pub state_dir: PathBuf,
    /// `None` = networking is off.
    pub net_socket: Option<PathBuf>,
    pub node_address: Option<IpAddr>,
    pub tunnel_port: u16,
    /// `None` = from the worker's id.
    pub cgroup_parent: Option<PathBuf>,
    pub node_name: String,
    pub registries: RegistryOptions,
    pub report_interval: Duration,
    pub timing: Timing,
    pub concurrent_images: usize,
    pub image_retention: Duration,
    pub instance_processes_max: u64,
    pub instance_log_bytes_max: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cluster_url {0} must be an http or https address with a host")]
    ClusterUrl(Url),
    #[error("cgroup_parent {0} must be an absolute path below the root, without \"..\"")]
    CgroupParent(PathBuf),
    #[error("{0} must not be 0")]
    Zero(&'static str),
}

impl Config {
    /// `first` are flags and environment, which clap has put together; `file` is the file.
    ///
    /// # Errors
    /// When a value makes no sense.
    pub fn resolve(first: Settings, file: Settings, hostname: &str) -> Result<Self, ConfigError> {
        let millis = Duration::from_millis;
        let default_url = || Url::parse(DEFAULT_CLUSTER).expect("a valid constant");
        let cluster_url = first.cluster_url.or(file.cluster_url).unwrap_or_else(default_url);
        if !matches!(cluster_url.scheme(), "http" | "https") || !cluster_url.has_host() {
            return Err(ConfigError::ClusterUrl(cluster_url));
        }
        let cgroup_parent = first.cgroup_parent.or(file.cgroup_parent);
        if let Some(parent) = &cgroup_parent
            && !is_cgroup_parent(parent)
        {
            return Err(ConfigError::CgroupParent(parent.clone()));
        }
        let report_interval =
            millis(first.report_interval_ms.or(file.report_interval_ms).unwrap_or(2000));
        if report_interval.is_zero() {
            return Err(ConfigError::Zero("report_interval_ms"));
        }
        let concurrent_images = first.concurrent_images.or(file.concurrent_images).unwrap_or(4);
        if concurrent_images == 0 {
            return Err(ConfigError::Zero("concurrent_images"));
        }
        let insecure = if first.insecure_registry.is_empty() {
            file.insecure_registry
        } else {
            first.insecure_registry
        };
        let retention = first.image_retention_hours.or(file.image_retention_hours);
        let retention_hours = retention.unwrap_or(168);
        if retention_hours == 0 {
            // Images of deployments under way must never be old enough.
            return Err(ConfigError::Zero("image_retention_hours"));
        }
        let attach = first.attach_timeout_ms.or(file.attach_timeout_ms).unwrap_or(60_000);
        let grace = first.stop_grace_ms.or(file.stop_grace_ms).unwrap_or(10_000);
        let fallback = first.registry_http_fallback.or(file.registry_http_fallback);
        let state_dir = first.state_dir.or(file.state_dir);
        let net_socket = first.net_socket.or(file.net_socket);
        let log_bytes_max = first.instance_log_bytes_max.or(file.instance_log_bytes_max);
        let processes_max = first.instance_processes_max.or(file.instance_processes_max);
        Ok(Self {
            cluster_url,
            state_dir: state_dir.unwrap_or_else(|| DEFAULT_STATE_FOLDER.into()),
            net_socket: net_socket.filter(|socket| !socket.is_empty()).map(PathBuf::from),
            node_address: first.node_address.or(file.node_address),
            tunnel_port: first.tunnel_port.or(file.tunnel_port).unwrap_or(DEFAULT_TUNNEL_PORT),
            cgroup_parent,
            node_name: first.node_name.or(file.node_name).unwrap_or_else(|| hostname.to_owned()),
            registries: RegistryOptions { insecure, plain_http_fallback: fallback.unwrap_or(true) },
            report_interval,
            timing: Timing {
                attach_within: millis(attach),
                attach_retry: millis(500),
                stop_grace: millis(grace),
            },
            concurrent_images,
            image_retention: Duration::from_secs(retention_hours.saturating_mul(3600)),
            instance_processes_max: processes_max.unwrap_or(4096),
            instance_log_bytes_max: log_bytes_max.unwrap_or(4 << 20),
        })
    }

    /// Where the instances' control groups are. By default no worker shares it with another, so
    /// that removing it disturbs nobody.
    pub fn cgroup_parent(&self, worker: &uuid::Uuid) -> PathBuf {
        let default = || PathBuf::from(format!("/xylem-{worker}"));
        self.cgroup_parent.clone().unwrap_or_else(default)
    }
}

fn is_cgroup_parent(path: &Path) -> bool {
    use std::path::Component;
    path.is_absolute()
        && path.components().count() > 1
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Settings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_flag_goes_before_the_file_and_the_file_before_the_default() {
        let flags = Settings { tunnel_port: Some(1), ..Settings::default() };
        let file = file("tunnel_port = 2\nnode_name = \"file\"\nstop_grace_ms = 5\n");
        let config = Config::resolve(flags, file, "host").unwrap();
        assert_eq!((config.tunnel_port, config.node_name.as_str()), (1, "file"));
        assert_eq!(config.timing.stop_grace, Duration::from_millis(5));
        assert_eq!(config.cluster_url.as_str(), "http://127.0.0.1:10100/");
    }

    #[test]
    fn an_empty_socket_means_no_networking() {
        let config =
            Config::resolve(Settings::default(), file("net_socket = \"\""), "host").unwrap();
        assert_eq!(config.net_socket, None);
    }

    #[test]
    fn an_unknown_key_and_senseless_values_are_errors() {
        assert!(toml::from_str::<Settings>("tunel_port = 2").is_err());
        for text in [
            "cluster_url = \"ftp://host\"",
            "cgroup_parent = \"/\"",
            "cgroup_parent = \"relative\"",
            "cgroup_parent = \"/a/../b\"",
            "report_interval_ms = 0",
            "concurrent_images = 0",
            "image_retention_hours = 0",
        ] {
            assert!(Config::resolve(Settings::default(), file(text), "h").is_err(), "{text}");
        }
    }
}

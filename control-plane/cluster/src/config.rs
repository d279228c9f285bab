//! Settings: flag, else environment, else file, else default.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser};
use rumqttc::MqttOptions;
use serde::Deserialize;
use xylem_daemon::settings::{self, FileError};
use xylem_types::session::SESSION_PATH;

use crate::core::DRAIN_GRACE;

const DEFAULT_ROOT_URL: &str = "http://127.0.0.1:10000";
const DEFAULT_LISTEN: &str = "0.0.0.0:10100";
const DEFAULT_MQTT_LISTEN: &str = "0.0.0.0:10003";
const DEFAULT_DATA_DIR: &str = "/var/lib/xylem/cluster";
const DEFAULT_WORKER_SILENCE_SECS: f64 = 5.0;
const DAY_SECS: f64 = 86_400.0;

/// A cluster: runs what the root wants on its workers, and goes on without the root.
#[derive(Debug, Parser)]
#[command(name = "xylem-cluster", version)]
pub struct Flags {
    /// TOML file with these settings, named like the flags with underscores, as in `name = "edge"`
    #[arg(long, env = "XYLEM_CLUSTER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// What can be set, everywhere under the same name; nothing here has its default yet.
#[derive(Args, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Name of the cluster; the root knows it by this name for ever
    #[arg(long, env = "XYLEM_CLUSTER_NAME")]
    name: Option<String>,
    /// Where the cluster is: free text, or `latitude,longitude,radius`
    #[arg(long, env = "XYLEM_CLUSTER_LOCATION")]
    location: Option<String>,
    /// The root's REST address [default: http://127.0.0.1:10000]
    #[arg(long, env = "XYLEM_CLUSTER_ROOT_URL", value_name = "URL")]
    root_url: Option<String>,
    /// Address and port where workers register [default: 0.0.0.0:10100]
    #[arg(long, env = "XYLEM_CLUSTER_LISTEN")]
    listen: Option<SocketAddr>,
    /// Address and port of the embedded MQTT broker [default: 0.0.0.0:10003]
    #[arg(long, env = "XYLEM_CLUSTER_MQTT_LISTEN")]
    mqtt_listen: Option<SocketAddr>,
    /// An MQTT 3.1.1 broker to use in place of the embedded one: `mqtt://[user:password@]host[:port]`.
    /// Workers reach it at the cluster's own host name or address and this port
    #[arg(long, env = "XYLEM_CLUSTER_MQTT_URL", value_name = "URL", hide_env_values = true)]
    mqtt_url: Option<String>,
    /// Folder for everything that must outlive a restart [default: /var/lib/xylem/cluster]
    #[arg(long, env = "XYLEM_CLUSTER_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Seconds of silence after which a worker is lost and its instances are placed again
    /// [default: 5]
    #[arg(long, env = "XYLEM_CLUSTER_WORKER_SILENCE_SECS", value_name = "SECS")]
    worker_silence_secs: Option<f64>,
    /// Seconds for which an instance that is to be stopped runs on without new flows, so that
    /// those that it has can end; 0 = it is stopped at once [default: 10]
    #[arg(long, env = "XYLEM_CLUSTER_DRAIN_GRACE_SECS", value_name = "SECS")]
    drain_grace_secs: Option<f64>,
}

/// Effective settings.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub location: String,
    /// WebSocket address of the session.
    pub session_url: String,
    pub listen: SocketAddr,
    pub broker: Broker,
    pub data_dir: PathBuf,
    pub worker_silence: Duration,
    pub drain_grace: Duration,
}

/// Which broker the workers and the cluster meet at.
#[derive(Clone, Debug)]
pub enum Broker {
    Embedded { listen: SocketAddr },
    External { options: MqttOptions },
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("the cluster has no name: give one with --name, unlike that of any other cluster")]
    NoName,
    #[error("{url:?} is no address of a root: it must look like http://host:10000")]
    RootUrl { url: String },
    #[error("{url:?} is no address of a broker: it must look like mqtt://host:1883")]
    MqttUrl { url: String, source: rumqttc::OptionError },
    #[error("--worker-silence-secs {0} is no number of seconds above 0 and below a day")]
    WorkerSilence(f64),
    #[error("--drain-grace-secs {0} is no number of seconds from 0 to below a day")]
    DrainGrace(f64),
}

impl Config {
    /// # Errors
    /// When a setting is missing or cannot be used, or the file cannot be read.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let file = settings::read(flags.config.as_deref())?;
        Self::resolve(flags.settings, file)
    }

    fn resolve(first: Settings, file: Settings) -> Result<Self, ConfigError> {
        let address = |text: &str| text.parse().expect("the constants are addresses");
        let name = first.name.or(file.name).filter(|name| !name.trim().is_empty());
        let name = name.ok_or(ConfigError::NoName)?;
        let root_url = first.root_url.or(file.root_url).unwrap_or(DEFAULT_ROOT_URL.into());
        let drain_grace = match first.drain_grace_secs.or(file.drain_grace_secs) {
            Some(secs) => drain_grace(secs)?,
            None => DRAIN_GRACE,
        };
        let silence = first.worker_silence_secs.or(file.worker_silence_secs);
        let broker = match first.mqtt_url.or(file.mqtt_url) {
            Some(url) => Broker::External { options: external(&url, &name)? },
            None => Broker::Embedded {
                listen: first
                    .mqtt_listen
                    .or(file.mqtt_listen)
                    .unwrap_or_else(|| address(DEFAULT_MQTT_LISTEN)),
            },
        };
        Ok(Self {
            session_url: session_url(&root_url)?,
            location: first.location.or(file.location).unwrap_or_default(),
            listen: first.listen.or(file.listen).unwrap_or_else(|| address(DEFAULT_LISTEN)),
            broker,
            data_dir: first.data_dir.or(file.data_dir).unwrap_or(DEFAULT_DATA_DIR.into()),
            worker_silence: worker_silence(silence.unwrap_or(DEFAULT_WORKER_SILENCE_SECS))?,
            drain_grace,
            name,
        })
    }
}

impl Broker {
    /// Where workers reach it; its host is the cluster's.
    pub fn port(&self) -> u16 {
        match self {
            Self::Embedded { listen } => listen.port(),
            Self::External { options } => options.broker_address().1,
        }
    }
}

fn session_url(root_url: &str) -> Result<String, ConfigError> {
    let refused = || ConfigError::RootUrl { url: root_url.to_owned() };
    let host = root_url.trim_end_matches('/').strip_prefix("http://").ok_or_else(refused)?;
    if host.is_empty() || host.contains(['/', '?', '#', ' ']) {
        return Err(refused());
    }
    Ok(format!("ws://{host}{SESSION_PATH}"))
}

fn external(url: &str, name: &str) -> Result<MqttOptions, ConfigError> {
    let separator = if url.contains('?') { '&' } else { '?' };
    let mut options = MqttOptions::parse_url(format!("{url}{separator}client_id=cluster"))
        .map_err(|source| ConfigError::MqttUrl { url: url.to_owned(), source })?;
    options.set_client_id(client_id(name));
    Ok(options)
}

/// The cluster's name among the broker's clients.
pub(crate) fn client_id(cluster: &str) -> String {
    format!("xylem-cluster-{cluster}")
}

fn worker_silence(secs: f64) -> Result<Duration, ConfigError> {
    if secs > 0.0 && secs < DAY_SECS {
        Ok(Duration::from_secs_f64(secs))
    } else {
        Err(ConfigError::WorkerSilence(secs))
    }
}

fn drain_grace(secs: f64) -> Result<Duration, ConfigError> {
    if (0.0..DAY_SECS).contains(&secs) {
        Ok(Duration::from_secs_f64(secs))
    } else {
        Err(ConfigError::DrainGrace(secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(arguments: &[&str]) -> Settings {
        Flags::parse_from(std::iter::once(&"xylem-cluster").chain(arguments)).settings
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_the_default() {
        let file: Settings =
            toml::from_str("name = \"file\"\nlisten = \"127.0.0.1:1\"\nworker_silence_secs = 0.5")
                .unwrap();
        let config =
            Config::resolve(flags(&["--name", "flag", "--root-url", "http://r:1/"]), file).unwrap();
        assert_eq!(config.name, "flag");
        assert_eq!(config.session_url, "ws://r:1/api/cluster/session");
        assert_eq!(config.listen, "127.0.0.1:1".parse().unwrap());
        assert_eq!(config.worker_silence, Duration::from_millis(500));
        assert_eq!(config.broker.port(), 10003);
    }

    #[test]
    fn an_external_broker_takes_the_place_of_the_embedded_one() {
        let config = Config::resolve(
            flags(&["--name", "edge", "--mqtt-url", "mqtt://user:secret@broker:1884"]),
            Settings::default(),
        )
        .unwrap();
        let Broker::External { options } = &config.broker else { panic!("{config:?}") };
        assert_eq!(options.broker_address(), ("broker".to_owned(), 1884));
        assert_eq!(options.client_id(), "xylem-cluster-edge");
        assert!(options.credentials().is_some());
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let resolve = |arguments: &[&str]| Config::resolve(flags(arguments), Settings::default());
        assert!(matches!(resolve(&[]), Err(ConfigError::NoName)));
        for url in ["", "root:10000", "https://root", "http://", "http://root/api"] {
            let refused = resolve(&["--name", "n", "--root-url", url]);
            assert!(matches!(refused, Err(ConfigError::RootUrl { .. })), "{url}");
        }
        for url in ["broker", "http://broker", "mqtts://broker"] {
            let refused = resolve(&["--name", "n", "--mqtt-url", url]);
            assert!(matches!(refused, Err(ConfigError::MqttUrl { .. })), "{url}");
        }
        for secs in ["0", "NaN", "inf", "1e9"] {
            let refused = resolve(&["--name", "n", "--worker-silence-secs", secs]);
            assert!(matches!(refused, Err(ConfigError::WorkerSilence(_))), "{secs}");
        }
        for secs in ["-1", "NaN", "inf", "86400"] {
            let refused = resolve(&["--name", "n", &format!("--drain-grace-secs={secs}")]);
            assert!(matches!(refused, Err(ConfigError::DrainGrace(_))), "{secs}");
        }
        let at_once = resolve(&["--name", "n", "--drain-grace-secs", "0"]).unwrap();
        assert_eq!(at_once.drain_grace, Duration::ZERO);
        assert!(toml::from_str::<Settings>("nmae = \"edge\"").is_err());
    }
}

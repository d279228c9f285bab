//! Settings: flag, else environment, else file, else default.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser};
use serde::Deserialize;
use xylem_daemon::settings::{self, FileError};

const DEFAULT_LISTEN: &str = "0.0.0.0:10000";
const DEFAULT_DATA_DIR: &str = "/var/lib/xylem/root";
const DEFAULT_CLUSTER_STALE_SECS: u64 = 15;

/// The root of the control plane: REST API, scheduling over clusters, addresses.
#[derive(Debug, Parser)]
#[command(name = "xylem-root", version)]
pub struct Flags {
    /// TOML file with these settings, named like the flags with underscores, as in
    /// `listen = "127.0.0.1:10000"`
    #[arg(long, env = "XYLEM_ROOT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// What can be set, everywhere under the same name; nothing here has its default yet.
#[derive(Args, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    /// Address and port of the REST API and of the clusters' sessions [default: 0.0.0.0:10000]
    #[arg(long, env = "XYLEM_ROOT_LISTEN")]
    listen: Option<SocketAddr>,
    /// Folder for everything that must outlive a restart [default: /var/lib/xylem/root]
    #[arg(long, env = "XYLEM_ROOT_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// A cluster whose report of resources is older gets nothing new [default: 15]
    #[arg(long, env = "XYLEM_ROOT_CLUSTER_STALE_SECS")]
    cluster_stale_secs: Option<u64>,
    /// Password of the user Admin, made at the first start; later ones ignore it. On the command
    /// line, everybody who can list processes sees it [default: Admin]
    #[arg(long, env = "XYLEM_ADMIN_PASSWORD", hide_env_values = true)]
    admin_password: Option<String>,
}

/// Effective settings.
#[derive(Clone)]
pub struct Config {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub cluster_stale_after: Duration,
    /// Only for the first start; none = `Admin`, which everybody knows.
    pub admin_password: Option<String>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("data_dir", &self.data_dir)
            .field("cluster_stale_after", &self.cluster_stale_after)
            .finish_non_exhaustive()
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cluster_stale_secs must be at least 1: clusters report every few seconds")]
    AlwaysStale,
}

impl Config {
    /// # Errors
    /// When the file that is named cannot be read or has unknown keys, or a value makes no sense.
    pub fn load(flags: Flags) -> Result<Self, ConfigError> {
        let file = settings::read(flags.config.as_deref())?;
        let config = Self::resolve(flags.settings, file);
        if config.cluster_stale_after.is_zero() {
            return Err(ConfigError::AlwaysStale);
        }
        Ok(config)
    }

    fn resolve(first: Settings, file: Settings) -> Self {
        let default_listen = DEFAULT_LISTEN.parse().expect("the constant is an address");
        let stale = first.cluster_stale_secs.or(file.cluster_stale_secs);
        Self {
            listen: first.listen.or(file.listen).unwrap_or(default_listen),
            data_dir: first.data_dir.or(file.data_dir).unwrap_or(DEFAULT_DATA_DIR.into()),
            cluster_stale_after: Duration::from_secs(stale.unwrap_or(DEFAULT_CLUSTER_STALE_SECS)),
            admin_password: first.admin_password.or(file.admin_password),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn flags(arguments: &[&str]) -> Settings {
        Flags::parse_from(std::iter::once(&"xylem-root").chain(arguments)).settings
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_the_default() {
        let file: Settings = toml::from_str(
            "listen = \"127.0.0.1:1\"\ncluster_stale_secs = 3\ndata_dir = \"/from/file\"",
        )
        .unwrap();
        let config = Config::resolve(flags(&["--data-dir", "/from/flag"]), file);
        assert_eq!(config.listen, "127.0.0.1:1".parse().unwrap());
        assert_eq!(config.data_dir, Path::new("/from/flag"));
        assert_eq!(config.cluster_stale_after, Duration::from_secs(3));
        let config = Config::resolve(flags(&[]), Settings::default());
        assert_eq!(config.listen, DEFAULT_LISTEN.parse().unwrap());
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(toml::from_str::<Settings>("lisen = \"127.0.0.1:1\"").is_err());
    }
}

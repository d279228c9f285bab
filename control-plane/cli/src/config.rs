//! The person's configuration file: which root to talk to, and the session with each root.
//!
//! Written by `xylem login` and when a token is renewed. It holds secrets, so it is created with
//! mode 0600 and replaced in one step: a reader sees the old file or the new one.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use reqwest::Url;
use serde::{Deserialize, Serialize};

/// Where `xylem` finds the root when nothing else is said.
pub(crate) const DEFAULT_ROOT: &str = "http://127.0.0.1:10000";

const HEADER: &str = "# Written by `xylem login`. It holds secrets: keep it to yourself.\n";

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("no home directory is set; say where the configuration is with --config FILE")]
    NoHome,
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not valid; correct or remove it and log in again")]
    Invalid { path: PathBuf, source: Box<toml::de::Error> },
    #[error("cannot write {path}")]
    Write { path: PathBuf, source: io::Error },
}

/// The address of a root: `http://HOST[:PORT]`, without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct RootUrl(Url);

#[derive(Debug, thiserror::Error)]
pub(crate) enum RootUrlError {
    #[error("{text:?} is not a URL such as {DEFAULT_ROOT}")]
    NotAUrl { text: String },
    #[error("a root is reached by http://, not by {scheme}://")]
    Scheme { scheme: String },
    #[error("give the user with --user and not in the URL")]
    UserInUrl,
}

impl RootUrl {
    /// The URL of a path below the root, each segment percent-encoded.
    pub(crate) fn join<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.0.clone();
        url.path_segments_mut().expect("an http URL can be a base").pop_if_empty().extend(segments);
        url
    }
}

impl FromStr for RootUrl {
    type Err = RootUrlError;

    /// `HOST:PORT` is understood as `http://HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, RootUrlError> {
        let with_scheme =
            if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let mut url = Url::parse(&with_scheme)
            .map_err(|_| RootUrlError::NotAUrl { text: text.to_owned() })?;
        if url.scheme() != "http" {
            return Err(RootUrlError::Scheme { scheme: url.scheme().to_owned() });
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(RootUrlError::UserInUrl);
        }
        url.set_query(None);
        url.set_fragment(None);
        Ok(Self(url))
    }
}

impl TryFrom<String> for RootUrl {
    type Error = RootUrlError;
    fn try_from(text: String) -> Result<Self, RootUrlError> {
        text.parse()
    }
}

impl From<RootUrl> for String {
    fn from(root: RootUrl) -> Self {
        root.to_string()
    }
}

impl std::fmt::Display for RootUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

/// What a login with one root left behind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Session {
    pub(crate) user: String,
    /// Sent with every request; good for minutes.
    pub(crate) token: String,
    /// Exchanged for a new `token` when that has expired; good for days.
    pub(crate) refresh_token: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    /// The root of the last login.
    #[serde(skip_serializing_if = "Option::is_none")]
    root_url: Option<RootUrl>,
    sessions: BTreeMap<String, Session>,
}

/// The configuration file as read, and where it is.
#[derive(Debug)]
pub(crate) struct Config {
    path: PathBuf,
    file: File,
}

impl Config {
    /// Reads the file at `path`, by default `$XDG_CONFIG_HOME/xylem/config.toml`. One that does
    /// not exist is an empty one.
    ///
    /// # Errors
    /// When the file is unreadable or not what `xylem login` writes.
    pub(crate) fn load(path: Option<PathBuf>) -> Result<Self, ConfigError> {
        let path = match path {
            Some(path) => path,
            None => {
                default_path(env::var_os("XDG_CONFIG_HOME").map(PathBuf::from), env::home_dir())
                    .ok_or(ConfigError::NoHome)?
            }
        };
        let file = match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|source| ConfigError::Invalid {
                path: path.clone(),
                source: Box::new(source),
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::default(),
            Err(source) => return Err(ConfigError::Read { path, source }),
        };
        Ok(Self { path, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The root to talk to: as given on the command line or in the environment, else the one of
    /// the last login, else [`DEFAULT_ROOT`].
    pub(crate) fn root(&self, given: Option<RootUrl>) -> RootUrl {
        given
            .or_else(|| self.file.root_url.clone())
            .unwrap_or_else(|| DEFAULT_ROOT.parse().expect("a valid URL"))
    }

    pub(crate) fn session(&self, root: &RootUrl) -> Option<&Session> {
        self.file.sessions.get(&root.to_string())
    }

    /// Keeps the session of a login and makes `root` the one talked to from now on.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn log_in(&mut self, root: &RootUrl, session: Session) -> Result<(), ConfigError> {
        self.file.root_url = Some(root.clone());
        self.keep(root, session)
    }

    /// Keeps a renewed session.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn keep(&mut self, root: &RootUrl, session: Session) -> Result<(), ConfigError> {
        self.file.sessions.insert(root.to_string(), session);
        self.write().map_err(|source| ConfigError::Write { path: self.path.clone(), source })
    }

    fn write(&self) -> io::Result<()> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let text = toml::to_string(&self.file).map_err(io::Error::other)?;
        let mut file = tempfile::Builder::new()
            .prefix(".config")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(directory)?;
        file.write_all(HEADER.as_bytes())?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }
}

fn default_path(xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    // The XDG specification says to ignore relative paths.
    let base = xdg.filter(|path| path.is_absolute()).or_else(|| {
        home.filter(|path| !path.as_os_str().is_empty()).map(|home| home.join(".config"))
    })?;
    Some(base.join("xylem/config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(token: &str) -> Session {
        Session {
            user: "Admin".to_owned(),
            token: token.to_owned(),
            refresh_token: "again".to_owned(),
        }
    }

    #[test]
    fn a_session_survives_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.toml");
        let root: RootUrl = "10.0.0.1:10000".parse().unwrap();

        let mut config = Config::load(Some(path.clone())).unwrap();
        assert!(config.session(&root).is_none());
        config.log_in(&root, session("one")).unwrap();
        config.keep(&root, session("two")).unwrap();

        let again = Config::load(Some(path.clone())).unwrap();
        assert_eq!(again.root(None), root);
        assert_eq!(again.session(&root), Some(&session("two")));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(
            fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o7777,
            0o700
        );
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file");
    }

    #[test]
    fn a_file_open_to_others_is_closed_by_the_next_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let mut config = Config::load(Some(path.clone())).unwrap();
        config.keep(&DEFAULT_ROOT.parse().unwrap(), session("t")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn the_given_root_wins_over_the_last_login_and_that_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::load(Some(dir.path().join("c"))).unwrap();
        assert_eq!(config.root(None).to_string(), DEFAULT_ROOT);
        let site: RootUrl = "http://site:10000".parse().unwrap();
        config.log_in(&site, session("t")).unwrap();
        assert_eq!(config.root(None), site);
        let other: RootUrl = "http://other:1".parse().unwrap();
        assert_eq!(config.root(Some(other.clone())), other);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, "root_urls = 1").unwrap();
        let error = Config::load(Some(path.clone())).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn the_default_path_follows_xdg_and_falls_back_to_home() {
        let home = || Some(PathBuf::from("/home/ada"));
        assert_eq!(
            default_path(None, home()).unwrap(),
            Path::new("/home/ada/.config/xylem/config.toml")
        );
        assert_eq!(
            default_path(Some("/etc/ada".into()), home()).unwrap(),
            Path::new("/etc/ada/xylem/config.toml")
        );
        assert_eq!(
            default_path(Some("relative".into()), home()).unwrap(),
            Path::new("/home/ada/.config/xylem/config.toml")
        );
        assert_eq!(default_path(None, None), None);
    }

    #[test]
    fn root_urls_are_one_spelling_and_segments_are_encoded() {
        let root: RootUrl = "127.0.0.1:10000/".parse().unwrap();
        assert_eq!(root.to_string(), DEFAULT_ROOT);
        assert_eq!(
            root.join(["api", "service", "a/b?c"]).as_str(),
            "http://127.0.0.1:10000/api/service/a%2Fb%3Fc"
        );
        let behind_proxy: RootUrl = "http://edge/xylem/".parse().unwrap();
        assert_eq!(behind_proxy.join(["api", "x", ""]).as_str(), "http://edge/xylem/api/x/");
        assert!(matches!("https://x".parse::<RootUrl>(), Err(RootUrlError::Scheme { .. })));
        assert!(matches!("http://".parse::<RootUrl>(), Err(RootUrlError::NotAUrl { .. })));
        assert!(matches!("http://a:b@x".parse::<RootUrl>(), Err(RootUrlError::UserInUrl)));
    }
}

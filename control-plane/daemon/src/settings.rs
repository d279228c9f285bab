//! The file with a daemon's settings.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read the configuration file {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("the configuration file {} is not valid", path.display())]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    /// As node engines had them once.
    #[error(
        "the configuration file {} has settings with hyphens, and all have underscores: \
         write {renamed}",
        path.display()
    )]
    Hyphens { path: PathBuf, renamed: String },
}

/// Reads the file at `path`; without one, nothing is set in it.
///
/// # Errors
/// When it cannot be read, or has settings in it that `T` does not know.
pub fn read<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, FileError> {
    let Some(path) = path else { return Ok(T::default()) };
    let text = std::fs::read_to_string(path)
        .map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    if let Some(renamed) = with_hyphens(&text) {
        return Err(FileError::Hyphens { path: path.to_owned(), renamed });
    }
    toml::from_str(&text)
        .map_err(|source| FileError::Parse { path: path.to_owned(), source: Box::new(source) })
}

/// What to write in place of settings with hyphens, if there are any.
fn with_hyphens(text: &str) -> Option<String> {
    // What is no TOML is refused with its line afterwards.
    let table: toml::Table = text.parse().ok()?;
    let renamed: Vec<_> = table
        .keys()
        .filter(|key| key.contains('-'))
        .map(|key| format!("{} for {key}", key.replace('-', "_")))
        .collect();
    (!renamed.is_empty()).then(|| renamed.join(", "))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        state_dir: Option<String>,
        tunnel_port: Option<u16>,
    }

    fn of(text: &str) -> Result<Settings, FileError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("daemon.toml");
        std::fs::write(&path, text).unwrap();
        read(Some(&path))
    }

    #[test]
    fn what_the_file_says_is_set_and_nothing_else() {
        let settings = of("tunnel_port = 7").unwrap();
        assert_eq!(settings, Settings { tunnel_port: Some(7), state_dir: None });
        assert_eq!(read::<Settings>(None).unwrap(), Settings::default());
    }

    #[test]
    fn an_old_setting_is_refused_with_its_new_name() {
        let refused = of("state-dir = \"/a\"\ntunnel-port = 7").unwrap_err().to_string();
        assert!(refused.contains("state_dir for state-dir"), "{refused}");
        assert!(refused.contains("tunnel_port for tunnel-port"), "{refused}");
    }

    #[test]
    fn what_is_not_known_or_not_there_is_refused() {
        assert!(matches!(of("tunel_port = 7"), Err(FileError::Parse { .. })));
        assert!(matches!(of("tunnel_port"), Err(FileError::Parse { .. })));
        let nowhere = read::<Settings>(Some(Path::new("/nowhere/daemon.toml")));
        assert!(matches!(nowhere, Err(FileError::Read { .. })));
    }
}

//! What the net manager keeps on disk: who it is and which subnet it has, so that after a restart
//! it goes on by itself, also while the cluster is away. What is applied is not kept here: the
//! kernel holds it.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use xylem_types::net_api::RegisterRequest;

use crate::core::ipam::Subnet;

const FILE: &str = "worker.json";

/// The contents of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    registration: Option<RegisterRequest>,
    subnet: Option<KeptSubnet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptSubnet {
    v4: Ipv4Addr,
    v6: Option<Ipv6Addr>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot read or write {}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is damaged; remove it and register the worker again", path.display())]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
}

/// The file, read once and written on every change.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    kept: Kept,
}

impl State {
    /// Reads the file in this folder; one that is not there is empty.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join(FILE);
        fs::create_dir_all(dir).map_err(|source| StateError::Io { path: dir.into(), source })?;
        let kept = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| StateError::Damaged { path: path.clone(), source })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Kept::default(),
            Err(source) => return Err(StateError::Io { path, source }),
        };
        Ok(Self { path, kept })
    }

    pub fn registration(&self) -> Option<&RegisterRequest> {
        self.kept.registration.as_ref()
    }

    pub fn subnet(&self) -> Option<Subnet> {
        self.kept.subnet.map(|kept| Subnet::new(kept.v4, kept.v6))
    }

    /// # Errors
    /// It cannot be written.
    pub fn set_registration(&mut self, registration: &RegisterRequest) -> Result<(), StateError> {
        self.kept.registration = Some(registration.clone());
        self.write()
    }

    /// # Errors
    /// It cannot be written.
    pub fn set_subnet(&mut self, subnet: Option<Subnet>) -> Result<(), StateError> {
        self.kept.subnet = subnet.map(|subnet| KeptSubnet {
            v4: subnet.v4().network(),
            v6: subnet.v6().map(|v6| v6.network()),
        });
        self.write()
    }

    /// Replaces the file whole, so that it is never seen half written.
    fn write(&self) -> Result<(), StateError> {
        let failed = |source| StateError::Io { path: self.path.clone(), source };
        let partial = self.path.with_extension("partial");
        let bytes = serde_json::to_vec_pretty(&self.kept).map_err(io::Error::from);
        let file = fs::File::create(&partial).map_err(failed)?;
        bytes
            .and_then(|bytes| io::Write::write_all(&mut &file, &bytes))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&partial, &self.path))
            .map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_there_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("below");
        let mut state = State::open(&dir).unwrap();
        assert_eq!((state.registration(), state.subnet()), (None, None));
        let registration = RegisterRequest {
            client_id: "w".into(),
            cluster_address: "192.0.2.1".into(),
            mqtt_port: Some(7),
        };
        let subnet = Subnet::new([10, 18, 0, 64].into(), Some("fc00::100".parse().unwrap()));
        state.set_registration(&registration).unwrap();
        state.set_subnet(Some(subnet)).unwrap();
        let again = State::open(&dir).unwrap();
        assert_eq!((again.registration(), again.subnet()), (Some(&registration), Some(subnet)));
    }

    #[test]
    fn a_damaged_file_is_said_and_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        let error = State::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("register the worker again"), "{error}");
    }
}

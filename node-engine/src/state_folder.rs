//! The folder of a worker: its identity, its instances, its images.
//!
//! ```text
//! id            the worker's own UUID, made at the first start
//! lock          held by the engine that works here
//! instances/    one folder each, see `runtime::folder`
//! content/      see `image`
//! ```

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use crate::{
    core::{id::InstanceId, instance::Record},
    runtime::folder::InstanceFolder,
};

/// An opened and locked folder.
#[derive(Debug)]
pub struct StateFolder {
    path: PathBuf,
    id: Uuid,
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum StateFolderError {
    #[error("cannot use the state folder {path}")]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("another engine works in {0}; stop it first")]
    InUse(PathBuf),
    #[error("{0} has no worker id in it; remove the file to get a new one")]
    Id(PathBuf),
}

impl StateFolder {
    /// Opens the folder, made at the first start.
    ///
    /// # Errors
    /// When it cannot be written or another engine works in it.
    pub fn open(path: &Path) -> Result<Self, StateFolderError> {
        let error = |path: &Path| {
            let path = path.to_owned();
            move |source| StateFolderError::Io { path, source }
        };
        std::fs::create_dir_all(path.join("instances")).map_err(error(path))?;
        let path = path.canonicalize().map_err(error(path))?;
        let lock_path = path.join("lock");
        let lock = File::create(&lock_path).map_err(error(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StateFolderError::InUse(path)),
            Err(TryLockError::Error(source)) => return Err(error(&lock_path)(source)),
        }
        let id = worker_id(&path.join("id"))?;
        Ok(Self { path, id, _lock: lock })
    }

    /// The worker's own lasting id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    pub fn content(&self) -> PathBuf {
        self.path.join("content")
    }

    pub fn instance(&self, id: &InstanceId) -> InstanceFolder {
        InstanceFolder::new(self.instances_folder().join(id.to_string()))
    }

    /// Where [`Self::instance`]s are.
    pub fn instances_folder(&self) -> PathBuf {
        self.path.join("instances")
    }

    /// Every instance folder, with its record unless that is missing or damaged.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn instances(&self) -> Result<Vec<(InstanceFolder, Option<Record>)>, StateFolderError> {
        let path = self.instances_folder();
        let list = || -> io::Result<Vec<_>> {
            std::fs::read_dir(&path)?
                .map(|entry| {
                    let folder = InstanceFolder::new(entry?.path());
                    let record = read_record(&folder);
                    Ok((folder, record))
                })
                .collect()
        };
        list().map_err(|source| StateFolderError::Io { path: path.clone(), source })
    }
}

fn worker_id(path: &Path) -> Result<Uuid, StateFolderError> {
    let error = |source| StateFolderError::Io { path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|_| StateFolderError::Id(path.to_owned())),
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            let id = Uuid::new_v4();
            replace(path, id.to_string().as_bytes()).map_err(error)?;
            Ok(id)
        }
        Err(source) => Err(error(source)),
    }
}

fn read_record(folder: &InstanceFolder) -> Option<Record> {
    let bytes = std::fs::read(folder.record()).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| {
            tracing::error!(path = %folder.record().display(), %error, "record is damaged");
        })
        .ok()
}

/// Writes down what an instance is about. It need not reach the disk: an instance does not
/// outlive the machine either.
///
/// # Errors
/// When there is no room.
pub fn write_record(folder: &InstanceFolder, record: &Record) -> io::Result<()> {
    std::fs::create_dir_all(folder.path())?;
    replace(&folder.record(), &serde_json::to_vec(record)?)
}

/// A reader finds the old content or the new, never half of it.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, content)?;
    std::fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_keeps_its_id_and_shares_its_folder_with_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateFolder::open(dir.path()).unwrap();
        let id = first.id();
        let error = StateFolder::open(dir.path()).unwrap_err();
        assert!(matches!(error, StateFolderError::InUse(_)), "{error}");
        drop(first);
        assert_eq!(StateFolder::open(dir.path()).unwrap().id(), id);
    }

    #[test]
    fn a_damaged_id_is_not_replaced_silently() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("id"), "half a uu").unwrap();
        assert!(matches!(StateFolder::open(dir.path()), Err(StateFolderError::Id(_))));
    }
}

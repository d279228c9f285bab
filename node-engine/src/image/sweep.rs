//! Removes what no instance uses and nobody asked for lately, so that the store stays bounded by
//! what a worker runs.
//!
//! Whatever is asked for is touched, so its age is the time since then. What is too old is
//! renamed away under the lock of those who ask for it: it is there whole or not at all.

use std::{
    collections::HashSet,
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::{ImageError, Images};

/// What an instance needs of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Folder names of layers.
    pub layers: Vec<String>,
    /// File names of blobs, with which the instance could be started again.
    #[serde(default)]
    pub blobs: Vec<String>,
}

impl Images {
    /// Removes layers and blobs that are in no `needs` and older than `keep`; returns how many.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn sweep(&self, needs: &[Needs], keep: Duration) -> Result<usize, ImageError> {
        let store_error = |source| ImageError::Store { path: self.temporary.clone(), source };
        let layers: HashSet<_> = needs.iter().flat_map(|needs| &needs.layers).collect();
        let blobs: HashSet<_> = needs.iter().flat_map(|needs| &needs.blobs).collect();
        let mut removed = 0;
        for path in entries(self.layers.folder()).map_err(store_error)? {
            let name = file_name(&path);
            if path.is_dir() && !layers.contains(&name) && is_older(&path, keep) {
                let _turn = self.layers.lock(&name).await;
                removed += usize::from(self.remove(&path, keep).map_err(store_error)?);
            }
        }
        for path in entries(self.blobs.folder()).map_err(store_error)? {
            let name = file_name(&path);
            if !blobs.contains(&name) && is_older(&path, keep) {
                let _turn = self.blobs.lock(&name).await;
                removed += usize::from(self.remove(&path, keep).map_err(store_error)?);
            }
        }
        for path in entries(&self.names).map_err(store_error)? {
            if is_older(&path, keep) && !self.means_something(&path) {
                removed += usize::from(self.remove(&path, keep).map_err(store_error)?);
            }
        }
        Ok(removed)
    }

    /// Removes a file or folder unless it was touched just now.
    fn remove(&self, path: &Path, keep: Duration) -> io::Result<bool> {
        if !is_older(path, keep) {
            return Ok(false);
        }
        // Gone at once and whole, however long the removal takes or whatever interrupts it.
        let grave = tempfile::TempDir::new_in(&self.temporary)?;
        std::fs::rename(path, grave.path().join("gone"))?;
        grave.close()?;
        Ok(true)
    }
}

/// Makes something young.
pub(super) fn touch(path: &Path) {
    let touched = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!(path = %path.display(), %error, "cannot be touched");
    }
}

fn is_older(path: &Path, than: Duration) -> bool {
    let age = std::fs::metadata(path)
        .and_then(|metadata| metadata.modified())
        .map(|modified| SystemTime::now().duration_since(modified).unwrap_or_default());
    age.is_ok_and(|age| age >= than)
}

fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

//! The store of unpacked layers.
//!
//! A layer is unpacked once, under a name made of its chain id (its own content and that of all
//! layers below it), and used by every instance of every image that has it. It gets that name
//! only when it is whole and its content was found to be what the image says.
//!
//! Layers can be made again from their blobs, so nobody waits for them to reach the disk. After
//! a restart of the machine, only those known to have reached it are kept.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::sync::OwnedMutexGuard;

use super::{
    blob,
    keyed_lock::KeyedLock,
    sweep::touch,
    tree::Tree,
    unpack::{UnpackError, unpack},
};

/// Hexadecimal digits of a chain id that name a layer. Short, because the names of all layers of
/// an image share one page of mount options; 96 bits are still more than anybody can forge.
const NAME_LENGTH: usize = 24;

/// Beside a layer that is known to be on the disk.
const ON_DISK: &str = "synced";

/// Names an unpacked layer: a folder below [`LayerStore::folder`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LayerId {
    chain: String,
}

impl LayerId {
    /// The chain id of the layer `diff_id` on top of `below`, as the image specification
    /// defines it.
    fn new(below: Option<&LayerId>, diff_id: &Digest) -> Self {
        let chain = match below {
            None => diff_id.to_string(),
            Some(below) => {
                blob::sha256(format!("{} {diff_id}", below.chain).as_bytes()).to_string()
            }
        };
        Self { chain }
    }

    /// The name of the layer's folder.
    pub fn folder_name(&self) -> &str {
        let digits = self.chain.rsplit(':').next().unwrap_or_default();
        &digits[..NAME_LENGTH.min(digits.len())]
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.chain)
    }
}

#[derive(Debug)]
pub struct LayerStore {
    folder: PathBuf,
    temporary: PathBuf,
    locks: KeyedLock,
}

#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("layer {diff_id} cannot be unpacked")]
    Unpack {
        diff_id: Digest,
        #[source]
        source: Box<UnpackError>,
    },
    #[error("layer is corrupt: the image says that its content is {expected}, it is {actual}")]
    Content { expected: Digest, actual: String },
    #[error("layer {diff_id} cannot be stored")]
    Store {
        diff_id: Digest,
        #[source]
        source: io::Error,
    },
}

impl LayerStore {
    /// # Errors
    /// When the folder cannot be read or cleaned.
    pub fn open(folder: PathBuf, temporary: PathBuf) -> io::Result<Self> {
        let boot_file = folder.join("boot_id");
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        if std::fs::read_to_string(&boot_file).is_ok_and(|last| last != boot) {
            for entry in std::fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() && !path.join(ON_DISK).exists() {
                    std::fs::remove_dir_all(&path)?;
                }
            }
        }
        std::fs::write(&boot_file, boot)?;
        Ok(Self { folder, temporary, locks: KeyedLock::default() })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Held by whoever makes or removes the layer of that folder name.
    pub(super) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        self.locks.lock(name).await
    }

    /// The layer `diff_id` on top of `below` (lowest first), unpacked from `blob` if it is not
    /// here yet.
    ///
    /// # Errors
    /// When the blob is damaged, has a forbidden entry, or there is no room.
    pub async fn ensure(
        self: &Arc<Self>,
        below: &[LayerId],
        diff_id: &Digest,
        blob: PathBuf,
    ) -> Result<LayerId, LayerError> {
        let id = LayerId::new(below.last(), diff_id);
        let _turn = self.lock(id.folder_name()).await;
        let path = self.folder.join(id.folder_name());
        if path.exists() {
            touch(&path);
            return Ok(id);
        }
        let lower: Vec<_> = below.iter().rev().map(|layer| self.tree_of(layer)).collect();
        let (store, expected) = (self.clone(), diff_id.clone());
        let made = tokio::task::spawn_blocking(move || store.make(&path, &lower, &expected, &blob));
        made.await
            .map_err(io::Error::other)
            .map_err(|source| LayerError::Store { diff_id: diff_id.clone(), source })??;
        Ok(id)
    }

    /// Where the content of a layer is.
    fn tree_of(&self, layer: &LayerId) -> PathBuf {
        self.folder.join(layer.folder_name()).join("fs")
    }

    fn make(
        &self,
        path: &Path,
        lower: &[PathBuf],
        diff_id: &Digest,
        blob: &Path,
    ) -> Result<(), LayerError> {
        let store_error = |source| LayerError::Store { diff_id: diff_id.clone(), source };
        // Removed again by its destructor, unless everything goes well.
        let mut half_done = TempDir::new_in(&self.temporary).map_err(store_error)?;
        let root = half_done.path().join("fs");
        std::fs::create_dir(&root).map_err(store_error)?;
        let tree = Tree::open(&root, lower).map_err(store_error)?;
        let actual = unpack(blob, &tree)
            .map_err(|e| LayerError::Unpack { diff_id: diff_id.clone(), source: Box::new(e) })?;
        if actual != diff_id.digest() {
            let actual = format!("sha256:{actual}");
            return Err(LayerError::Content { expected: diff_id.clone(), actual });
        }
        std::fs::rename(half_done.path(), path).map_err(store_error)?;
        half_done.disable_cleanup(true);
        self.write_back(path.to_owned());
        Ok(())
    }

    /// Marks the layer as being on the disk once it is, without anybody waiting.
    fn write_back(&self, path: PathBuf) {
        std::thread::spawn(move || {
            let sync = || -> io::Result<()> {
                nix::unistd::syncfs(std::fs::File::open(&path)?)?;
                std::fs::write(path.join(ON_DISK), "")
            };
            if let Err(error) = sync() {
                tracing::warn!(path = %path.display(), %error, "layer could not be written back");
            }
        });
    }
}

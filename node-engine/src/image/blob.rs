//! The store of blobs: files named by the SHA-256 of what is in them.
//!
//! A blob gets its name only after its content was found to have that digest and was written to
//! disk, so whatever is there is whole. Several that ask for one blob at a time wait for one
//! transfer.

use std::{
    io,
    path::{Path, PathBuf},
};

use oci_spec::image::{Descriptor, Digest, DigestAlgorithm};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::OwnedMutexGuard,
};

use super::{keyed_lock::KeyedLock, sweep::touch};

/// What a blob is read from.
pub type Content = Box<dyn AsyncRead + Send + Unpin>;

/// Bytes moved at a time.
const CHUNK: usize = 256 * 1024;

#[derive(Debug)]
pub struct BlobStore {
    blobs: PathBuf,
    temporary: PathBuf,
    locks: KeyedLock,
}

#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("digest {0} is not sha256, the only kind that is taken")]
    Algorithm(Digest),
    #[error("blob {expected} is corrupt: its content has the digest {actual}")]
    Digest { expected: Digest, actual: String },
    #[error("blob {digest} has more than the {size} bytes that its descriptor says")]
    TooLong { digest: Digest, size: u64 },
    #[error("cannot read blob {digest}")]
    Read {
        digest: Digest,
        #[source]
        source: io::Error,
    },
    #[error("cannot store blob {digest}")]
    Write {
        digest: Digest,
        #[source]
        source: io::Error,
    },
}

impl BlobStore {
    /// Below `blobs`; what is under way is in `temporary`, on the same file system.
    pub fn new(blobs: PathBuf, temporary: PathBuf) -> Self {
        Self { blobs, temporary, locks: KeyedLock::default() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.blobs
    }

    /// Held by whoever brings or removes the blob of that file name.
    pub(super) async fn lock(&self, name: &str) -> OwnedMutexGuard<()> {
        self.locks.lock(name).await
    }

    /// Where a blob is or would be.
    ///
    /// # Errors
    /// When the digest is not SHA-256.
    pub fn path(&self, digest: &Digest) -> Result<PathBuf, BlobError> {
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => Ok(self.blobs.join(digest.digest())),
            _ => Err(BlobError::Algorithm(digest.clone())),
        }
    }

    /// The path of the blob, fetched from what `open` gives if it is not here yet.
    ///
    /// # Errors
    /// When it cannot be fetched or stored, or is not what its descriptor says.
    pub async fn ensure<E: From<BlobError>>(
        &self,
        blob: &Descriptor,
        open: impl Future<Output = Result<Content, E>> + Send,
    ) -> Result<PathBuf, E> {
        let path = self.path(blob.digest())?;
        let _turn = self.lock(blob.digest().digest()).await;
        if path.exists() {
            touch(&path);
        } else {
            let mut reader = open.await?;
            let file = self.receive(blob, &mut reader).await?;
            self.keep(blob.digest(), file, path.clone()).await?;
        }
        Ok(path)
    }

    /// The content of a small blob.
    ///
    /// # Errors
    /// When it is not here, or not what its digest says (a damaged disk).
    pub async fn read(&self, digest: &Digest) -> Result<Vec<u8>, BlobError> {
        let read_error = |source| BlobError::Read { digest: digest.clone(), source };
        let bytes = tokio::fs::read(self.path(digest)?).await.map_err(read_error)?;
        check(digest, Sha256::digest(&bytes).as_slice())?;
        Ok(bytes)
    }

    /// Forgets a blob that turned out damaged, so that it is fetched anew.
    pub fn discard(&self, digest: &Digest) {
        if let Ok(path) = self.path(digest)
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "damaged blob cannot be removed");
        }
    }

    async fn receive(
        &self,
        blob: &Descriptor,
        reader: &mut Content,
    ) -> Result<NamedTempFile, BlobError> {
        let digest = blob.digest();
        let read_error = |source| BlobError::Read { digest: digest.clone(), source };
        let write_error = |source| BlobError::Write { digest: digest.clone(), source };

        let file = NamedTempFile::new_in(&self.temporary).map_err(write_error)?;
        let mut out = tokio::fs::File::from_std(file.reopen().map_err(write_error)?);
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; CHUNK];
        let mut length = 0;
        loop {
            let n = reader.read(&mut buffer).await.map_err(read_error)?;
            if n == 0 {
                break;
            }
            length += n as u64;
            if length > blob.size() {
                return Err(BlobError::TooLong { digest: digest.clone(), size: blob.size() });
            }
            hasher.update(&buffer[..n]);
            out.write_all(&buffer[..n]).await.map_err(write_error)?;
        }
        check(digest, hasher.finalize().as_slice())?;
        out.sync_all().await.map_err(write_error)?;
        Ok(file)
    }

    async fn keep(
        &self,
        digest: &Digest,
        file: NamedTempFile,
        path: PathBuf,
    ) -> Result<(), BlobError> {
        let rename = tokio::task::spawn_blocking(move || -> io::Result<()> {
            file.persist(&path)?;
            sync_directory_of(&path)
        });
        rename
            .await
            .map_err(io::Error::other)
            .flatten()
            .map_err(|source| BlobError::Write { digest: digest.clone(), source })
    }
}

/// Makes the name of `path` last through a loss of power.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
}

/// # Errors
/// When `actual` is not what `expected` says.
fn check(expected: &Digest, actual: &[u8]) -> Result<(), BlobError> {
    let actual = hex(actual);
    if expected.digest() == actual {
        Ok(())
    } else {
        Err(BlobError::Digest { expected: expected.clone(), actual: format!("sha256:{actual}") })
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of `bytes`.
pub fn sha256(bytes: &[u8]) -> Digest {
    let text = format!("sha256:{}", hex(Sha256::digest(bytes).as_slice()));
    text.parse().expect("64 lower-case hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use oci_spec::image::MediaType;

    use super::*;

    fn store() -> (tempfile::TempDir, BlobStore) {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, temporary) = (dir.path().join("blobs"), dir.path().join("tmp"));
        std::fs::create_dir(&blobs).unwrap();
        std::fs::create_dir(&temporary).unwrap();
        let store = BlobStore::new(blobs, temporary);
        (dir, store)
    }

    fn blob(of: &[u8]) -> Descriptor {
        Descriptor::new(MediaType::ImageLayer, of.len() as u64, sha256(of))
    }

    async fn ensure(
        store: &BlobStore,
        blob: &Descriptor,
        content: &'static [u8],
    ) -> Result<PathBuf, BlobError> {
        store.ensure(blob, async { Ok(Box::new(content) as Content) }).await
    }

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[tokio::test]
    async fn a_blob_is_kept_only_when_it_is_what_its_digest_says() {
        let (dir, store) = store();
        let error = ensure(&store, &blob(b"good"), b"evil").await.unwrap_err();
        assert!(error.to_string().contains("corrupt"), "{error}");
        let error = ensure(&store, &blob(b"good"), b"good and more").await.unwrap_err();
        assert!(error.to_string().contains("more than the 4 bytes"), "{error}");
        assert_eq!((files(&dir.path().join("blobs")), files(&dir.path().join("tmp"))), (0, 0));

        let path = ensure(&store, &blob(b"good"), b"good").await.unwrap();
        assert_eq!(std::fs::read(path).unwrap(), b"good");
        assert_eq!(files(&dir.path().join("tmp")), 0);
    }

    #[tokio::test]
    async fn those_who_ask_for_one_blob_at_a_time_share_one_transfer() {
        let (_dir, store) = store();
        let (store, opened) = (Arc::new(store), Arc::new(AtomicUsize::new(0)));
        let asks = (0..8).map(|_| {
            let (store, opened) = (store.clone(), opened.clone());
            tokio::spawn(async move {
                store
                    .ensure::<BlobError>(&blob(b"layer"), async {
                        opened.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        Ok(Box::new(&b"layer"[..]) as Content)
                    })
                    .await
            })
        });
        for ask in futures::future::join_all(asks).await {
            ask.unwrap().unwrap();
        }
        assert_eq!(opened.load(Ordering::SeqCst), 1);
    }
}

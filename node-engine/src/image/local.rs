//! Images on this machine: a directory in the OCI image layout, or a tar of one.

use std::{
    collections::HashMap,
    io::{self, SeekFrom},
    path::{Path, PathBuf},
};

use oci_spec::image::{Descriptor, Digest, ImageIndex};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
};

use super::{SMALL_BLOB_MAX, blob::Content};

/// The annotation that names an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image layout to read from.
#[derive(Debug)]
pub enum LocalImage {
    Layout { path: PathBuf },
    Archive { path: PathBuf, files: HashMap<PathBuf, Extent> },
}

/// Where a file is in an archive, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    start: u64,
    length: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum LocalImageError {
    #[error("cannot read {path}")]
    Read {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("{path} has no {file}; is it an OCI image layout?")]
    NoSuchFile { path: PathBuf, file: String },
    #[error("{path} is not a valid image index")]
    Index {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{path} has no image tagged {tag:?}; it has: {has}")]
    NoSuchTag { path: PathBuf, tag: String, has: String },
    #[error("{path} has no image")]
    Empty { path: PathBuf },
}

impl LocalImage {
    pub fn layout(path: PathBuf) -> Self {
        Self::Layout { path }
    }

    /// Looks over an archive once, so that each file in it can be read in place.
    ///
    /// # Errors
    /// When it cannot be read or is not a tar.
    pub async fn archive(path: PathBuf) -> Result<Self, LocalImageError> {
        let scan = {
            let path = path.clone();
            move || list_archive(&path)
        };
        let files =
            tokio::task::spawn_blocking(scan).await.map_err(io::Error::other).flatten().map_err(
                |source| LocalImageError::Read { path: path.display().to_string(), source },
            )?;
        Ok(Self::Archive { path, files })
    }

    /// The image of that tag; without a tag, all that the layout has, to choose by platform.
    ///
    /// # Errors
    /// When there is no such image.
    pub async fn index(&self, tag: Option<&str>) -> Result<Vec<Descriptor>, LocalImageError> {
        let bytes = self.small_file("index.json").await?;
        let index: ImageIndex = serde_json::from_slice(&bytes).map_err(|source| {
            LocalImageError::Index { path: self.describe("index.json"), source }
        })?;
        let all = index.manifests().clone();
        let Some(tag) = tag else {
            return if all.is_empty() {
                Err(LocalImageError::Empty { path: self.path().to_owned() })
            } else {
                Ok(all)
            };
        };
        let names = |image: &Descriptor| {
            image.annotations().as_ref().and_then(|annotations| annotations.get(REF_NAME)).cloned()
        };
        let named: Vec<_> =
            all.iter().filter(|image| names(image).as_deref() == Some(tag)).cloned().collect();
        if named.is_empty() {
            let has: Vec<_> = all.iter().filter_map(names).collect();
            let (path, tag, has) = (self.path().to_owned(), tag.to_owned(), has.join(", "));
            return Err(LocalImageError::NoSuchTag { path, tag, has });
        }
        Ok(named)
    }

    /// A small blob, not yet verified.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn small_blob(&self, digest: &Digest) -> Result<Vec<u8>, LocalImageError> {
        self.small_file(&blob_path(digest)).await
    }

    /// The content of a blob, not yet verified.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn blob(&self, blob: &Descriptor) -> Result<Content, LocalImageError> {
        self.open(&blob_path(blob.digest())).await
    }

    async fn small_file(&self, file: &str) -> Result<Vec<u8>, LocalImageError> {
        let mut bytes = vec![];
        let reader = self.open(file).await?;
        reader
            .take(SMALL_BLOB_MAX)
            .read_to_end(&mut bytes)
            .await
            .map_err(|source| LocalImageError::Read { path: self.describe(file), source })?;
        Ok(bytes)
    }

    async fn open(&self, file: &str) -> Result<Content, LocalImageError> {
        let read_error = |source| LocalImageError::Read { path: self.describe(file), source };
        let missing =
            || LocalImageError::NoSuchFile { path: self.path().to_owned(), file: file.to_owned() };
        match self {
            Self::Layout { path } => match File::open(path.join(file)).await {
                Ok(opened) => Ok(Box::new(opened)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing()),
                Err(error) => Err(read_error(error)),
            },
            Self::Archive { path, files } => {
                let extent = files.get(Path::new(file)).ok_or_else(missing)?;
                let mut opened = File::open(path).await.map_err(read_error)?;
                opened.seek(SeekFrom::Start(extent.start)).await.map_err(read_error)?;
                Ok(Box::new(opened.take(extent.length)))
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Layout { path } | Self::Archive { path, .. } => path,
        }
    }

    fn describe(&self, file: &str) -> String {
        format!("{file} of {}", self.path().display())
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
}

fn list_archive(path: &Path) -> io::Result<HashMap<PathBuf, Extent>> {
    let mut archive = tar::Archive::new(std::fs::File::open(path)?);
    let mut files = HashMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entry.header().entry_type().is_file() {
            let name = entry.path()?.components().collect::<PathBuf>();
            let name = name.strip_prefix(".").unwrap_or(&name).to_owned();
            files.insert(name, Extent { start: entry.raw_file_position(), length: entry.size() });
        }
    }
    Ok(files)
}

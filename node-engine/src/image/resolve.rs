//! From the name of an image to the manifest for this machine.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use oci_spec::image::{
    Arch, Descriptor, Digest, ImageConfiguration, ImageIndex, ImageManifest, MediaType, Os,
};
use serde::{Deserialize, Serialize, de::IgnoredAny};

use super::{
    ImageError, Images, LAYERS_MAX, SMALL_BLOB_MAX, Source,
    blob::{self, Content},
    local::LocalImage,
    reference::ImageRef,
    sweep::touch,
};

/// What a name last meant, so that a worker cut off from the registry can start what it has.
#[derive(Serialize, Deserialize)]
struct Remembered {
    name: String,
    digest: Digest,
}

/// A manifest, and where its blobs are to be had.
pub(super) struct Found<'a> {
    pub(super) manifest: ImageManifest,
    pub(super) source: Source<'a>,
    /// What led to it, and it.
    pub(super) documents: Vec<Digest>,
}

enum Document {
    Manifest(Box<ImageManifest>),
    Index(Box<ImageIndex>),
}

/// Tells an index from a manifest by its fields: the media type may be left out.
#[derive(Deserialize)]
struct Shape {
    manifests: Option<IgnoredAny>,
}

impl Images {
    /// The manifest of the image for this machine.
    pub(super) async fn manifest(&self, reference: ImageRef) -> Result<Found<'_>, ImageError> {
        let (image, tag) = match reference {
            ImageRef::Registry(reference) => {
                let bytes = self.named_document(&reference).await?;
                let source = Source::Registry(&self.registries, reference);
                let mut documents = vec![blob::sha256(&bytes)];
                let manifest = match parse(&bytes)? {
                    Document::Manifest(manifest) => *manifest,
                    Document::Index(index) => {
                        let chosen = choose(index.manifests())?;
                        documents.push(chosen.digest().clone());
                        self.manifest_of(&source, chosen).await?
                    }
                };
                return Ok(Found { manifest, source, documents });
            }
            ImageRef::Layout { path, tag } => (LocalImage::layout(path), tag),
            ImageRef::Archive { path, tag } => (LocalImage::archive(path).await?, tag),
        };
        let candidates = image.index(tag.as_deref()).await?;
        let mut chosen = choose(&candidates)?.clone();
        let source = Source::Local(image);
        let mut documents = vec![chosen.digest().clone()];
        if is_index(chosen.media_type()) {
            let bytes = self.document(&source, &chosen).await?;
            let Document::Index(index) = parse(&bytes)? else {
                return Err(ImageError::NestedIndex);
            };
            chosen = choose(index.manifests())?.clone();
            documents.push(chosen.digest().clone());
        }
        let manifest = self.manifest_of(&source, &chosen).await?;
        Ok(Found { manifest, source, documents })
    }

    async fn manifest_of(
        &self,
        source: &Source<'_>,
        descriptor: &Descriptor,
    ) -> Result<ImageManifest, ImageError> {
        match parse(&self.document(source, descriptor).await?)? {
            Document::Manifest(manifest) => Ok(*manifest),
            Document::Index(_) => Err(ImageError::NestedIndex),
        }
    }

    /// An index or manifest known by its digest.
    async fn document(
        &self,
        source: &Source<'_>,
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, ImageError> {
        check_small(descriptor)?;
        let digest = descriptor.digest();
        let open = async {
            let bytes = match source {
                Source::Registry(registries, reference) => {
                    registries.manifest_by_digest(reference, digest).await?
                }
                Source::Local(image) => image.small_blob(digest).await?,
            };
            Ok::<_, ImageError>(Box::new(std::io::Cursor::new(bytes)) as Content)
        };
        self.blobs.ensure(descriptor, open).await?;
        Ok(self.blobs.read(digest).await?)
    }

    /// The index or manifest that a registry has under a name now or, when the registry cannot
    /// be reached, had when it was asked last.
    async fn named_document(
        &self,
        reference: &oci_client::Reference,
    ) -> Result<Vec<u8>, ImageError> {
        if let Some(pinned) = reference.digest()
            && let Ok(digest) = pinned.parse()
            && let Ok(bytes) = self.blobs.read(&digest).await
        {
            self.blobs.path(&digest).iter().for_each(|path| touch(path));
            return Ok(bytes);
        }
        let name = reference.whole();
        match self.registries.manifest(reference).await {
            Ok(bytes) => {
                self.remember(&name, &bytes).await?;
                Ok(bytes)
            }
            Err(error) if error.is_unreachable() => match self.recall(&name).await {
                Some(bytes) => {
                    tracing::warn!(image = name, %error, "registry is away, known image is used");
                    Ok(bytes)
                }
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    async fn remember(&self, name: &str, document: &[u8]) -> Result<(), ImageError> {
        let digest = blob::sha256(document);
        let descriptor =
            Descriptor::new(MediaType::ImageManifest, document.len() as u64, digest.clone());
        let bytes = document.to_vec();
        let open = async { Ok::<_, ImageError>(Box::new(std::io::Cursor::new(bytes)) as Content) };
        self.blobs.ensure(&descriptor, open).await?;

        let path = self.remembered_path(name);
        let text = serde_json::to_vec(&Remembered { name: name.to_owned(), digest })
            .expect("two strings can be written as JSON");
        // A file of its own for each writer: instances of one image start side by side.
        let (folder, target) = (self.temporary.clone(), path.clone());
        let write = tokio::task::spawn_blocking(move || -> io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(target)?;
            Ok(())
        });
        write
            .await
            .unwrap_or_else(|cancelled| Err(io::Error::other(cancelled)))
            .map_err(|source| ImageError::Store { path, source })
    }

    async fn recall(&self, name: &str) -> Option<Vec<u8>> {
        let bytes = tokio::fs::read(self.remembered_path(name)).await.ok()?;
        let remembered: Remembered = serde_json::from_slice(&bytes).ok()?;
        self.blobs.path(&remembered.digest).iter().for_each(|path| touch(path));
        self.blobs.read(&remembered.digest).await.ok()
    }

    /// Whether what a name last meant is still here.
    pub(super) fn means_something(&self, remembered: &Path) -> bool {
        let meaning = std::fs::read(remembered)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Remembered>(&bytes).ok())
            .and_then(|remembered| self.blobs.path(&remembered.digest).ok());
        meaning.is_some_and(|blob| blob.exists())
    }

    fn remembered_path(&self, name: &str) -> PathBuf {
        self.names.join(blob::sha256(name.as_bytes()).digest())
    }
}

fn parse(bytes: &[u8]) -> Result<Document, ImageError> {
    let parsed = serde_json::from_slice(bytes).and_then(|shape: Shape| match shape.manifests {
        Some(_) => serde_json::from_slice(bytes).map(|index| Document::Index(Box::new(index))),
        None => {
            serde_json::from_slice(bytes).map(|manifest| Document::Manifest(Box::new(manifest)))
        }
    });
    parsed.map_err(|source| ImageError::Json { what: "manifest", source })
}

fn is_index(media_type: &MediaType) -> bool {
    media_type == &MediaType::ImageIndex || media_type.to_string().contains("manifest.list")
}

/// The first entry for this machine. Entries that do not say their platform fit any.
fn choose(images: &[Descriptor]) -> Result<&Descriptor, ImageError> {
    let fits = |image: &&Descriptor| match image.platform() {
        None => true,
        Some(platform) => {
            platform.os() == &Os::Linux && platform.architecture() == &Arch::default()
        }
    };
    images.iter().find(fits).ok_or_else(|| {
        let platforms = images.iter().filter_map(|image| image.platform().as_ref());
        let has: Vec<_> = platforms.map(|p| platform_text(p.os(), p.architecture())).collect();
        ImageError::Platform { wanted: this_platform(), has: has.join(", ") }
    })
}

/// # Errors
/// When the image says that it is for another kind of machine.
pub(super) fn check_platform(config: &ImageConfiguration) -> Result<(), ImageError> {
    if config.os() == &Os::Linux && config.architecture() == &Arch::default() {
        return Ok(());
    }
    let has = platform_text(config.os(), config.architecture());
    Err(ImageError::Platform { wanted: this_platform(), has })
}

fn this_platform() -> String {
    platform_text(&Os::Linux, &Arch::default())
}

fn platform_text(os: &Os, architecture: &Arch) -> String {
    format!("{os}/{architecture}")
}

/// # Errors
/// When the size that the descriptor says is no size for JSON.
pub(super) fn check_small(descriptor: &Descriptor) -> Result<(), ImageError> {
    if descriptor.size() <= SMALL_BLOB_MAX {
        return Ok(());
    }
    Err(ImageError::TooLarge { digest: descriptor.digest().clone(), size: descriptor.size() })
}

/// The digests of the unpacked layers, lowest first, one for each layer of the manifest.
pub(super) fn diff_ids(
    manifest: &ImageManifest,
    config: &ImageConfiguration,
) -> Result<Vec<Digest>, ImageError> {
    let texts = config.rootfs().diff_ids();
    let count = manifest.layers().len();
    if texts.len() != count {
        return Err(ImageError::LayerCount { manifest: count, config: texts.len() });
    }
    if count > LAYERS_MAX {
        return Err(ImageError::TooManyLayers(count));
    }
    texts
        .iter()
        .map(|text| {
            text.parse().map_err(|error| ImageError::Json {
                what: "list of diff ids",
                source: serde::de::Error::custom(error),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::RegistryOptions;

    #[tokio::test(flavor = "multi_thread")]
    async fn instances_of_one_image_may_start_side_by_side() {
        // As `main` does; another test may have been first.
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path().into(), RegistryOptions::default()).unwrap();
        let writers = (0..64).map(|_| images.remember("registry/image:1", b"{}"));
        for outcome in futures::future::join_all(writers).await {
            outcome.unwrap();
        }
        assert_eq!(images.recall("registry/image:1").await.unwrap(), b"{}");
    }
}

//! Images: found by name, fetched once, unpacked once, shared by all instances.
//!
//! [`Images::prepare`] turns a name into layers on disk and a configuration. Everything in
//! between is verified: an index, manifest or configuration against the digest that named it, a
//! layer's blob against its descriptor, its unpacked content against the configuration.
//!
//! On disk, below `content/` of the state folder: `blobs/` (see [`blob`]), `layers/` (see
//! [`layer`]), `names/` (which manifest a name last meant), `tmp/` (under way; emptied at start).
//! What is not used any more goes after a while, see [`sweep`].

pub mod blob;
mod keyed_lock;
pub mod layer;
pub mod local;
pub mod reference;
pub mod registry;
mod resolve;
pub mod sweep;
mod tree;
mod unpack;

use std::{io, path::PathBuf, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use oci_spec::image::{Descriptor, Digest, ImageConfiguration};

use self::{
    blob::{BlobError, BlobStore},
    layer::{LayerError, LayerId, LayerStore},
    local::{LocalImage, LocalImageError},
    reference::{ImageRef, InvalidImageRef},
    registry::{Registries, RegistryError, RegistryOptions},
    resolve::Found,
    sweep::Needs,
};

/// Largest index, manifest or configuration that is read, in bytes.
const SMALL_BLOB_MAX: u64 = 8 << 20;

/// Blobs of one image that are fetched at a time.
const CONCURRENT_BLOBS: usize = 3;

/// Most layers an image can have: their names have to fit the one page of mount options.
const LAYERS_MAX: usize = 120;

/// All images of this worker.
#[derive(Debug)]
pub struct Images {
    registries: Registries,
    blobs: BlobStore,
    layers: Arc<LayerStore>,
    names: PathBuf,
    temporary: PathBuf,
}

/// An image that is ready to run.
#[derive(Clone, Debug)]
pub struct Image {
    pub config: ImageConfiguration,
    /// Lowest first.
    pub layers: Vec<LayerId>,
    /// Everything of the store that it consists of.
    pub needs: Needs,
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("cannot set up the image store {path}")]
    Store {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Reference(#[from] InvalidImageRef),
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Local(#[from] LocalImageError),
    #[error(transparent)]
    Blob(#[from] BlobError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error("the {what} of the image is not valid")]
    Json {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("image has nothing for {wanted}; it is for: {has}")]
    Platform { wanted: String, has: String },
    #[error("image index points to another index; only one step is followed")]
    NestedIndex,
    #[error("layer media type {0} is not supported; it must be a tar, plain, gzip or zstd")]
    LayerType(String),
    #[error("image has {manifest} layers and {config} diff ids; both must be the same number")]
    LayerCount { manifest: usize, config: usize },
    #[error("image has {0} layers, at most {LAYERS_MAX} are supported")]
    TooManyLayers(usize),
    #[error("blob {digest} of {size} bytes is too large to be an index, manifest or configuration")]
    TooLarge { digest: Digest, size: u64 },
}

/// Where the parts of one image come from.
enum Source<'a> {
    Registry(&'a Registries, oci_client::Reference),
    Local(LocalImage),
}

impl Images {
    /// Opens the store below `content`, and clears what an earlier run left half done.
    ///
    /// # Errors
    /// When the folder cannot be made or the registry client not set up.
    pub fn open(content: PathBuf, options: RegistryOptions) -> Result<Self, ImageError> {
        let at = |name: &str| content.join(name);
        let (blobs, layers, names, temporary) = (at("blobs"), at("layers"), at("names"), at("tmp"));
        let store_error = |path: &PathBuf| {
            let path = path.clone();
            move |source| ImageError::Store { path, source }
        };
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary).map_err(store_error(&temporary))?;
        }
        for folder in [&blobs, &layers, &names, &temporary] {
            std::fs::create_dir_all(folder).map_err(store_error(folder))?;
        }
        let layers = LayerStore::open(layers, temporary.clone()).map_err(store_error(&content))?;
        Ok(Self {
            registries: Registries::new(options)?,
            blobs: BlobStore::new(blobs, temporary.clone()),
            layers: Arc::new(layers),
            names,
            temporary,
        })
    }

    /// The folder that [`LayerId`]s are names in.
    pub fn layers_folder(&self) -> &std::path::Path {
        self.layers.folder()
    }

    /// Fetches and unpacks what is missing of the image.
    ///
    /// # Errors
    /// When the name is not valid, or the image cannot be had, is damaged or does not fit this
    /// machine. The text says which part and why.
    pub async fn prepare(&self, name: &str) -> Result<Image, ImageError> {
        let reference: ImageRef = name.parse()?;
        let Found { manifest, source, documents } = self.manifest(reference).await?;
        for layer in manifest.layers() {
            let media_type = layer.media_type().to_string();
            if !media_type.contains("tar") {
                return Err(ImageError::LayerType(media_type));
            }
        }
        let config = self.config(&source, manifest.config()).await?;
        let diff_ids = resolve::diff_ids(&manifest, &config)?;

        let fetches: Vec<_> =
            manifest.layers().iter().map(|layer| self.fetch(&source, layer)).collect();
        let mut fetched = stream::iter(fetches).buffered(CONCURRENT_BLOBS);
        let mut layers: Vec<LayerId> = vec![];
        for (diff_id, layer) in diff_ids.iter().zip(manifest.layers()) {
            let path = fetched.try_next().await?.expect("one blob a layer");
            let unpacked = self.layers.ensure(&layers, diff_id, path).await;
            // Verified when it came, so the disk has damaged it since, or it was made wrong.
            if let Err(LayerError::Content { .. } | LayerError::Unpack { .. }) = &unpacked {
                self.blobs.discard(layer.digest());
            }
            layers.push(unpacked?);
        }
        let parts = manifest.layers().iter().chain([manifest.config()]).map(Descriptor::digest);
        let needs = Needs {
            layers: layers.iter().map(|layer| layer.folder_name().to_owned()).collect(),
            blobs: parts.chain(&documents).map(|digest| digest.digest().to_owned()).collect(),
        };
        Ok(Image { config, layers, needs })
    }

    async fn config(
        &self,
        source: &Source<'_>,
        descriptor: &Descriptor,
    ) -> Result<ImageConfiguration, ImageError> {
        resolve::check_small(descriptor)?;
        self.fetch(source, descriptor).await?;
        let bytes = self.blobs.read(descriptor.digest()).await?;
        let config: ImageConfiguration = serde_json::from_slice(&bytes)
            .map_err(|source| ImageError::Json { what: "configuration", source })?;
        resolve::check_platform(&config)?;
        Ok(config)
    }

    async fn fetch(
        &self,
        source: &Source<'_>,
        descriptor: &Descriptor,
    ) -> Result<PathBuf, ImageError> {
        let open = async {
            match source {
                Source::Registry(registries, reference) => {
                    Ok::<_, ImageError>(registries.blob(reference, descriptor).await?)
                }
                Source::Local(image) => Ok(image.blob(descriptor).await?),
            }
        };
        self.blobs.ensure(descriptor, open).await
    }
}

//! Images made for a test, as an OCI layout on disk.

use std::{
    collections::HashMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder,
    ImageIndexBuilder, ImageManifestBuilder, MediaType, Os, RootFsBuilder,
};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::program::program;

/// One tar, entry by entry, with any names in it.
#[derive(Clone, Default)]
pub(crate) struct Layer {
    tar: Vec<u8>,
}

#[derive(Clone, Copy)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Layer {
    /// A layer that has the test program at `/program`.
    pub(crate) fn with_program() -> Self {
        Self::default().file("program", 0o755, program())
    }

    pub(crate) fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, EntryType::Regular, mode, "", content)
    }

    pub(crate) fn owned_file(mut self, path: &str, mode: u32, uid: u64, gid: u64) -> Self {
        let mut header = header(path, EntryType::Regular, mode, "", 0);
        header.set_uid(uid);
        header.set_gid(gid);
        self.append(header, &[]);
        self
    }

    pub(crate) fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(path, EntryType::Directory, mode, "", &[])
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Symlink, 0o777, target, &[])
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, EntryType::Link, 0o644, target, &[])
    }

    pub(crate) fn whiteout(self, path: &str) -> Self {
        self.file(path, 0o644, &[])
    }

    /// The next entry has this extended attribute.
    pub(crate) fn attribute(mut self, name: &str, value: &[u8]) -> Self {
        let body = [format!(" SCHILY.xattr.{name}=").as_bytes(), value, b"\n"].concat();
        // The length counts itself.
        let digits = (body.len() + 3).to_string().len();
        let record = [(body.len() + digits).to_string().as_bytes(), &body].concat();
        self.append(header("pax", EntryType::XHeader, 0o644, "", record.len()), &record);
        self
    }

    fn entry(mut self, path: &str, kind: EntryType, mode: u32, link: &str, content: &[u8]) -> Self {
        self.append(header(path, kind, mode, link, content.len()), content);
        self
    }

    fn append(&mut self, mut header: Header, content: &[u8]) {
        header.set_cksum();
        self.tar.extend_from_slice(header.as_bytes());
        self.tar.extend_from_slice(content);
        self.tar.resize(self.tar.len().next_multiple_of(512), 0);
    }

    fn finish(&self) -> Vec<u8> {
        [self.tar.as_slice(), &[0; 1024]].concat()
    }
}

/// Names as they are, which `tar::Builder` would refuse.
fn header(path: &str, kind: EntryType, mode: u32, link: &str, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(size as u64);
    let raw = header.as_old_mut();
    raw.name[..path.len()].copy_from_slice(path.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header
}

/// An image layout in a folder that is removed with it.
pub(crate) struct Layout {
    folder: TempDir,
    images: Vec<Descriptor>,
}

/// What an image is to be.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) layers: Vec<Layer>,
    pub(crate) packing: Packing,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) user: String,
    pub(crate) cwd: String,
    pub(crate) stop_signal: Option<String>,
    pub(crate) architecture: Arch,
    /// Wrong on purpose.
    pub(crate) diff_ids: Option<Vec<String>>,
}

impl Recipe {
    /// The test program, doing what the arguments say.
    pub(crate) fn new(args: &[&str]) -> Self {
        let entrypoint = ["/program"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        Self {
            layers: vec![Layer::with_program()],
            packing: Packing::Gzip,
            entrypoint,
            env: vec![],
            user: String::new(),
            cwd: "/".to_owned(),
            stop_signal: None,
            architecture: Arch::default(),
            diff_ids: None,
        }
    }

    pub(crate) fn layer(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }
}

impl Layout {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("xylem-image-").tempdir().unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { folder, images: vec![] }
    }

    /// A layout with one image.
    pub(crate) fn of(recipe: &Recipe) -> Self {
        let mut layout = Self::new();
        layout.add("latest", recipe);
        layout
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What a deployment calls it.
    pub(crate) fn name(&self) -> String {
        format!("oci:{}", self.path().display())
    }

    pub(crate) fn blob(&self, descriptor: &Descriptor) -> PathBuf {
        self.path().join("blobs/sha256").join(descriptor.digest().digest())
    }

    /// Adds an image under a tag, and returns the descriptors of its layers.
    pub(crate) fn add(&mut self, tag: &str, recipe: &Recipe) -> Vec<Descriptor> {
        let (mut layers, mut diff_ids) = (vec![], vec![]);
        for layer in &recipe.layers {
            let tar = layer.finish();
            diff_ids.push(digest(&tar));
            let (media_type, packed) = match recipe.packing {
                Packing::Plain => (MediaType::ImageLayer, tar),
                Packing::Gzip => {
                    let mut encoder = GzEncoder::new(vec![], Compression::fast());
                    encoder.write_all(&tar).unwrap();
                    (MediaType::ImageLayerGzip, encoder.finish().unwrap())
                }
                Packing::Zstd => {
                    (MediaType::ImageLayerZstd, zstd::encode_all(tar.as_slice(), 1).unwrap())
                }
            };
            layers.push(self.put(media_type, &packed));
        }
        let mut config = ConfigBuilder::default()
            .entrypoint(recipe.entrypoint.clone())
            .env(recipe.env.clone())
            .user(recipe.user.clone())
            .working_dir(recipe.cwd.clone());
        if let Some(signal) = &recipe.stop_signal {
            config = config.stop_signal(signal);
        }
        let rootfs = RootFsBuilder::default()
            .typ("layers")
            .diff_ids(recipe.diff_ids.clone().unwrap_or(diff_ids))
            .build()
            .unwrap();
        let config = ImageConfigurationBuilder::default()
            .architecture(recipe.architecture.clone())
            .os(Os::Linux)
            .config(config.build().unwrap())
            .rootfs(rootfs)
            .build()
            .unwrap();
        let config = self.put(MediaType::ImageConfig, config.to_string().unwrap().as_bytes());
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(config)
            .layers(layers.clone())
            .build()
            .unwrap();
        let manifest = self.put(MediaType::ImageManifest, manifest.to_string().unwrap().as_bytes());
        let name =
            HashMap::from([("org.opencontainers.image.ref.name".to_owned(), tag.to_owned())]);
        let manifest = DescriptorBuilder::default()
            .media_type(manifest.media_type().clone())
            .digest(manifest.digest().clone())
            .size(manifest.size())
            .annotations(name)
            .build()
            .unwrap();
        self.images.push(manifest);
        self.write_index();
        layers
    }

    /// The descriptors of the images' manifests.
    pub(crate) fn manifests(&self) -> &[Descriptor] {
        &self.images
    }

    fn put(&self, media_type: MediaType, content: &[u8]) -> Descriptor {
        let digest = digest(content);
        let descriptor = DescriptorBuilder::default()
            .media_type(media_type)
            .digest(digest.parse::<oci_spec::image::Digest>().unwrap())
            .size(content.len() as u64)
            .build()
            .unwrap();
        fs::write(self.blob(&descriptor), content).unwrap();
        descriptor
    }

    fn write_index(&self) {
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .manifests(self.images.clone())
            .build()
            .unwrap();
        fs::write(self.path().join("index.json"), index.to_string().unwrap()).unwrap();
    }

    /// The layout as one tar file beside it.
    pub(crate) fn archive(&self) -> PathBuf {
        let path = self.path().join("archive.tar");
        let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
        for name in ["oci-layout", "index.json"] {
            builder.append_path_with_name(self.path().join(name), name).unwrap();
        }
        builder.append_dir_all("blobs", self.path().join("blobs")).unwrap();
        builder.finish().unwrap();
        path
    }
}

fn digest(content: &[u8]) -> String {
    let digits: String = Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

//! OCI images of one static binary in one layer, without any image tool.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use flate2::{Compression, write::GzEncoder};
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, OciLayoutBuilder, Os, RootFsBuilder, Sha256Digest,
};
use sha2::{Digest, Sha256};
use ureq::http::{Response, StatusCode, header::LOCATION};

/// An image ready to be pushed or written.
#[derive(Clone, Debug)]
pub struct Image {
    config: Vec<u8>,
    /// A gzip-compressed tar archive.
    layer: Vec<u8>,
}

impl Image {
    /// An image that runs `program`, a static binary, as `/{name}`.
    ///
    /// # Errors
    /// If the program cannot be read.
    pub fn of_binary(name: &str, program: &Path) -> Result<Self> {
        let binary = fs::read(program)
            .with_context(|| format!("cannot read the program {}", program.display()))?;
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(binary.len().try_into()?);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        archive.append_data(&mut header, name, binary.as_slice())?;
        let archive = archive.into_inner()?;

        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        std::io::Write::write_all(&mut gzip, &archive)?;
        let root_fs = RootFsBuilder::default()
            .typ("layers")
            .diff_ids([format!("sha256:{}", hex(&archive))])
            .build()?;
        let start = ConfigBuilder::default().entrypoint([format!("/{name}")]).build()?;
        let config = ImageConfigurationBuilder::default()
            .architecture(Arch::default())
            .os(Os::Linux)
            .config(start)
            .rootfs(root_fs)
            .build()?;
        Ok(Self { config: config.to_string()?.into_bytes(), layer: gzip.finish()? })
    }

    /// Digest of its only layer as a registry has it, `sha256:…`.
    pub fn layer_digest(&self) -> String {
        format!("sha256:{}", hex(&self.layer))
    }

    /// Pushes it over plain HTTP to the registry at `host:port`.
    ///
    /// # Errors
    /// If the registry is not there or refuses.
    pub fn push(&self, registry: &str, name: &str, tag: &str) -> Result<()> {
        let base = format!("http://{registry}/v2/{name}");
        let blob = |media_type, content: &[u8]| {
            push_blob(&base, content)?;
            describe(media_type, content)
        };
        let (_, manifest) = self.manifest(blob)?;
        let answer = ureq::put(format!("{base}/manifests/{tag}"))
            .header("Content-Type", MediaType::ImageManifest.to_string())
            .send(&manifest[..]);
        expect_created(answer).with_context(|| format!("cannot push {registry}/{name}:{tag}"))
    }

    /// Writes it as an OCI image layout into `folder`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn write_layout(&self, folder: &Path, tag: &str) -> Result<()> {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("cannot make {}", blobs.display()))?;
        let blob = |media_type, content: &[u8]| {
            fs::write(blobs.join(hex(content)), content)?;
            describe(media_type, content)
        };
        let (mut descriptor, manifest) = self.manifest(blob)?;
        blob(MediaType::ImageManifest, &manifest)?;
        let tag = ("org.opencontainers.image.ref.name".to_owned(), tag.to_owned());
        descriptor.set_annotations(Some([tag].into()));
        let index =
            ImageIndexBuilder::default().schema_version(2u32).manifests([descriptor]).build()?;
        index.to_file(folder.join("index.json"))?;
        let layout = OciLayoutBuilder::default().image_layout_version("1.0.0").build()?;
        layout.to_file(folder.join("oci-layout"))?;
        Ok(())
    }

    /// The manifest, and how others point at it, after `put` has stored what it points at.
    fn manifest(
        &self,
        put: impl Fn(MediaType, &[u8]) -> Result<Descriptor>,
    ) -> Result<(Descriptor, Vec<u8>)> {
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(put(MediaType::ImageConfig, &self.config)?)
            .layers([put(MediaType::ImageLayerGzip, &self.layer)?])
            .build()?;
        let manifest = manifest.to_string()?.into_bytes();
        Ok((describe(MediaType::ImageManifest, &manifest)?, manifest))
    }
}

fn describe(media_type: MediaType, content: &[u8]) -> Result<Descriptor> {
    let digest: Sha256Digest = hex(content).parse()?;
    Ok(Descriptor::new(media_type, content.len().try_into()?, digest))
}

/// Opens an upload, then sends everything to where the registry wants it.
fn push_blob(base: &str, content: &[u8]) -> Result<()> {
    let opened = ureq::post(format!("{base}/blobs/uploads/")).send_empty()?;
    let location = opened.headers().get(LOCATION).context("the registry names no upload")?;
    let location = location.to_str()?;
    let separator = if location.contains('?') { '&' } else { '?' };
    let answer = ureq::put(format!("{location}{separator}digest=sha256:{}", hex(content)))
        .header("Content-Type", "application/octet-stream")
        .send(content);
    expect_created(answer).context("a blob was not taken")
}

fn expect_created(answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<()> {
    match answer?.status() {
        StatusCode::CREATED => Ok(()),
        other => bail!("the registry answered {other}"),
    }
}

fn hex(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use oci_spec::image::{ImageIndex, ImageManifest};

    use super::*;

    #[test]
    fn layout_holds_what_its_index_points_at() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, b"not really a program").unwrap();
        let layout = folder.path().join("layout");

        Image::of_binary("hello", &program).unwrap().write_layout(&layout, "1").unwrap();

        let index = ImageIndex::from_file(layout.join("index.json")).unwrap();
        let blob = |descriptor: &Descriptor| {
            let content = fs::read(layout.join("blobs/sha256").join(descriptor.digest().digest()));
            let content = content.unwrap();
            assert_eq!(hex(&content), descriptor.digest().digest());
            assert_eq!(content.len() as u64, descriptor.size());
            content
        };
        let manifest = ImageManifest::from_reader(&*blob(&index.manifests()[0])).unwrap();
        blob(manifest.config());
        let layer = blob(&manifest.layers()[0]);
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&*layer));
        let names: Vec<_> =
            archive.entries().unwrap().map(|e| e.unwrap().path().unwrap().into_owned()).collect();
        assert_eq!(names, [Path::new("hello")]);
    }
}

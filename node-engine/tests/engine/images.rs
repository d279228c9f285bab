//! Where images come from, what they become on disk, and what is refused.

use std::{
    fs,
    io::ErrorKind::DirectoryNotEmpty,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Once,
    time::{Duration, Instant},
};

use node_engine::image::{Images, registry::RegistryOptions};
use oci_spec::image::Arch;
use tempfile::TempDir;
use xattr::FileExt;
use xylem_daemon::Chain;
use xylem_types::instance::InstanceStatus;

use crate::support::{
    cluster::TestCluster,
    image::{Layer, Layout, Packing, Recipe},
    need_root,
    registry::{Registry, free_port},
    worker::{Worker, deployment},
};

/// An image store of its own.
struct Store {
    folder: TempDir,
    images: Images,
}

impl Store {
    fn new() -> Self {
        Self::prepared(|_| {})
    }

    /// `prepare` gets the folder before the store is made in it.
    fn prepared(prepare: impl FnOnce(&Path)) -> Self {
        need_root();
        static TLS: Once = Once::new();
        TLS.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
        let folder = tempfile::Builder::new().prefix("xylem-store-").tempdir().unwrap();
        prepare(folder.path());
        let options = RegistryOptions { insecure: vec![], plain_http_fallback: true };
        let images = Images::open(folder.path().join("content"), options).unwrap();
        Self { folder, images }
    }

    /// The trees of the image's layers, lowest first.
    async fn trees(&self, image: &str) -> Vec<PathBuf> {
        let image = self.images.prepare(image).await.map_err(|e| Chain(&e).to_string()).unwrap();
        let folder = self.images.layers_folder();
        image.layers.iter().map(|layer| folder.join(layer.folder_name()).join("fs")).collect()
    }

    async fn error(&self, image: &str) -> String {
        Chain(&self.images.prepare(image).await.unwrap_err()).to_string()
    }

    /// Names in a folder of the store.
    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("content").join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Unpacked layers; there is one file beside them.
    fn layers(&self) -> usize {
        self.names("layers").len() - 1
    }
}

impl Drop for Store {
    #[expect(clippy::disallowed_methods, reason = "between two attempts to remove a folder")]
    fn drop(&mut self) {
        // Layers are still being marked as written back.
        for _ in 0..500 {
            match fs::remove_dir_all(self.folder.path()) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                _ => return,
            }
        }
    }
}

fn small(layers: Vec<Layer>) -> Recipe {
    Recipe { layers, ..Recipe::new(&[]) }
}

#[tokio::test]
async fn an_image_is_found_in_a_layout_an_archive_and_a_registry() {
    let layer = || Layer::default().file("here", 0o644, b"content");
    let registry = Registry::start().await;
    let layout = Layout::of(&small(vec![layer()]));
    let names = [
        layout.name(),
        format!("{}:latest", layout.name()),
        format!("oci-archive:{}", layout.archive().display()),
        format!("oci-archive:{}:latest", layout.archive().display()),
        registry.push("web", &layout).await,
    ];
    for name in names {
        let store = Store::new();
        let trees = store.trees(&name).await;
        assert_eq!(fs::read(trees[0].join("here")).unwrap(), b"content", "{name}");
        assert_eq!(store.names("tmp"), [""; 0]);
    }
}

#[tokio::test]
async fn a_registry_that_is_away_is_not_needed_for_what_is_known() {
    let registry = Registry::start().await;
    let layout = Layout::of(&small(vec![Layer::default().file("a", 0o644, b"a")]));
    let name = registry.push("web", &layout).await;
    let pinned = format!("{}@{}", name.trim_end_matches(":v1"), layout.manifests()[0].digest());
    let store = Store::new();
    let trees = store.trees(&name).await;
    let port = registry.port();
    drop(registry);
    assert_eq!(store.trees(&name).await, trees);
    assert_eq!(store.trees(&pinned).await, trees);
    let error = store.error(&format!("127.0.0.1:{port}/other:v1")).await;
    assert!(error.contains("cannot be reached") && error.contains("Connection refused"), "{error}");
}

#[tokio::test]
async fn every_packing_unpacks_to_the_same_and_equal_layers_are_shared() {
    let layer = || Layer::default().folder("d", 0o750).file("d/f", 0o640, &[7; 300_000]);
    let store = Store::new();
    let mut seen = vec![];
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let layout = Layout::of(&Recipe { packing, ..small(vec![layer()]) });
        let trees = store.trees(&layout.name()).await;
        assert_eq!(fs::read(trees[0].join("d/f")).unwrap(), [7; 300_000]);
        seen.push(trees);
    }
    assert!(seen.iter().all(|trees| *trees == seen[0]));
    assert_eq!(store.layers(), 1);

    // The same layer on top of another is another.
    let below = Layer::default().file("x", 0o644, b"x");
    let layout = Layout::of(&small(vec![below, layer()]));
    assert_ne!(store.trees(&layout.name()).await[1], seen[0][0]);
}

#[tokio::test]
async fn files_keep_what_they_are() {
    let layer = Layer::default()
        .folder("etc", 0o755)
        .owned_file("etc/secret", 0o600, 1234, 5678)
        .file("bin/tool", 0o4755, b"#!")
        .hard_link("bin/same", "bin/tool")
        .symlink("bin/link", "/etc/secret")
        .attribute("user.colour", b"green")
        .file("marked", 0o644, b"")
        .attribute("trusted.overlay.opaque", b"y")
        .folder("spoofed", 0o755);
    let store = Store::new();
    let tree = store.trees(&Layout::of(&small(vec![layer])).name()).await.remove(0);
    let secret = fs::metadata(tree.join("etc/secret")).unwrap();
    assert_eq!((secret.uid(), secret.gid(), secret.mode() & 0o7777), (1234, 5678, 0o600));
    assert_eq!(secret.mtime(), 1_000_000_000);
    let tool = fs::metadata(tree.join("bin/tool")).unwrap();
    assert_eq!(tool.permissions().mode() & 0o7777, 0o4755);
    assert_eq!(fs::metadata(tree.join("bin/same")).unwrap().ino(), tool.ino());
    assert_eq!(fs::read_link(tree.join("bin/link")).unwrap(), Path::new("/etc/secret"));
    let marked = fs::File::open(tree.join("marked")).unwrap();
    assert_eq!(marked.get_xattr("user.colour").unwrap().as_deref(), Some(&b"green"[..]));
    let spoofed = fs::File::open(tree.join("spoofed")).unwrap();
    assert_eq!(spoofed.get_xattr("trusted.overlay.opaque").unwrap(), None);
}

#[tokio::test]
async fn whiteouts_become_those_of_overlayfs() {
    let below = Layer::default().folder("kept", 0o700).file("kept/gone", 0o644, b"").file(
        "opaque/gone",
        0o644,
        b"",
    );
    let above = Layer::default().whiteout("kept/.wh.gone").whiteout("opaque/.wh..wh..opq").file(
        "opaque/new",
        0o644,
        b"",
    );
    let store = Store::new();
    let trees = store.trees(&Layout::of(&small(vec![below, above])).name()).await;
    let whiteout = fs::symlink_metadata(trees[1].join("kept/gone")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    let kept = fs::metadata(trees[1].join("kept")).unwrap();
    assert_eq!(kept.mode() & 0o7777, 0o700, "a folder only passed through looks as it did below");
    let opaque = fs::File::open(trees[1].join("opaque")).unwrap();
    assert_eq!(opaque.get_xattr("trusted.overlay.opaque").unwrap().as_deref(), Some(&b"y"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_sees_the_layers_as_one() {
    let below = Layer::default()
        .file("a/gone", 0o644, b"")
        .file("a/kept", 0o644, b"")
        .file("b/gone", 0o644, b"")
        .file("c", 0o644, b"old");
    // More folders than the engine may have files open.
    let below = (0..1000).fold(below, |layer, n| layer.folder(&format!("many/{n}"), 0o755));
    let above = Layer::default()
        .whiteout("a/.wh.gone")
        .whiteout("b/.wh..wh..opq")
        .file("b/new", 0o644, b"")
        .file("c", 0o644, b"new");
    let recipe =
        Recipe::new(&["list=/a", "list=/b", "read=/c", "write=/a/mine", "list=/a", "sleep"])
            .layer(below)
            .layer(above);
    let (cluster, layout) = (TestCluster::start().await, Layout::of(&recipe));
    let worker = Worker::start(&cluster);
    let web = deployment("web", &layout.name());
    cluster.deploy(&web).await;
    let output = worker.printed(&web, "mine").await;
    assert_eq!(output, "/a: [kept]\n/b: [new]\n/c: new\nwrite /a/mine: Ok(())\n/a: [kept mine]\n");
    cluster.delete(&web).await;
    worker.nothing_left().await;
}

#[tokio::test]
async fn what_would_leave_the_image_is_refused_and_nothing_is_written() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    let out = outside.path().display().to_string();
    let file = |path: &str| Layer::default().file(path, 0o644, b"evil");
    let up = format!("../../../../../../../..{out}/victim");
    let cases = [
        ("parent", file("../../etc/x"), "leads out of the image"),
        ("far parent", file(&up), "leads out of the image"),
        ("inner parent", file("a/../../x"), "leads out of the image"),
        ("absolute", file(&victim.display().to_string()), "leads out of the image"),
        (
            "absolute link",
            Layer::default().symlink("l", &out).file("l/victim", 0o644, b"evil"),
            "symbolic link",
        ),
        (
            "relative link",
            Layer::default()
                .symlink("l", &format!("../../../../../../../..{out}"))
                .file("l/victim", 0o644, b"evil"),
            "symbolic link",
        ),
        (
            "link to link",
            Layer::default().symlink("l", &out).symlink("m", "l").file("m/victim", 0o644, b"evil"),
            "symbolic link",
        ),
        ("hard link out", Layer::default().hard_link("h", &up), "leads out of the image"),
        (
            "absolute hard link",
            Layer::default().hard_link("h", &victim.display().to_string()),
            "leads out of the image",
        ),
        (
            "hard link through link",
            Layer::default().symlink("l", &out).hard_link("h", "l/victim"),
            "leads out of the image",
        ),
        ("hard link to nothing", Layer::default().hard_link("h", "absent"), "does not have"),
        ("below a file", file("f").file("f/g", 0o644, b""), "no directory"),
        ("whiteout of parent", Layer::default().whiteout("a/.wh..."), "whiteout"),
    ];
    let store = Store::new();
    for (name, layer, expected) in cases {
        let error = store.error(&Layout::of(&small(vec![layer])).name()).await;
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!((store.layers(), store.names("tmp")), (0, vec![]), "{name} left something");
    }
    // A file in the place of a link takes its place and does not follow it.
    let layer = Layer::default().symlink("l", &victim.display().to_string()).file("l", 0o644, b"x");
    let trees = store.trees(&Layout::of(&small(vec![layer])).name()).await;
    assert!(fs::symlink_metadata(trees[0].join("l")).unwrap().is_file());
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);

    // A link inside the image may be followed.
    let layer = Layer::default()
        .folder("usr/lib", 0o755)
        .symlink("lib", "usr/lib")
        .file("lib/so", 0o644, b"");
    let trees = store.trees(&Layout::of(&small(vec![layer])).name()).await;
    assert!(trees[0].join("usr/lib/so").exists());
}

#[tokio::test]
async fn a_damaged_image_is_refused_and_not_kept() {
    let store = Store::new();
    let recipe = small(vec![Layer::default().file("a", 0o644, &[1; 10_000])]);

    let mut layout = Layout::new();
    let layer = layout.add("latest", &recipe).remove(0);
    let good = fs::read(layout.blob(&layer)).unwrap();
    fs::write(layout.blob(&layer), [&good[..20], &[0; 20], &good[40..]].concat()).unwrap();
    let error = store.error(&layout.name()).await;
    assert!(error.contains("is corrupt"), "{error}");
    fs::write(layout.blob(&layer), &good[..good.len() / 2]).unwrap();
    let error = store.error(&layout.name()).await;
    assert!(error.contains("is corrupt"), "{error}");
    fs::remove_file(layout.blob(&layer)).unwrap();
    let error = store.error(&layout.name()).await;
    assert!(error.contains("has no blobs/sha256/"), "{error}");
    assert_eq!(store.layers(), 0);
    fs::write(layout.blob(&layer), good).unwrap();
    let tree = store.trees(&layout.name()).await.remove(0);

    // A blob that the disk damaged is fetched anew once that was found out.
    // The kernel has once said that the folder was not empty; nothing was known to write there.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = fs::remove_dir_all(tree.parent().unwrap()) {
        assert!(error.kind() == DirectoryNotEmpty && Instant::now() < deadline, "{error}");
    }
    let kept = store.folder.path().join("content/blobs").join(layer.digest().digest());
    fs::write(kept, b"\x1f\x8b damaged").unwrap();
    let error = store.error(&layout.name()).await;
    assert!(error.contains("cannot be unpacked"), "{error}");
    store.trees(&layout.name()).await;

    let other = small(vec![Layer::default().file("b", 0o644, &[2; 10_000])]);
    let wrong = format!("sha256:{}", "0".repeat(64));
    let liar = Layout::of(&Recipe { diff_ids: Some(vec![wrong]), ..other.clone() });
    let error = store.error(&liar.name()).await;
    assert!(error.contains("the image says that its content is sha256:0000"), "{error}");

    let few = Layout::of(&Recipe { diff_ids: Some(vec![]), ..other.clone() });
    assert!(store.error(&few.name()).await.contains("1 layers and 0 diff ids"));

    let foreign = Layout::of(&Recipe { architecture: Arch::s390x, ..other });
    let error = store.error(&foreign.name()).await;
    assert!(error.contains("it is for: linux/s390x"), "{error}");

    let mut text = Layout::new();
    text.add("latest", &recipe);
    fs::write(text.path().join("index.json"), "{").unwrap();
    assert!(store.error(&text.name()).await.contains("not a valid image index"));
    let error = store.error("oci:/nowhere/at/all").await;
    assert!(error.contains("is it an OCI image layout?"), "{error}");
    let layout = Layout::of(&recipe);
    let error = store.error(&format!("{}:other", layout.name())).await;
    assert!(error.contains("no image tagged \"other\"; it has: latest"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_fails_the_instance_with_the_cause_and_leaves_nothing() {
    let registry = Registry::start().await;
    let layout = Layout::of(&Recipe::new(&["sleep"]));
    let name = registry.push("web", &layout).await;
    let at = |rest: &str| format!("127.0.0.1:{}/{rest}", registry.port());

    // Layers that the registry has, but not whole, or has not.
    let mut broken = Layout::new();
    let recipe = Recipe::new(&["sleep"]).layer(Layer::default().file("b", 0o644, b"b"));
    let layer = broken.add("latest", &recipe).remove(1);
    let broken_name = registry.push("broken", &broken).await;
    fs::write(registry.blob(layer.digest().digest()), b"not the layer").unwrap();
    let mut missing = Layout::new();
    let recipe = Recipe::new(&["sleep"]).layer(Layer::default().file("m", 0o644, b"m"));
    let gone = missing.add("latest", &recipe).remove(1);
    let missing_name = registry.push("missing", &missing).await;
    fs::remove_file(registry.blob(gone.digest().digest())).unwrap();

    let cluster = TestCluster::start().await;
    let worker = Worker::start(&cluster);
    let nobody = format!("127.0.0.1:{}/web:v1", free_port());
    let cases = [
        ("unknown", at("absent:v1"), "has no"),
        ("untagged", at("web:v2"), "has no"),
        ("unreachable", nobody, "cannot be reached"),
        ("broken", broken_name, "blob sha256:"),
        ("missing", missing_name, "has no blob"),
        ("nonsense", "UPPER CASE".to_owned(), "is not a reference"),
        ("nowhere", "oci:/nowhere".to_owned(), "is it an OCI image layout?"),
    ];
    for (job, image, expected) in cases {
        let command = deployment(job, &image);
        cluster.deploy(&command).await;
        let report = cluster.reported(&command, InstanceStatus::Failed).await;
        assert!(report.status_detail.contains(expected), "{job}: {}", report.status_detail);
        cluster.delete(&command).await;
        cluster.reported(&command, InstanceStatus::Undeployed).await;
    }
    let fine = deployment("fine", &name);
    cluster.deploy(&fine).await;
    cluster.reported(&fine, InstanceStatus::Running).await;
    cluster.delete(&fine).await;
    cluster.reported(&fine, InstanceStatus::Undeployed).await;
    worker.nothing_left().await;
    let temporary = fs::read_dir(worker.state().join("content/tmp")).unwrap();
    assert_eq!(temporary.count(), 0);
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_nothing() {
    use nix::{
        errno::Errno,
        mount::{MsFlags, mount, umount},
    };
    let store = Store::prepared(|folder| {
        let size = Some("size=1m");
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), size).unwrap();
    });
    let mut noise = vec![0u8; 3_000_000];
    let mut state = 1u32;
    noise.iter_mut().for_each(|byte| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_be_bytes()[0];
    });
    let layout = Layout::of(&small(vec![Layer::default().file("big", 0o644, &noise)]));
    let error = store.error(&layout.name()).await;
    let left = store.names("tmp").len() + store.names("blobs").len();
    // A file that was not written to its end is closed a moment later, by a thread of its own.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = umount(store.folder.path()) {
        assert!(error == Errno::EBUSY && Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(error.contains("No space left on device"), "{error}");
    assert_eq!(left, 2, "only the manifest and the configuration");
}

#[tokio::test]
async fn what_nobody_uses_goes_after_a_while() {
    let store = Store::new();
    let image =
        |name: &str| Layout::of(&small(vec![Layer::default().file(name, 0o644, name.as_bytes())]));
    let (used, unused) = (image("used"), image("unused"));
    let needs = store.images.prepare(&used.name()).await.unwrap().needs;
    store.trees(&unused.name()).await;
    assert_eq!((store.layers(), store.names("blobs").len()), (2, 6));

    let hour = Duration::from_secs(3600);
    assert_eq!(store.images.sweep(&[], hour).await.unwrap(), 0, "nothing is that old");
    let removed = store.images.sweep(&[needs], Duration::ZERO).await.unwrap();
    assert_eq!((removed, store.layers(), store.names("blobs").len()), (4, 1, 3));
    assert_eq!(store.names("tmp"), [""; 0]);
    let (used_name, unused_name) = (used.name(), unused.name());
    drop(used);
    assert!(store.error(&used_name).await.contains("layout"), "a layout is asked each time");
    store.trees(&unused_name).await;
    assert_eq!(store.layers(), 2, "what went is fetched anew");
}

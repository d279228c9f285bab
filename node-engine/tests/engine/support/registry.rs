//! A real registry: Debian's `docker-registry`, on loopback.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::{eventually, image::Layout};

pub(crate) struct Registry {
    process: Child,
    port: u16,
    _folder: TempDir,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("xylem-registry-").tempdir().unwrap();
        let port = free_port();
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
             http: {{addr: 127.0.0.1:{port}}}\n",
            folder.path().join("data").display()
        );
        fs::write(&config, text).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(folder.path().join("log")).unwrap())
            .spawn()
            .expect("docker-registry is missing: `apt-get install docker-registry`");
        let registry = Self { process, port, _folder: folder };
        eventually("the registry to listen", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        registry
    }

    /// Pushes the layout's only image, and returns what a deployment calls it.
    pub(crate) async fn push(&self, name: &str, layout: &Layout) -> String {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!("http://127.0.0.1:{}/v2/{name}", self.port);
        for entry in fs::read_dir(layout.path().join("blobs/sha256")).unwrap() {
            let path = entry.unwrap().path();
            let digits = path.file_name().unwrap().to_str().unwrap().to_owned();
            let begun = client.post(format!("{base}/blobs/uploads/")).send().await.unwrap();
            let location = begun.headers()["location"].to_str().unwrap().to_owned();
            let joint = if location.contains('?') { '&' } else { '?' };
            let url = format!("{location}{joint}digest=sha256:{digits}");
            let done = client.put(url).body(fs::read(&path).unwrap()).send().await.unwrap();
            assert!(done.status().is_success(), "{done:?}");
        }
        let manifest = fs::read(layout.blob(&layout.manifests()[0])).unwrap();
        let done = client
            .put(format!("{base}/manifests/v1"))
            .header("content-type", "application/vnd.oci.image.manifest.v1+json")
            .body(manifest)
            .send()
            .await
            .unwrap();
        assert!(done.status().is_success(), "{done:?}");
        format!("127.0.0.1:{}/{name}:v1", self.port)
    }

    /// Where the registry keeps a blob, to damage it.
    pub(crate) fn blob(&self, digits: &str) -> std::path::PathBuf {
        self._folder
            .path()
            .join("data/docker/registry/v2/blobs/sha256")
            .join(&digits[..2])
            .join(digits)
            .join("data")
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

use std::{
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{Cluster, Done};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Root {
    address: SocketAddr,
    folder: TempDir,
    runtime: Runtime,
    shutdown: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl Root {
    /// A new root with the user Admin, whose password is `secret`.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = Runtime::new().unwrap();
        let shutdown = CancellationToken::new();
        let config = xylem_root::Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data_dir: folder.path().join("root"),
            // One report of resources is enough for a test.
            cluster_stale_after: Duration::from_secs(3_600),
            admin_password: Some("secret".to_owned()),
        };
        std::fs::create_dir(&config.data_dir).unwrap();
        let (address, serving) = runtime.block_on(async {
            let root = xylem_root::Root::open(&config).await.unwrap();
            let listener = TcpListener::bind(config.listen).await.unwrap();
            let address = listener.local_addr().unwrap();
            let ending = shutdown.clone();
            let serving = tokio::spawn(async move { root.serve(listener, ending).await.unwrap() });
            (address, serving)
        });
        Self { address, folder, runtime, shutdown, serving: Some(serving) }
    }

    /// A root where `xylem` has logged in.
    pub(crate) fn logged_in() -> Self {
        let root = Self::start();
        root.xylem_with_input(&["login", "--user", "Admin", "--password-stdin"], "secret\n").ok();
        root
    }

    /// Connects a cluster, and waits until the root gives it work.
    pub(crate) fn connect_cluster(&self, name: &str) -> Cluster {
        let cluster = self.runtime.block_on(Cluster::connect(self.address, name));
        self.wait_until("the cluster is active", || {
            self.xylem(&["cluster", "list", "--active"]).ok().contains(name)
        });
        cluster
    }

    pub(crate) fn config_file(&self) -> PathBuf {
        self.folder.path().join("person/config.toml")
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Makes an empty folder.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    }

    /// Runs `xylem` against this root, with nobody at a terminal.
    pub(crate) fn xylem(&self, arguments: &[&str]) -> Done {
        self.xylem_with_input(arguments, "")
    }

    pub(crate) fn xylem_with_input(&self, arguments: &[&str], input: &str) -> Done {
        let mut child = Command::new(env!("CARGO_BIN_EXE_xylem"))
            .args(arguments)
            .env_clear()
            .env("XYLEM_ROOT_URL", self.address.to_string())
            .env("XYLEM_CONFIG", self.config_file())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may have ended by now.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        Done::of(child.wait_with_output().unwrap())
    }

    #[track_caller]
    pub(crate) fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < deadline, "not after {PATIENCE:?}: {what}");
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(serving) = self.serving.take() {
            let ended = self.runtime.block_on(serving);
            // A failed test says what failed; another panic here would hide it.
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}
